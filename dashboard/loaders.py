"""What the pages ask of the cache (see `asking`): studies, their results and pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dashboard.asking import Answer, Problem, ask
from dashboard.images import data_uri
from dashboard.studies import Progress, StudyData
from engine.analysis.cost import Preset, PriceError, load_presets
from engine.cache import queries, score_tables
from engine.cache.connection import Connection
from engine.paths import DATA

GPU_PRICES = DATA / "gpu_prices.toml"
VIDEO_BYTES = 24 * 2**20


@dataclass(frozen=True)
class Picture:
    """A frame of a trajectory, ready for a page."""

    trajectory_id: str
    kind: str
    step_index: int
    progress: float
    timestep: float | None
    log_snr: float | None
    width: int
    height: int
    source: str
    video_frame: int = 0


@dataclass(frozen=True)
class Converged:
    """The converged solution of a prompt and seed (see the table `study_references`), with its final pictures.

    Attributes:
        lane: Key of the lane that computed it.
        check: Key of the lane that must agree with it.
        distance: Relative L2 distance between the latents of both; NaN if one of them is missing.
        tolerance: Largest distance that counts as agreement.
    """

    lane: str
    check: str
    distance: float
    tolerance: float
    pictures: tuple[Picture, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether it can be taken as the true solution."""
        return self.distance <= self.tolerance


def catalogue(path: Path) -> Answer[pd.DataFrame] | Problem:
    """All studies, the last run first (`queries.studies`)."""
    if path.is_file() and path.stat().st_size == 0:
        return Problem("empty", "The cache is empty", f"{path} holds nothing yet. {_RUN_ONE.format(path=path)}")
    answer = ask(path, queries.studies)
    if isinstance(answer, Answer) and answer.value.empty:
        return Problem("empty", "No study has been run yet", f"{path} holds no study. {_RUN_ONE.format(path=path)}")
    return answer


def study(path: Path, study_id: str) -> Answer[StudyData] | Problem:
    """All about a study except its pictures."""
    return ask(path, _study, study_id)


def progress(path: Path, study_id: str) -> Answer[Progress] | Problem:
    """How far a study is."""
    return ask(path, _progress, study_id)


def pictures(
    path: Path, trajectory_ids: list[str], kinds: list[str], *, whole_videos: bool = False
) -> Answer[list[Picture]] | Problem:
    """Pictures of trajectories, step by step; those that are no pictures are left out.

    Of videos it is the first frame, or with `whole_videos` every frame; every second, third, ... if they would be more
    than a page can carry.
    """
    return ask(path, _pictures, tuple(trajectory_ids), tuple(kinds), whole_videos)


def converged(path: Path, study_id: str, prompt: str, seed: int) -> Answer[Converged | None] | Problem:
    """The converged solution of a prompt and seed; None if the study has none."""
    return ask(path, _converged, study_id, prompt, seed)


def gpu_prices() -> Answer[list[Preset]] | Problem:
    """The prices of GPUs to choose from, in the order of their file."""
    try:
        return Answer(load_presets(GPU_PRICES))
    except PriceError as error:
        return Problem("unreadable", "The GPU prices cannot be read", str(error))


_RUN_ONE = "`python -m engine run quickstart --cache {path}` fills it; this page shows it as soon as it is there."


def _study(db: Connection, study_id: str) -> StudyData:
    spec = queries.spec(db, study_id)
    return StudyData(
        spec=spec if isinstance(spec, dict) else {},
        cells=queries.cells(db, study_id),
        missing=queries.missing_cells(db, study_id),
        timings=queries.timings(db, study_id),
        environments=queries.environments(db, study_id),
        models=queries.models(db, study_id),
    )


def _progress(db: Connection, study_id: str) -> Progress:
    done, failed, missing, samples = queries.progress(db, study_id)
    return Progress(done, failed, missing, samples)


def _pictures(db: Connection, ids: tuple[str, ...], kinds: tuple[str, ...], whole_videos: bool) -> list[Picture]:
    frames = queries.frames(db, ids, kinds)
    every = 1 + int(frames["image"].map(len).sum()) // VIDEO_BYTES
    kept = frames["video_frame"] % every == 0 if whole_videos else frames["video_frame"] == 0
    found = []
    for row in frames[kept].itertuples():
        source = data_uri(bytes(row.image))
        if source is not None:
            found.append(
                Picture(
                    row.trajectory_id,
                    row.kind,
                    int(row.step_index),
                    float(row.progress),
                    _number(row.timestep),
                    _number(row.log_snr),
                    int(row.width),
                    int(row.height),
                    source,
                    int(row.video_frame),
                )
            )
    return found


def _converged(db: Connection, study_id: str, prompt: str, seed: int) -> Converged | None:
    table = score_tables.references(db, study_id)
    for row in table[(table["prompt"] == prompt) & (table["seed"] == seed)].itertuples():
        pictures = _pictures(db, (row.reference_id,), ("final",), True)
        return Converged(row.reference, str(row.check), float(row.distance), float(row.tolerance), tuple(pictures))
    return None


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
