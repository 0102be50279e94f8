"""Queries of the Phases page, and the data of the lanes it shows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import loaders
from dashboard.cache_access import Question
from dashboard.images import data_uri
from dashboard.options import Options
from dashboard.page import require_all
from dashboard.phases.controls import Choice
from engine.analysis import commitment as committing
from engine.analysis.borders import MeasuredBorder, borders
from engine.analysis.claims import ClaimVerdict
from engine.analysis.clip_phases import ClipPhases, clip_phases
from engine.analysis.commitment import Commitment
from engine.analysis.curves import curves, octave_distances, shares, speeds
from engine.analysis.outcomes import StudyLane
from engine.analysis.trajectories import Trajectories, project
from engine.cache import score_tables, step_tables, swap_tables
from engine.cache.connection import Connection
from engine.display import html
from engine.display.formats import count
from engine.results import Results

# Metrics of frames that are 0 or 1, or shares: their mean is shown, not their median.
SHARES = {
    "recognised": "Share of runs in which CLIP names the concept in x0",
    "attributes": "Share of what the prompt names that CLIP finds in x0",
}
SPEED = "speed"
# Progress at the ticks of a lane's ruler.
RULER = np.array([0.2, 0.4, 0.6, 0.8])


@dataclass(frozen=True)
class LanePhases:
    """How pictures form with one lane.

    Attributes:
        curves: Median and band over log-SNR of every metric (`engine.analysis.curves`).
        ruler: Columns lane, log_snr, progress: where the lane has done 20, 40, 60 and 80 % of its calls.
        borders: Borders of its phases.
        clips: When motion and appearance of its clips settle; empty for pictures.
        cells: Finished cells with any recorded step.
        complete: Those of them with everything that this version records.
    """

    curves: pd.DataFrame
    ruler: pd.DataFrame
    borders: tuple[MeasuredBorder, ...]
    clips: tuple[ClipPhases, ...]
    cells: int
    complete: int


# (lane, first prompt, second prompt, seed, share) -> address of the picture.
Pictures = dict[tuple[str, str, str, int, float], str]


@dataclass(frozen=True)
class Changes:
    """Prompt swaps: their results and pictures."""

    found: Commitment | None
    pictures: Pictures


def lane_phases(study_id: str, lane: str) -> Question[LanePhases]:
    """How pictures form with a lane."""
    return Question(_lane, (study_id, lane), _lane_phases)


def trajectories(study_id: str, prompt: str, seed: int, lanes: tuple[str, ...]) -> Question[Trajectories | None]:
    """The paths of lanes on common axes; None if none is recorded."""
    return Question(step_tables.sketches, (study_id, prompt, seed, lanes), project)


def frame_metrics(study_id: str) -> Question[pd.DataFrame]:
    """The labels of step-frame metrics, and why one has no values."""
    return Question(score_tables.metrics, (study_id, "frame"))


def changes(study_id: str) -> Question[Changes]:
    """The results of prompt swaps."""
    return Question(_swaps, (study_id,), _changes)


def _lane(db: Connection, study_id: str, lane: str) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    return step_tables.step_curves(db, study_id, lane), score_tables.frame_curves(db, study_id, lane), lane


def _lane_phases(asked: tuple[pd.DataFrame, pd.DataFrame, str]) -> LanePhases:
    steps, frames, lane = asked
    is_octave = steps["metric"].str.startswith(("coherence_", "power_"))
    plain = steps[
        steps["metric"].isin(["x0_distance", "motion_energy", "guidance_energy"])
        | steps["metric"].str.startswith("coherence_")
    ]
    zero_or_one = frames["metric"].isin(SHARES)
    table = [
        curves(plain),
        curves(octave_distances(steps[is_octave])),
        speeds(steps, SPEED),
        curves(frames[~zero_or_one]),
        shares(frames[zero_or_one]),
    ]
    known = [part for part in table if len(part)]
    recorded = steps.groupby("metric")["trajectory_id"].nunique() if len(steps) else pd.Series(dtype=int)
    return LanePhases(
        curves=pd.concat(known, ignore_index=True) if known else table[0],
        ruler=_ruler(steps, lane),
        borders=tuple(borders(steps, frames, [lane])),
        clips=tuple(clip_phases(steps, frames, [lane])),
        cells=int(recorded.max()) if len(recorded) else 0,
        complete=int(recorded.get("coherence_0", 0)),
    )


def _ruler(steps: pd.DataFrame, lane: str) -> pd.DataFrame:
    """Where a lane is in log-SNR at round values of progress: the same for all of its runs."""
    first = steps[(steps["trajectory_id"] == steps["trajectory_id"].iloc[0])] if len(steps) else steps
    levels = first[first["log_snr"].notna()].drop_duplicates("step_index").sort_values("progress")
    if len(levels) < 2:
        return pd.DataFrame(columns=["lane", "log_snr", "progress"])
    places = np.interp(RULER, levels["progress"], levels["log_snr"], left=np.nan)
    found = pd.DataFrame({"lane": lane, "log_snr": places, "progress": RULER})
    return found[found["log_snr"].notna()]


def _swaps(db: Connection, study_id: str) -> pd.DataFrame:
    return swap_tables.commitment(db, study_id, images=True)


def _changes(rows: pd.DataFrame) -> Changes:
    pictures: Pictures = {}
    for row in rows.itertuples():
        source = data_uri(bytes(row.image)) if isinstance(row.image, bytes | bytearray | memoryview) else None
        if source is not None:
            pictures[row.lane, row.first_prompt, row.second_prompt, int(row.seed), float(row.share)] = source
    return Changes(committing.commitment(rows) if len(rows) else None, pictures)


@dataclass(frozen=True)
class Shown:
    """The data of the chosen lanes.

    Attributes:
        lanes: The lanes with recorded steps.
        curves: Curves of all of them, with label and scheduler.
        ruler: Rulers of all of them, with label and scheduler.
        measured: Borders by lane and key.
        found: Phases by lane.
        described: The metrics of step frames (`engine.cache.score_tables.metrics`).
        paths: The paths of x0; None if none is recorded.
    """

    study: Results
    lanes: tuple[StudyLane, ...]
    curves: pd.DataFrame
    ruler: pd.DataFrame
    measured: Mapping[tuple[str, str], MeasuredBorder]
    found: Mapping[str, LanePhases]
    described: pd.DataFrame
    paths: Trajectories | None

    def curve(self, metric: str) -> pd.DataFrame:
        """The curves of one metric."""
        return self.curves[self.curves["metric"] == metric]

    def footer(self, curve: pd.DataFrame, interval: str) -> str:
        """The line under a figure."""
        prompts, runs = int(curve["prompts"].max()), int(curve["runs"].max())
        extent = f"n = {count(prompts, 'prompt')}, {count(runs, 'run')} per lane"
        return html.footer([extent, interval])


@dataclass(frozen=True)
class Recorded:
    """The data of the page.

    Attributes:
        shown: The chosen lanes; None if none of them has recorded steps.
        changes: Results of prompt swaps.
        claims: Verdicts on claims; empty while cells are missing.
    """

    shown: Shown | None
    changes: Changes
    claims: tuple[ClaimVerdict, ...]


def load(chosen: Options, study: Results, choice: Choice) -> Recorded:
    """Reads the chosen lanes, each cached on its own; opens the cache once."""
    changed, claims, described, paths, *lanes = require_all(
        chosen.cache,
        changes(study.id),
        loaders.claims_of(study),
        frame_metrics(study.id),
        trajectories(study.id, choice.prompt, choice.seed, choice.lanes),
        *(lane_phases(study.id, key) for key in choice.lanes),
    )
    found = dict(zip(choice.lanes, lanes, strict=True))
    return Recorded(_shown(study, found, described, paths), changed, claims)


def _shown(
    study: Results, found: Mapping[str, LanePhases], described: pd.DataFrame, paths: Trajectories | None
) -> Shown | None:
    lanes = tuple(lane for lane in study.lanes if lane.key in found and found[lane.key].cells)
    if not lanes:
        return None
    names = {lane.key: lane for lane in lanes}

    def joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
        known = [part for part in parts if len(part)]
        table = pd.concat(known, ignore_index=True) if known else parts[0]
        return table.assign(
            label=[names[key].label for key in table["lane"]], scheduler=[names[key].scheduler for key in table["lane"]]
        )

    measured = {(row.lane, row.border.key): row for lane in lanes for row in found[lane.key].borders}
    curves, ruler = ([getattr(found[lane.key], name) for lane in lanes] for name in ("curves", "ruler"))
    return Shown(study, lanes, joined(curves), joined(ruler), measured, found, described, paths)


def older_cells(shown: Shown) -> None:
    """Says which cells were made by a version that did not record everything this page shows."""
    parts = []
    for lane in shown.lanes:
        found = shown.found[lane.key]
        if found.complete < found.cells:
            parts.append(f"{lane.label}: {found.cells - found.complete} of {count(found.cells, 'cell')}")
    if parts:
        st.html(
            html.soft(
                f"Made by an earlier version, without spectrum, guidance energy and path of x0: "
                f"{'; '.join(parts)}. Finished cells are never computed again; a run into a new cache "
                "(`--cache NEW.duckdb`) records them."
            )
        )


def older(what: str) -> str:
    return (
        f"{what} was not recorded for these cells, which an earlier version made. A run into a new cache "
        "(`--cache NEW.duckdb`) records it."
    )
