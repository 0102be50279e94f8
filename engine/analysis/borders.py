"""Borders between the phases of a run, by explicit definitions, with intervals over prompts. Pure, no torch.

A border is measured for each run (prompt and seed) that reaches it, in log-SNR and in progress; the result is the mean
over prompts with the bootstrap interval of `statistics`. Where all prompts are alike, progress has the interval of
values from 0 to 1, and log-SNR, which has no ends, none. Runs that never reach a border are left out and counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from engine.analysis import phases
from engine.analysis import statistics as st
from engine.analysis.curves import octave_distances
from engine.analysis.phases import Axis

CLOSE = 0.3
AXES: tuple[Axis, ...] = ("log_snr", "progress")
Source = Literal["path", "steps", "frames", "octaves"]


@dataclass(frozen=True)
class Border:
    """One border of a phase.

    Attributes:
        key: Stable name.
        label: Name for people.
        definition: Where it lies, in one line.
        source: What it is measured from.
        metric: Key among the metrics of steps or frames; for octaves "lowest" or "highest".
    """

    key: str
    label: str
    definition: str
    source: Source
    metric: str = ""


BORDERS = (
    Border(
        "critical_50_start",
        "Critical half begins",
        "start of the shortest interval that holds half of the path of x0",
        "path",
    ),
    Border("half_path", "Half of the path", "x0 has covered half of its path", "path"),
    Border("critical_50_end", "Critical half ends", "end of that interval", "path"),
    Border(
        "critical_80_start",
        "Critical 80 % begins",
        "start of the shortest interval that holds 80 % of the path of x0",
        "path",
    ),
    Border("critical_80_end", "Critical 80 % ends", "end of that interval", "path"),
    Border(
        "recognisable",
        "Recognisable",
        "CLIP names the prompt's concept in x0 from there to the end",
        "frames",
        "recognised",
    ),
    Border(
        "coarse",
        "Coarse shape settled",
        f"the lowest octave of x0 stays within {CLOSE:.0%} of the final one",
        "octaves",
        "lowest",
    ),
    Border(
        "detail",
        "Fine detail settled",
        f"the highest octave of x0 stays within {CLOSE:.0%} of the final one",
        "octaves",
        "highest",
    ),
    Border(
        "close",
        "Near the final picture",
        f"x0 stays within {CLOSE:.0%} (relative L2) of the final latents",
        "steps",
        "x0_distance",
    ),
)


@dataclass(frozen=True)
class MeasuredBorder:
    """A border of a lane.

    Attributes:
        figures: Mean and interval by axis.
        runs: Runs that reach it.
        never: Runs that don't.
    """

    border: Border
    lane: str
    figures: dict[Axis, st.Estimate]
    runs: int
    never: int


def borders(steps: pd.DataFrame, frames: pd.DataFrame, lanes: list[str]) -> list[MeasuredBorder]:
    """Every border that can be measured, lane by lane.

    Args:
        steps: Step metrics x0_change, x0_distance, coherence_k and power_k, as far as they were recorded.
        frames: Metric `recognised` of x0 frames.
        lanes: Keys of lanes, in order.
    """
    found = []
    for lane in lanes:
        own = steps[steps["lane"] == lane]
        tables = {"steps": own, "frames": frames[frames["lane"] == lane], "octaves": octave_distances(own)}
        paths = {axis: phases.paths(own, lane, axis) for axis in AXES}
        found += [_measure(border, lane, paths, tables.get(border.source)) for border in BORDERS]
    return [measured for measured in found if measured is not None]


def _measure(
    border: Border, lane: str, paths: dict[Axis, dict[tuple[str, int], phases.Path]], table: pd.DataFrame | None
) -> MeasuredBorder | None:
    found: dict[Axis, dict[tuple[str, int], float | None]] = {}
    for axis in AXES:
        if table is None:
            found[axis] = {key: _PATH[border.key](path) for key, path in paths[axis].items()}
            continue
        rows, holds = _rows(border, table)
        if rows[axis].notna().all():
            found[axis] = phases.settled_at(rows, holds, axis)
    if not any(found.values()):
        return None
    reached = {axis: {key: at for key, at in places.items() if at is not None} for axis, places in found.items()}
    runs, known = max(map(len, reached.values())), max(map(len, found.values()))
    figures = {
        axis: st.ranged_estimate(list(places.values()), [prompt for prompt, _ in places], *phases.ENDS[axis])
        for axis, places in reached.items()
        if places
    }
    return MeasuredBorder(border, lane, figures, runs, known - runs)


def _rows(border: Border, of_lane: pd.DataFrame) -> tuple[pd.DataFrame, Callable[[pd.Series], pd.Series]]:
    """The rows that a border is measured from, and the condition that holds from the border on."""
    if border.source == "frames":
        return of_lane[of_lane["metric"] == border.metric], lambda values: values >= 0.5
    metric = border.metric
    if border.source == "octaves":
        numbers = sorted({int(name.rpartition("_")[2]) for name in of_lane["metric"].unique()})
        metric = f"octave_{numbers[0 if metric == 'lowest' else -1]}" if numbers else ""
    return of_lane[of_lane["metric"] == metric], lambda values: values <= CLOSE


_PATH: dict[str, Callable[[phases.Path], float]] = {
    "half_path": lambda path: path.halfway(),
    "critical_50_start": lambda path: path.critical_phase(0.5)[0],
    "critical_50_end": lambda path: path.critical_phase(0.5)[1],
    "critical_80_start": lambda path: path.critical_phase(0.8)[0],
    "critical_80_end": lambda path: path.critical_phase(0.8)[1],
}


def border_rows(measured: Sequence[MeasuredBorder]) -> list[tuple[str, ...]]:
    """The borders as rows of text, with a header; "-" if there is no interval."""
    rows: list[tuple[str, ...]] = [("lane", "border", "progress", "log-SNR", "n", "never reached")]
    for found in measured:
        places = [found.figures.get(axis) for axis in ("progress", "log_snr")]
        prompts = max((place.n for place in places if place), default=0)
        rows.append(
            (
                found.lane,
                found.border.label,
                *(str(place) if place else "-" for place in places),
                f"{prompts} prompts, {found.runs} runs",
                f"{found.never} runs",
            )
        )
    return rows
