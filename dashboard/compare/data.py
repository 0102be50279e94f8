"""The data of the player for one prompt and seed. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboard.loaders import Converged, PagePicture
from engine.analysis.differences import Differences
from engine.analysis.outcomes import StudyCell, StudyLane
from engine.display import html, theme
from engine.display.formats import cut, duration, known, when, whole
from engine.results import Results
from engine.study.schedulers import SCHEDULERS

KIND_NAMES = {"x0": "clean estimate", "xt": "noisy image", "both": "noisy image and clean estimate"}
ALT_PROMPT_CHARACTERS = 120
PROMPT_CHARACTERS = 400
_TIME_NOTE = "How far each lane gets in the same time (text encoding and denoiser calls, without decoding); "


@dataclass(frozen=True)
class LaneTime:
    """Measured times of a lane: medians in milliseconds for the whole batch.

    Attributes:
        total: The whole pipeline call.
        n: Samples.
        before: Until the first denoiser call (text encoding).
        denoising: All denoiser calls with their scheduler steps.
    """

    total: float
    n: int
    before: float
    denoising: float

    def until(self, progress: float) -> float | None:
        """Milliseconds until this share of the calls is done, without decoding; None if the stages are unknown."""
        return self.before + progress * self.denoising if known(self.denoising) else None

    def __str__(self) -> str:
        """E.g. "812 ms (n 5)"."""
        return f"{duration(self.total)} (n {self.n})"


@dataclass(frozen=True)
class CompareScene:
    """One prompt and seed of a study, with its pictures and times.

    Attributes:
        study: The study.
        prompt: One of its prompts.
        seed: One of its seeds.
        kind: "x0", "xt", or "both": the noisy image above the clean estimate of each step.
        pictures: Frames of this kind and final pictures, step by step.
        times: Times by lane key.
        converged: The converged solution, if the study has one.
        notes: Lines under the pictures: n, environment, date.
        timed: Where and when the times were measured (`time_line`).
    """

    study: Results
    prompt: str
    seed: int
    kind: str
    pictures: Sequence[PagePicture]
    times: Mapping[str, LaneTime]
    converged: Converged | None
    notes: Sequence[str]
    timed: str = ""

    def cell(self, lane: StudyLane) -> StudyCell:
        """The cell of a lane."""
        return self.study.cell(lane.key, self.prompt, self.seed)


def lane_times(table: pd.DataFrame) -> dict[str, LaneTime]:
    """Times by lane, from the timing summaries of one environment and batch size (`Results.timings`)."""
    return {
        row.lane: LaneTime(
            row.median_ms,
            int(row.n),
            row.text_ms if known(row.text_ms) else 0.0,
            row.denoiser_ms + (row.scheduler_ms if known(row.scheduler_ms) else 0.0),
        )
        for row in table.itertuples()
    }


def time_line(table: pd.DataFrame) -> str:
    """Where and when the times were measured."""
    if table.empty:
        return ""
    batch, device = int(table["batch_size"].iloc[0]), table["device_name"].iloc[0]
    return f"medians for a batch of {batch} on {device}, {when(table['last_at'].max())}"


def payload(scene: CompareScene) -> dict[str, Any]:
    """The data for the browser: for each lane its frames in order and final picture, or why there are none."""
    numbers = sorted({picture.video_frame for picture in scene.pictures}) or [0]
    by_cell: dict[str, list[PagePicture]] = {}
    for picture in scene.pictures:
        by_cell.setdefault(picture.trajectory_id, []).append(picture)
    rows = [_lane(lane, by_cell.get(scene.cell(lane).trajectory_id, []), numbers, scene) for lane in scene.study.lanes]
    width, height = next(((picture.width, picture.height) for picture in scene.pictures), (1, 1))
    return {
        "lanes": rows,
        "kind": KIND_NAMES[scene.kind],
        "study": scene.study.id,
        "prompt": cut(scene.prompt, PROMPT_CHARACTERS),
        "seed": scene.seed,
        "subject": f"'{cut(scene.prompt, ALT_PROMPT_CHARACTERS)}', seed {scene.seed}",
        "file": _file_name(scene),
        "notes": list(scene.notes),
        "width": width,
        "height": height,
        "small": 1 < width < html.SMALL_PIXELS,
        "videoFrames": numbers,
        "against": _against(scene, rows),
        "converged": _converged(scene.converged, numbers),
        "noNoise": "" if _all_frames(rows, "logSnr") else "Not every frame has a known noise level",
        "noTime": _why_no_time(rows),
        "timeNote": _TIME_NOTE + scene.timed,
    }


def _lane(lane: StudyLane, own: Sequence[PagePicture], numbers: Sequence[int], scene: CompareScene) -> dict[str, Any]:
    look, time = theme.look(lane.scheduler), scene.times.get(lane.key)
    clean, noisy = _by_step(own, "x0"), _by_step(own, "xt")
    steps = noisy if scene.kind == "xt" or not clean else clean
    frames = [_frame(pictures, numbers, lane, time) for pictures in steps.values()]
    if scene.kind == "both" and clean:
        for frame, index in zip(frames, steps, strict=True):
            frame["noisy"] = _sources(noisy[index], numbers) if index in noisy else None
    finals = [picture for picture in own if picture.kind == "final"]
    known_scheduler = SCHEDULERS.get(lane.scheduler)
    return {
        "label": lane.label,
        "colour": look.colour,
        "glyph": look.glyph,
        "baseline": lane.key == scene.study.baseline,
        "facts": [f"{lane.steps} steps", f"NFE {whole(lane.nfe)}", str(time) if time else "not timed"],
        "drawsNoise": known_scheduler is not None and known_scheduler.stochastic,
        "frames": frames,
        "final": _sources(finals, numbers) if finals else None,
        "why": _why(scene.cell(lane), frames, scene.kind),
    }


def _by_step(pictures: Sequence[PagePicture], kind: str) -> dict[int, list[PagePicture]]:
    steps: dict[int, list[PagePicture]] = {}
    for picture in pictures:
        if picture.kind == kind:
            steps.setdefault(picture.step_index, []).append(picture)
    return steps


def farthest_pair(study: Results, prompt: str, seed: int, found: Differences) -> list[int]:
    """Indices of the two lanes to compare first: the baseline and the lane farthest from it."""
    keys = [lane.key for lane in study.lanes]
    base = keys.index(study.baseline) if study.baseline in keys else 0
    table = found.table
    here = table[(table["prompt"] == prompt) & (table["seed"] == seed) & table["lane"].isin(keys)]
    if len(here):
        return [base, keys.index(str(here.loc[here["distance"].idxmax(), "lane"]))]
    return [base, next((place for place in range(len(keys)) if place != base), base)]


def _frame(
    pictures: Sequence[PagePicture], numbers: Sequence[int], lane: StudyLane, time: LaneTime | None
) -> dict[str, Any]:
    first = pictures[0]
    return {
        **_sources(pictures, numbers),
        "step": first.step_index + 1,
        "calls": lane.nfe or lane.steps,
        "progress": first.progress,
        "timestep": first.timestep,
        "logSnr": first.log_snr if known(first.log_snr) else None,
        "ms": time.until(first.progress) if time else None,
    }


def _sources(pictures: Sequence[PagePicture], numbers: Sequence[int]) -> dict[str, Any]:
    """The pictures of all video frames; a missing one is replaced by the first."""
    by_number = {picture.video_frame: picture.source for picture in pictures}
    first = by_number.get(numbers[0], pictures[0].source)
    return {"src": first, "more": [by_number.get(number, first) for number in numbers[1:]]}


def _why(cell: StudyCell, frames: Sequence[object], kind: str) -> str:
    if cell.state != "done":
        return cut(cell.reason, 400)
    return (
        ""
        if frames
        else f"No {KIND_NAMES[kind]} was recorded (see [frames] in the study), or more than this page can carry"
    )


def _against(scene: CompareScene, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The pictures to compare with: key, label, and why it is not possible ("" if it is)."""
    baseline = next((row for row in rows if row["baseline"]), None)
    none_converged = "not in the cache" if scene.converged else "the study has none"
    return [
        {
            "key": "baseline",
            "label": f"the baseline, {baseline['label']}" if baseline else "the baseline",
            "why": "" if baseline and (baseline["frames"] or baseline["final"]) else "no picture",
        },
        {
            "key": "final",
            "label": "its own final image",
            "why": "" if any(row["final"] for row in rows) else "no picture",
        },
        {
            "key": "reference",
            "label": "the converged reference",
            "why": "" if scene.converged and scene.converged.pictures else none_converged,
        },
    ]


