"""Fitted coefficients: what a solver's steps lack of the converged trajectory, by a few scalars a step.

The runs of the search pictures are followed step by step. At each step, the gap between the converged state at the next
level and the solver's own next state is regressed on the state, the estimate of x0 and the estimate before, by ridge,
with one scalar for each over all elements and pictures. The runs go on from the corrected states, so that each step
is fitted where it will be used. Pictures far from their converged state weigh less, as in the objective of the search
(`refining.robust_mean`): with equal weights, a few that became another picture decide.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from engine.errors import LabError, StudyError
from engine.study.custom_schedules import CustomSchedule, takes_coefficients
from engine.study.lanes import Lane
from engine.tune.placing import Placing
from engine.tune.trials import Outcome, PromptSeed, TrialRun, Trials

Floats = npt.NDArray[np.float64]
# Weight of the penalty on a coefficient, as a share of its term's mean square.
RIDGE = 1e-5
# What is summed over pictures is the gap's norm to this power, reached by so many reweighted solutions.
POWER, REWEIGHTED = 0.5, 8


def refuse_unfit(placing: Placing, recordable: bool) -> None:
    """Refuses a search with coefficients where none can be fitted.

    Args:
        placing: Places the levels of the scheduler.
        recordable: Whether converged trajectories of the model can be recorded.

    Raises:
        StudyError: Another scheduler than DPM++, or a model without recordings.
    """
    scheduler = placing.lane.scheduler
    if not takes_coefficients(scheduler.target, scheduler.overrides):
        raise StudyError(
            f"--coefficients are fitted for DPM++ multistep solvers such as dpmpp_2m, not for '{scheduler.key}'."
        )
    if placing.flow or not recordable:
        what = "a flow model" if placing.flow else "a pipeline that takes no latents"
        raise StudyError(f"--coefficients need recorded trajectories, which {what} has not; leave the option out.")


def fit(
    trials: Trials, placing: Placing, solver: Lane, schedule: CustomSchedule, shots: Sequence[PromptSeed]
) -> CustomSchedule:
    """The schedule with coefficients fitted on pictures.

    Args:
        trials: Runs trials of the model.
        placing: Places the levels of the scheduler.
        solver: The high-budget solver, on whole timesteps.
        schedule: A list of timesteps without coefficients.
        shots: The pictures of the search.

    Raises:
        LabError: A run failed.
    """
    targets = _converged_states(trials, solver, schedule, shots)
    for step in range(placing.steps):
        runs = [TrialRun(placing.with_schedule(schedule), shot, remember=True) for shot in shots]
        around = range(max(0, step - 1), min(step + 2, placing.steps))
        outcomes = trials.run(runs, partial(_always, around))
        grams = [_gram(outcome, step, targets[outcome.trial.shot][step]) for outcome in outcomes]
        schedule = replace(schedule, coefficients=(*schedule.coefficients, _solved(np.array(grams))))
    return schedule


def amplitudes(
    trials: Trials, lanes: Sequence[Lane], shots: Sequence[PromptSeed], finals: Mapping[PromptSeed, Floats]
) -> list[float]:
    """Median over pictures of the standard deviation of each lane's latents, over that of the converged ones.

    Raises:
        LabError: A run failed.
    """
    medians = []
    for lane in lanes:
        outcomes = trials.run([TrialRun(lane, shot, remember=True) for shot in shots])
        ratios = [float(_final(outcome).std() / finals[outcome.trial.shot].std()) for outcome in outcomes]
        medians.append(float(np.median(ratios)))
    return medians


def _converged_states(
    trials: Trials, solver: Lane, schedule: CustomSchedule, shots: Sequence[PromptSeed]
) -> dict[PromptSeed, list[Floats]]:
    """States after each step of a schedule on the converged trajectory of each picture, the end last."""
    assert solver.schedule is not None  # that of models whose trajectories can be recorded
    times = sorted({*solver.schedule.values, *schedule.values}, reverse=True)
    lane = replace(solver, steps=len(times), schedule=CustomSchedule("timesteps", tuple(times)))
    places = [times.index(time) for time in schedule.values[1:]]
    found = {}
    for outcome in trials.run([TrialRun(lane, shot) for shot in shots], partial(_always, places)):
        end = _final(outcome)
        found[outcome.trial.shot] = [*(_state(outcome, place) for place in places), end]
    return found


def _always(places: Collection[int], calls: int) -> Collection[int]:
    """The steps to store, whatever the number of calls."""
    return places


def _gram(outcome: Outcome, step: int, target: Floats) -> Floats:
    """Inner products of state, estimate, estimate before and gap of a picture at a step; (4, 4)."""
    end = _final(outcome)
    after = _state(outcome, step + 1) if step + 1 < len(outcome.steps) else end
    before = _estimate(outcome, step - 1) if step else np.zeros_like(after)
    rows = np.stack([_state(outcome, step), _estimate(outcome, step), before, target - after])
    gram: Floats = rows @ rows.T / float(target @ target)
    return gram


def _solved(grams: Floats) -> tuple[float, ...]:
    """The coefficients of a step from the inner products of all pictures, (pictures, 4, 4)."""
    found: Floats = np.zeros(3)
    for _ in range(REWEIGHTED):
        left = np.append(-found, 1.0)
        gaps2 = np.einsum("i,pij,j->p", left, grams, left)
        weights = np.maximum(gaps2, 1e-6 * gaps2.mean() + np.finfo(float).tiny) ** (POWER / 2 - 1)
        gram = np.average(grams, axis=0, weights=weights / weights.max())
        penalty = np.diag(RIDGE * np.diag(gram)[:3] + np.finfo(float).tiny)
        found = np.linalg.solve(gram[:3, :3] + penalty, gram[:3, 3]).astype(np.float64)
    return tuple(float(f"{value:.6g}") for value in found)


def _final(outcome: Outcome) -> Floats:
    if outcome.final is None:
        raise LabError(f"A run of {outcome.trial.shot.prompt!r} by {outcome.trial.lane.key} failed: {outcome.error}.")
    final: Floats = outcome.final.double().numpy().ravel()
    return final


def _state(outcome: Outcome, place: int) -> Floats:
    _final(outcome)
    state = outcome.steps[place].x_t
    assert state is not None  # it was asked for
    found: Floats = state.double().cpu().numpy().ravel()
    return found


def _estimate(outcome: Outcome, place: int) -> Floats:
    estimate = outcome.steps[place].x0
    assert estimate is not None  # it was asked for
    found: Floats = estimate.double().cpu().numpy().ravel()
    return found
