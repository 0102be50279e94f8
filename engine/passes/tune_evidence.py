"""What stands beside the decision on a tuned schedule: errors of all lanes, by prompt class too, times and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.analysis.cost import load_presets, usd_per_1000
from engine.analysis.pace import FEWEST_SAMPLES
from engine.analysis.statistics import resampled_interval
from engine.analysis.timing_summary import summarise
from engine.cache import queries
from engine.cache.connection import reading
from engine.measuring.formulas import relative_distance
from engine.passes.context import PassContext
from engine.passes.decision_evidence import paces_here
from engine.passes.images import ImageJob, make_images, missing_images
from engine.passes.search_budget import DecideOutcome
from engine.passes.timing import missing_timings, take_times
from engine.paths import DATA
from engine.study.cells import Cell, cells, reference_cells
from engine.study.schedulers import SCHEDULERS
from engine.study.study import Study

Floats = npt.NDArray[np.float64]
# Latent errors of each lane by prompt; infinite where a picture is missing.
Errors = Mapping[str, Mapping[str, float]]


def proof_evidence(
    study: Study, context: PassContext, classes: Mapping[str, str], outcome: DecideOutcome
) -> dict[str, Any]:
    """Makes and times what the decision has left out, and compares all lanes of a proof.

    Args:
        study: Its lanes are the baseline, the tuned lane, and others at the same calls, of which those in the table
            of schedulers are known; its prompts are those of the test.
        context: Where it runs.
        classes: Class of each prompt; those without one are in no class.
        outcome: Of the decision; cells and timings that fail here are counted in it, too.

    Returns:
        As `compared`, with times (`lane_times`) in the rows of lanes; the number of prompts, and of those with a ground
        truth (n); and under "classes" the same without times for the prompts of each class.
    """
    made = cells(study, context.source, context.environment.device)
    errors = latent_errors(study, context, made, outcome)
    found = compared(errors, [lane.key for lane in study.lanes[2:] if lane.scheduler.key in SCHEDULERS])
    for lane, times in lane_times(study, context, made, outcome).items():
        found["lanes"].setdefault(lane, {}).update(times)
    grouped = {name: _of_class(errors, classes, name) for name in dict.fromkeys(classes.values()) if name}
    best = [found["best_known"]] if "best_known" in found else []
    by_class = {name: compared(part, best) for name, part in grouped.items()}
    return found | {"prompts": len(study.prompts), "classes": by_class}


def _of_class(errors: Errors, classes: Mapping[str, str], name: str) -> Errors:
    return {
        lane: {prompt: error for prompt, error in row.items() if classes.get(prompt) == name}
        for lane, row in errors.items()
    }


def latent_errors(study: Study, context: PassContext, made: Sequence[Cell], outcome: DecideOutcome) -> Errors:
    """Errors of a study's cells against the converged solution, by lane and prompt; prompts without one are left out.

    What is missing of cells and solutions is made.
    """
    pairs = reference_cells(study, context.source, context.environment.device)
    every = [*made, *(each for pair in pairs for each in pair)]
    with reading(context.cache) as db:
        jobs = missing_images(db, [ImageJob(cell) for cell in every])
    outcome.failed += make_images(context, jobs, "pictures of the test").failed
    with reading(context.cache) as db:
        latents = queries.latents(db, [cell.trajectory_id for cell in every])
    tolerance = study.reference.tolerance if study.reference else 0.0
    truth = {}
    for solution, check in pairs:
        both = latents.get(solution.trajectory_id), latents.get(check.trajectory_id)
        if both[0] is not None and both[1] is not None and relative_distance(both[1], both[0]) <= tolerance:
            truth[solution.prompt] = both[0]
    errors = {lane.key: dict.fromkeys(truth, np.inf) for lane in study.lanes}
    for cell in made:
        if cell.prompt in truth and cell.trajectory_id in latents:
            distance = relative_distance(latents[cell.trajectory_id], truth[cell.prompt])
            errors[cell.lane.key][cell.prompt] = float(distance)
    return errors


def compared(errors: Errors, rivals: Sequence[str]) -> dict[str, Any]:
    """Medians with 95 % intervals, and the tuned lane's over that of the best known lane at the same calls.

    Args:
        errors: Lanes in any order, but the tuned one second.
        rivals: Lanes of which the one with the lowest median is the best known.

    Returns:
        n, lanes (median, low, high), and with rivals best_known and ratio (value, low, high); below 2 prompts only n.
    """
    lanes = {lane: np.array(list(row.values()), dtype=np.float64) for lane, row in errors.items()}
    n = len(next(iter(lanes.values())))
    if n < 2:
        return {"n": n, "lanes": {}}
    rows = {}
    for lane, values in lanes.items():
        low, high = resampled_interval(partial(_medians, values), n)
        rows[lane] = {"median": float(np.median(values)), "low": low, "high": high}
    if not rivals:
        return {"n": n, "lanes": rows}
    tuned, best = list(lanes)[1], min(rivals, key=lambda lane: rows[lane]["median"])
    low, high = resampled_interval(lambda draws: _medians(lanes[tuned], draws) / _medians(lanes[best], draws), n)
    ratio = rows[tuned]["median"] / rows[best]["median"]
    return {"n": n, "lanes": rows, "best_known": best, "ratio": {"value": ratio, "low": low, "high": high}}


def _medians(values: Floats, draws: npt.NDArray[np.int64]) -> Floats:
    medians: Floats = np.median(values[draws], axis=1)
    return medians


def lane_times(
    study: Study, context: PassContext, made: Sequence[Cell], outcome: DecideOutcome
) -> dict[str, dict[str, Any]]:
    """Times of the lanes that could be timed, in this environment, one image at a time.

    Returns:
        By lane: milliseconds of a picture and the share of the baseline's time, which is that of its cost if seconds
        are billed (each value, low, high); and where the GPU's price is on file, usd_1k: dollars for 1,000 pictures.
    """
    paces = paces_here(context, study.name, study.baseline)
    if any(lane.key not in paces or paces[lane.key].n < FEWEST_SAMPLES for lane in study.lanes):
        outcome.failed += _time_together(study, context, made)
        paces = paces_here(context, study.name, study.baseline)
    found: dict[str, dict[str, Any]] = {}
    for row in summarise(_samples(study, context), study.baseline).to_dict("records"):
        pace, usd = paces[row["lane"]], _usd_per_hour(str(row["device_name"]))
        found[row["lane"]] = {
            "milliseconds": {"value": row["median_ms"], "low": row["low_ms"], "high": row["high_ms"]},
            "cost": {"value": pace.value, "low": pace.low, "high": pace.high},
        }
        if usd is not None:
            found[row["lane"]]["usd_1k"] = usd_per_1000(row["median_ms"] / 1000, usd, utilisation=1.0)
    return found


def _time_together(study: Study, context: PassContext, made: Sequence[Cell]) -> int:
    """Times all lanes, interleaved, so that their repeats can be paired; returns how many could not be timed."""
    settings = replace(study.timing, batch_sizes=(1,))
    with reading(context.cache) as db:
        again = missing_timings(db, made, settings, context.source, context.environment, anew=True)
    return take_times(context, again, made, settings.warmup).failed


def _samples(study: Study, context: PassContext) -> pd.DataFrame:
    """The timing samples of a study's lanes in this environment at batch 1."""
    with reading(context.cache) as db:
        samples = queries.timings(db, study.name)
    return samples[(samples["environment_id"] == context.environment.environment_id) & (samples["batch_size"] == 1)]


def _usd_per_hour(device: str) -> float | None:
    """Published price of a GPU; None if none is on file."""
    presets = load_presets(DATA / "gpu_prices.toml")
    return next((preset.usd_per_hour for preset in presets if preset.device == device), None)