def _converged(found: Converged | None, numbers: Sequence[int]) -> dict[str, Any] | None:
    if found is None or not found.pictures:
        return None
    apart = f"{found.lane} and {found.check} differ by {found.distance:.2g} (relative L2 of their latents"
    note = f"{apart}, tolerance {found.tolerance:g})" if known(found.distance) else "its check is missing"
    if not found.agrees:
        note += ": they do not agree, so this prompt and seed has no ground truth"
    note += ". Lanes that draw noise are not expected to come close to it"
    return {
        **_sources(found.pictures, numbers),
        "label": "Converged reference",
        "caption": f"Final image of {found.lane}",
        "note": note,
    }


def _all_frames(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    frames = [frame for row in rows for frame in row["frames"]]
    return bool(frames) and all(frame[key] is not None for frame in frames)


def _why_no_time(rows: Sequence[Mapping[str, Any]]) -> str:
    untimed = [row["label"] for row in rows if any(frame["ms"] is None for frame in row["frames"])]
    if untimed:
        return f"Not timed: {cut(', '.join(untimed), 200)}"
    return "" if any(row["frames"] for row in rows) else "There are no frames"


def _file_name(scene: CompareScene) -> str:
    words = re.findall(r"[A-Za-z0-9]+", f"{scene.study.id} {scene.prompt[:60]}")
    return "-".join([*words, f"seed{scene.seed}", scene.kind])
