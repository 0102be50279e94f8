"""Phases of a clip: when motion and appearance settle during a run, and which comes first. Pure, no torch.

Motion has settled once its energy (mean squared difference of neighbouring frames of x0's latents) stays within 10 %
of its final value. Appearance has settled once at most 10 % of the gain in CLIP similarity to the final clip, from the
first kept step to the last, is missing: the gain, since the cosine of any two pictures is far from 0, and stored
frames never quite reach 1.

Both are read at the same steps, those with stored frames; runs with fewer than `MIN_STEPS` of them are left out.
Without CLIP scores, motion is read at all measured steps. Positions are midway between two of these steps. Where all
prompts are alike, only progress, which has ends, has an interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from engine.analysis import phases
from engine.analysis import statistics as st

WITHIN = 0.1
MIN_STEPS = 3
MOTION, APPEARANCE = "motion_energy", "similarity_to_final"
PLACE = ["prompt", "seed", "step_index"]
Unit = Literal["log_snr", "progress", "step"]
UNITS: tuple[Unit, ...] = ("log_snr", "progress", "step")
# (prompt, seed) -> place.
Places = dict[tuple[str, int], float]


@dataclass(frozen=True)
class ClipPhases:
    """When motion and appearance of a lane's clips settle: means over prompts.

    Attributes:
        motion: Where motion settles, by unit; unknown units are missing.
        appearance: Where appearance settles, by unit; empty without CLIP scores.
        lead: Steps by which motion settles before appearance, within runs; negative if after. None if unknown.
        kept: Fewest steps of a run at which both were read.
    """

    lane: str
    motion: dict[Unit, st.Estimate]
    appearance: dict[Unit, st.Estimate]
    lead: st.Estimate | None
    kept: int


def clip_phases(steps: pd.DataFrame, frames: pd.DataFrame, lanes: Sequence[str]) -> list[ClipPhases]:
    """The phases of every lane that makes clips, in the order given.

    Args:
        steps: Step metrics (`step_tables.step_curves`); `motion_energy` is used.
        frames: Scores of x0 frames (`score_tables.frame_curves`); `similarity_to_final` is used.
        lanes: Keys of lanes.
    """
    found = []
    for lane in lanes:
        motion = _of(steps, lane, MOTION)
        appearance = _of(frames, lane, APPEARANCE).merge(motion[PLACE], on=PLACE)
        appearance = _long_enough(appearance)
        if len(appearance):
            motion = motion.merge(appearance[PLACE], on=PLACE)
        motion = _long_enough(motion)
        if motion.empty:
            continue
        settled = {unit: _settled(motion, unit, _near_its_end) for unit in UNITS}
        alike = {unit: _settled(appearance, unit, _nearly_alike) for unit in UNITS}
        both = settled["step"].keys() & alike["step"].keys()
        lead = {key: alike["step"][key] - settled["step"][key] for key in sorted(both)}
        kept = int(motion.groupby(["prompt", "seed"]).size().min())
        found.append(ClipPhases(lane, _means(settled), _means(alike), _mean(lead) if lead else None, kept))
    return found


def _of(table: pd.DataFrame, lane: str, metric: str) -> pd.DataFrame:
    return table[(table["lane"] == lane) & (table["metric"] == metric)]


def _long_enough(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.groupby(["prompt", "seed"])["step_index"].transform("size") >= MIN_STEPS]


def _near_its_end(energies: pd.Series) -> pd.Series:
    end = energies.iloc[-1]
    return (energies - end).abs() <= WITHIN * abs(end)


def _nearly_alike(similarities: pd.Series) -> pd.Series:
    first, end = similarities.iloc[0], similarities.iloc[-1]
    return end - similarities <= WITHIN * max(end - first, 0.0)


def _settled(rows: pd.DataFrame, unit: Unit, holds: Callable[[pd.Series], pd.Series]) -> Places:
    """Where a condition, which the last step always meets, starts to hold to the end; empty in an unknown unit."""
    if unit == "log_snr" and rows["log_snr"].isna().any():
        return {}
    if unit == "step":
        rows = rows.assign(progress=rows["step_index"].astype(float))
    places = phases.settled_at(rows, holds, "log_snr" if unit == "log_snr" else "progress")
    return {key: place for key, place in places.items() if place is not None}


def _means(places: dict[Unit, Places]) -> dict[Unit, st.Estimate]:
    return {unit: _mean(found, unit) for unit, found in places.items() if found}


def _mean(places: Places, unit: Unit = "step") -> st.Estimate:
    values, prompts = list(places.values()), [prompt for prompt, _ in places]
    if unit == "step":
        return st.ranged_estimate(values, prompts)
    return st.ranged_estimate(values, prompts, *phases.ENDS[unit])


def clip_rows(measured: Sequence[ClipPhases]) -> list[tuple[str, ...]]:
    """The phases as rows of text, with a header; "-" if there is no interval."""
    rows: list[tuple[str, ...]] = [
        ("lane", "motion settled (log-SNR)", "appearance settled (log-SNR)", "motion first by (steps)", "n")
    ]
    for found in measured:
        places = (found.motion.get("log_snr"), found.appearance.get("log_snr"), found.lead)
        extent = found.motion["step"]
        rows.append(
            (
                found.lane,
                *(str(place) if place else "-" for place in places),
                f"{extent.n} prompts, {extent.pairs} runs, {found.kept} steps each",
            )
        )
    return rows
