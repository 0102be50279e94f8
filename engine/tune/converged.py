"""Converged solutions of a search's pictures, with recorded trajectories for some of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.errors import LabError, StudyError
from engine.paths import write_atomically
from engine.sampling.recording import StepRecord
from engine.study.cells import evenly_spaced
from engine.study.custom_schedules import CustomSchedule, training_sigmas
from engine.study.families import FAMILIES, Family
from engine.study.lanes import Lane, parse_lane
from engine.study.reference import DEFAULT_CHECK, DEFAULT_LANE, ReferenceSettings, fitting_reference
from engine.tune.local_errors import Recordings, gram_of
from engine.tune.placing import Placing
from engine.tune.trials import PromptSeed, TrialRun, Trials

Floats = npt.NDArray[np.float64]
# Levels of the grid; levels at which the gain is measured, pictures it is measured on, and steps of such a run.
GRID, GAIN_LEVELS, GAIN_PICTURES, GAIN_STEPS = 48, 8, 4, 16
STEPS = 120
CHUNK = 16


@dataclass
class ConvergedPictures:
    """The ground truth of a search.

    Attributes:
        finals: Final latents by picture.
        recordings: Trajectories of the search pictures; None if the pipeline can't start from given latents.
    """

    finals: dict[str, Floats]
    recordings: Recordings | None


def picture_key(shot: PromptSeed) -> str:
    """A picture's key in files and evaluations."""
    return f"{shot.seed} {shot.prompt}"


