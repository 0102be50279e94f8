"""What the Phases page knows of the lanes it shows."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from dashboard import components, loaders
from dashboard.options import Options
from dashboard.page import require_all
from dashboard.phases import data
from dashboard.phases.controls import Choice
from dashboard.phases.data import Changes, LanePhases
from engine.analysis.borders import Measured
from engine.analysis.claims import ClaimVerdict
from engine.analysis.outcomes import StudyLane
from engine.analysis.trajectories import Trajectories
from engine.display import html
from engine.display.formats import count
from engine.results import Results


@dataclass(frozen=True)
class Shown:
    """What the page knows of the chosen lanes.

    Attributes:
        lanes: Those with recorded steps.
        curves: Of all of them, with label and scheduler.
        ruler: Likewise.
        measured: Borders by lane and key.
        found: By lane.
        described: The metrics of step frames (`engine.cache.phases.frame_metrics`).
        paths: The ways of x0; None if none was recorded.
    """

    study: Results
    lanes: tuple[StudyLane, ...]
    curves: pd.DataFrame
    ruler: pd.DataFrame
    measured: Mapping[tuple[str, str], Measured]
    found: Mapping[str, LanePhases]
    described: pd.DataFrame
    paths: Trajectories | None

    def curve(self, metric: str) -> pd.DataFrame:
        """The curves of a metric."""
        return self.curves[self.curves["metric"] == metric]

    def footer(self, curve: pd.DataFrame, interval: str) -> str:
        """The line under a figure."""
        prompts, runs = int(curve["prompts"].max()), int(curve["runs"].max())
        extent = f"n = {count(prompts, 'prompt')}, {count(runs, 'run')} per lane"
        return html.footer([extent, interval, *components.image_places(self.study)])


@dataclass(frozen=True)
class Recorded:
    """What the cache holds for the page.

    Attributes:
        shown: None if none of the chosen lanes has recorded steps.
        changes: What became of changes of prompt.
        claims: The claims put to the test; none while cells are missing.
    """

    shown: Shown | None
    changes: Changes
    claims: tuple[ClaimVerdict, ...]


def load(chosen: Options, study: Results, choice: Choice) -> Recorded:
    """Reads the chosen lanes, each remembered by itself; the cache is opened once."""
    changes, claims, described, paths, *lanes = require_all(
        chosen.cache,
        data.changes(study.id),
        loaders.claims_of(study),
        data.frame_metrics(study.id),
        data.trajectories(study.id, choice.prompt, choice.seed, choice.lanes),
        *(data.lane_phases(study.id, key) for key in choice.lanes),
    )
    found = dict(zip(choice.lanes, lanes, strict=True))
    return Recorded(_shown(study, found, described, paths), changes, claims)


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
    """Which cells were made before all that this page shows was recorded."""
    parts = []
    for lane in shown.lanes:
        found = shown.found[lane.key]
        if found.complete < found.cells:
            parts.append(f"{lane.label}: {found.cells - found.complete} of {count(found.cells, 'cell')}")
    if parts:
        st.html(
            html.soft(
                f"Made by an earlier version, without spectrum, guidance energy and way of x0: "
                f"{'; '.join(parts)}. Finished cells are never made again; a run into another file "
                "(`--cache NEW.duckdb`) records them."
            )
        )


def older(what: str) -> str:
    return (
        f"{what} was not recorded for these cells: an earlier version made them. A run into another file "
        "(`--cache NEW.duckdb`) records it."
    )
