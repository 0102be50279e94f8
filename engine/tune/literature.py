"""Schedules by two methods of the literature, which stand beside a tuned one: GITS and OSS. Both are in our own words.

GITS (Chen et al. 2024, arXiv:2405.11326) adds up the errors of Euler steps between recorded levels. An error counts the
more, by a fixed factor a step, the more steps follow; the gain that we measure takes the place of that guess.

OSS (Pei et al. 2025, arXiv:2503.21774) lets a state of its own arrive at each recorded level, after each number of
steps the one that is nearest to the record, and follows back from the end which levels it came by. Each picture has a
path of its own; the schedule is the median of them. Every state takes a real call.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from engine.errors import LabError
from engine.study.cells import evenly_spaced
from engine.study.lanes import Lane, parse_lane
from engine.tune.converged import grid_steps, recorded_states
from engine.tune.local_errors import Recordings, step_errors
from engine.tune.placing import Levels, Placing
from engine.tune.trials import Outcome, PromptSeed, TrialRun, Trials

Floats = npt.NDArray[np.float64]
# How much more an error counts for each step that follows; that of the paper.
GAMMA = 1.15
OSS_LEVELS = 24


def gits(recordings: Recordings, steps: int, gamma: float = GAMMA) -> Levels:
    """The levels, starting at the first recorded one, with the smallest weighted sum of Euler errors.

    Args:
        recordings: Recorded trajectories with at least as many levels as steps.
        steps: Number of levels.
        gamma: Weight of the rest of the path after a step, over that of the step.
    """
    first, _, last = step_errors(recordings, 1)
    count = len(last)
    first = np.where(np.arange(count)[None, :] > np.arange(count)[:, None], first, np.inf)
    best, chosen = last, list[npt.NDArray[np.int64]]()
    for _ in range(steps - 1):
        every = first + gamma * best[None, :]
        chosen.append(every.argmin(axis=1))
        best = every.min(axis=1)
    places = [0]
    for following in reversed(chosen):
        places.append(int(following[places[-1]]))
    return recordings.levels[places]


def oss(trials: Trials, solver: Lane, shots: Sequence[PromptSeed], steps: int) -> Levels:
    """The median over pictures of the levels by which a state of few Euler steps stays nearest to the record.

    Args:
        trials: Runs trials of the model.
        solver: The high-budget solver that is recorded.
        shots: Pictures.
        steps: Number of levels, at most `OSS_LEVELS`.

    Raises:
        LabError: A run failed, or there are too many steps.
    """
    if steps > OSS_LEVELS:
        raise LabError(f"OSS is made for at most {OSS_LEVELS} steps here, not {steps}.")
    paths = []
    for outcome in trials.run([TrialRun(solver, shot) for shot in shots], grid_steps):
        if outcome.final is None:
            raise LabError(f"The converged solution of {outcome.trial.shot.prompt!r} failed: {outcome.error}.")
        levels, states, _ = recorded_states(outcome.steps)
        grid = evenly_spaced(len(levels), OSS_LEVELS)
        levels, states = levels[grid], states[grid]
        paths.append(_path(_Estimates(trials, outcome.trial.shot, levels, outcome.final.shape), states, outcome, steps))
    # Medians of paths that rise strictly rise strictly.
    places = np.median(np.array(paths), axis=0)
    return np.interp(places, np.arange(len(levels)), levels)


class _Estimates:
    """The denoiser's x0 estimates of states at grid levels: runs of a single step, which end at the estimate."""

    def __init__(self, trials: Trials, shot: PromptSeed, levels: Floats, shape: torch.Size) -> None:
        self._trials, self._shot, self.levels, self._shape = trials, shot, levels, shape
        self._solver = Placing(parse_lane("dpmpp_2m:1").scheduler, 1, trials.config)

    def of(self, states: dict[int, Floats]) -> dict[int, Floats]:
        """Estimates of states by their place in the grid, both in variance-exploding scale, flat."""
        runs = {}
        for place, state in states.items():
            schedule = self._solver.schedule(self.levels[place : place + 1])
            assert schedule is not None  # a single level, which the converged run had
            signal = 1 / np.sqrt(1 + np.exp(2 * self.levels[place]))
            latents = torch.from_numpy(state * signal).float().view(self._shape)
            runs[place] = TrialRun(self._solver.with_schedule(schedule), self._shot, latents)
        found = {id(outcome.trial): outcome for outcome in self._trials.run(list(runs.values()))}
        estimates = {}
        for place, run in runs.items():
            outcome = found[id(run)]
            if outcome.final is None:
                raise LabError(f"A step of {self._shot.prompt!r} failed: {outcome.error}.")
            estimates[place] = outcome.final.double().numpy().ravel()
        return estimates


def _path(estimates: _Estimates, recorded: Floats, outcome: Outcome, steps: int) -> list[int]:
    """Places in the grid of the best path of one picture."""
    assert outcome.final is not None  # checked by the caller
    end, sigmas, count = outcome.final.double().numpy().ravel(), np.exp(estimates.levels), len(recorded)
    states, parents = {0: recorded[0]}, list[dict[int, int]]()
    for step in range(1, steps):
        found = estimates.of(states)
        arrived: dict[int, tuple[float, int, Floats]] = {}
        for source, estimate in found.items():
            for target in range(source + 1, count - (steps - 1 - step)):
                share = sigmas[target] / sigmas[source]
                state = share * states[source] + (1 - share) * estimate
                gap = float(np.linalg.norm(state - recorded[target]))
                if target not in arrived or gap < arrived[target][0]:
                    arrived[target] = gap, source, state
        parents.append({target: source for target, (_, source, _) in arrived.items()})
        states = {target: state for target, (_, _, state) in arrived.items()}
    ends = {place: float(np.linalg.norm(estimate - end)) for place, estimate in estimates.of(states).items()}
    places = [min(ends, key=lambda place: ends[place])]
    for known in reversed(parents):
        places.append(known[places[-1]])
    return places[::-1]