def solver_of_high_budget(config: Mapping[str, Any], family: Family) -> Lane:
    """DPM++ 2M on whole timesteps, half of them evenly spaced in time, half in log sigma; flows use another solver.

    With whole timesteps the levels are exactly those passed to the denoiser, which recordings depend on.

    Raises:
        StudyError: No solver is known to converge on the model.
    """
    known = training_sigmas(config)
    if known is None:
        lane = parse_lane(DEFAULT_LANE)
        pair = ReferenceSettings(lane, parse_lane(DEFAULT_CHECK), chosen=False)
        settings, why = fitting_reference(pair, config, family)
        if settings is None:
            raise StudyError(
                f"No schedule can be searched for this model. {why} A search serves models of discrete timesteps with "
                f"linear or scaled-linear betas, and flows that unipc and flow_euler solve: {', '.join(_flows())}."
            )
        return settings.lane
    places = np.arange(len(known))
    even = np.interp(np.linspace(np.log(known[0]), np.log(known[-1]), STEPS // 2), np.log(known), places)
    times = np.unique(np.concatenate([np.linspace(0, len(known) - 1, STEPS // 2), even]).round())[::-1]
    solver = parse_lane("dpmpp_2m:2").scheduler
    schedule = CustomSchedule("timesteps", tuple(times.tolist()))
    return Lane(f"{solver.key}:{len(times)}", solver, len(times), schedule=schedule)


def _flows() -> list[str]:
    """Families of flows that have a converged solution."""
    return [family.label for family in FAMILIES.values() if {"unipc", "flow_euler"} <= {*family.solvers}]


def solve(
    trials: Trials,
    lane: Lane,
    search: Sequence[PromptSeed],
    others: Sequence[PromptSeed],
    folder: Path,
    tell: Callable[[int], None] = lambda _: None,
) -> ConvergedPictures:
    """Computes the converged solutions that are not on disk yet, and records those of the search.

    Args:
        trials: Runs trials of the model.
        lane: The high-budget solver.
        search: Pictures to record.
        others: Pictures of which only the final latents are needed.
        folder: Where solutions are stored, one file per picture.
        tell: Called with the number of pictures that have become available.

    Raises:
        LabError: A solution could not be computed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recorded = {picture_key(shot) for shot in search} if recordable(trials) else set()
    every = {picture_key(shot): shot for shot in (*search, *others)}
    missing = [shot for key, shot in every.items() if not _file(folder, key, key in recorded).exists()]
    tell(len(every) - len(missing))
    for start in range(0, len(missing), CHUNK):
        for outcome in trials.run([TrialRun(lane, shot) for shot in missing[start : start + CHUNK]], grid_steps):
            key = picture_key(outcome.trial.shot)
            if outcome.final is None:
                raise LabError(f"The converged solution of {key!r} by {lane.key} failed: {outcome.error}.")
            end = outcome.final.double().numpy().ravel()
            arrays = {"final": end} | (_arrays(outcome.steps, end) if key in recorded else {})
            write_arrays(_file(folder, key, key in recorded), arrays)
            tell(1)
    stored = {key: dict(np.load(_file(folder, key, key in recorded))) for key in every}
    finals = {key: arrays["final"] for key, arrays in stored.items()}
    if not recorded:
        return ConvergedPictures(finals, None)
    grams = [stored[picture_key(shot)]["gram"] for shot in search]
    levels = stored[picture_key(search[0])]["levels"]
    gain = _gain(trials, lane, search[:GAIN_PICTURES], levels, folder)
    return ConvergedPictures(finals, Recordings(levels, np.mean(grams, axis=0), gain))


def recordable(trials: Trials) -> bool:
    """Whether trajectories of the model can be recorded."""
    return trials.takes_latents and not Placing(parse_lane("euler:2").scheduler, 2, trials.config).flow


def grid_steps(calls: int) -> list[int]:
    """Which of a converged run's calls are recorded."""
    return evenly_spaced(calls, GRID)


def _file(folder: Path, key: str, recorded: bool) -> Path:
    return folder / f"{sha256(key.encode()).hexdigest()[:20]}{'_recorded' if recorded else ''}.npz"


def write_arrays(file: Path, arrays: dict[str, Floats]) -> None:
    """Writes arrays to an npz file, whole or not at all."""

    def save(path: Path) -> None:
        with path.open("wb") as stream:  # given a name, savez would append its own suffix
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    write_atomically(file, save)


def recorded_states(steps: Sequence[StepRecord]) -> tuple[Floats, Floats, Floats]:
    """Levels, states in variance-exploding scale, and x0 estimates of the stored steps."""
    kept = [step for step in steps if step.x_t is not None and step.x0 is not None]
    levels = np.array([-step.log_snr / 2 for step in kept])
    signal = 1 / np.sqrt(1 + np.exp(2 * levels))
    states = np.stack([step.x_t.double().cpu().numpy().ravel() for step in kept if step.x_t is not None])
    estimates = np.stack([step.x0.double().cpu().numpy().ravel() for step in kept if step.x0 is not None])
    return levels, states / signal[:, None], estimates


def _arrays(steps: Sequence[StepRecord], end: Floats) -> dict[str, Floats]:
    levels, states, estimates = recorded_states(steps)
    return {"levels": levels, "gram": gram_of(states, estimates, end)}


def _gain(trials: Trials, lane: Lane, shots: Sequence[PromptSeed], levels: Floats, folder: Path) -> Floats:
    """The share of an error at each level that remains at the end: measured at a few levels, log-linear in between."""
    file = folder / "gain.npz"
    if not file.exists():
        write_arrays(file, {"gain": _measured_gain(trials, lane, shots, levels)})
    gain: Floats = np.load(file)["gain"]
    return gain


def _measured_gain(trials: Trials, lane: Lane, shots: Sequence[PromptSeed], levels: Floats) -> Floats:
    """Finishes runs from recorded states, each with and without an added local error."""
    places = [place for place in evenly_spaced(len(levels), GAIN_LEVELS + 2)[1:-1] if place > 1]
    pairs: dict[int, list[float]] = {place: [] for place in places}
    solver = Placing(parse_lane("dpmpp_2m:2").scheduler, GAIN_STEPS, trials.config)
    for outcome in trials.run([TrialRun(lane, shot) for shot in shots], grid_steps):
        if outcome.final is None:
            continue
        shape = outcome.final.shape
        for place, left in _left(trials, solver, outcome.trial.shot, recorded_states(outcome.steps), places, shape):
            pairs[place].append(left)
    known = [(levels[place], math.log(np.median(found))) for place, found in pairs.items() if found]
    if not known:
        return np.ones_like(levels)
    at, logs = zip(*sorted(known), strict=True)
    gain: Floats = np.exp(np.interp(levels, at, logs))
    return gain


def _left(
    trials: Trials,
    solver: Placing,
    shot: PromptSeed,
    recorded: tuple[Floats, Floats, Floats],
    places: Sequence[int],
    shape: torch.Size,
) -> Iterator[tuple[int, float]]:
    """Yields (grid index, ||difference at the end|| / ||added error||)."""
    levels, states, estimates = recorded
    runs: list[TrialRun] = []
    sizes: list[tuple[int, float]] = []
    for place in places:
        schedule = _rest(solver, levels[place])
        if schedule is None:
            continue
        # The error of a first-order step from four levels earlier, large enough to exceed rounding errors.
        before = max(0, place - 4)
        share = math.exp(levels[place] - levels[before])
        error = share * states[before] + (1 - share) * estimates[before] - states[place]
        signal = 1 / math.sqrt(1 + math.exp(2 * levels[place]))
        run = replace(solver.with_schedule(schedule), steps=len(schedule.values))
        for state in (states[place], states[place] + error):
            runs.append(TrialRun(run, shot, torch.from_numpy(state * signal).float().view(shape)))
        sizes.append((place, float(np.linalg.norm(error))))
    found = {id(outcome.trial): outcome.final for outcome in trials.run(runs)}
    for number, (place, size) in enumerate(sizes):
        plain, moved = (found[id(runs[2 * number + k])] for k in (0, 1))
        if plain is not None and moved is not None and size > 0:
            yield place, float((moved - plain).norm()) / size


def _rest(solver: Placing, level: float) -> CustomSchedule | None:
    """A schedule from a level to the end, with steps in proportion to the distance."""
    span = level - solver.lowest
    count = max(2, round(GAIN_STEPS * span / (solver.highest - solver.lowest)))
    return solver.schedule(np.linspace(level, solver.lowest + 0.3 * span / count, count))
