"""Refinement by real runs: levels are moved one at a time, and a move is kept only if runs confirm it.

Coordinate descent in log sigma with the real scheduler, all moves of a level in one batch; a few pictures screen the
moves before the rest are run. After each round the schedule is evaluated on validation pictures, so that overfitting to
the search pictures is not selected; the search ends after `PATIENCE` rounds without a gain. Of several starts, only the
one that is best after `TRIAL_ROUNDS` goes on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from engine.study.custom_schedules import CustomSchedule
from engine.tune.placing import Levels, Placing

Errors = npt.NDArray[np.float64]
# Errors of schedules (rows) on pictures (columns): all pictures of a split, or its first ones.
Measure = Callable[[Sequence[CustomSchedule], int | None], Errors]

# Moves of a level, as fractions of the gap to its neighbour on that side.
MOVES = (0.35, -0.35, 0.12, -0.12)
SHRINK = 0.7
FIRST_PICTURES = 8
# Rounds without a gain on validation after which a search ends.
PATIENCE = 2
# Rounds that every start gets; further ones go to the best start alone.
TRIAL_ROUNDS = 2


@dataclass(frozen=True)
class Refined:
    """A start after refinement.

    Attributes:
        start: Name of the start.
        schedule: The best schedule on validation.
        search: Its objective on the search pictures.
        validation: Its objective on the validation pictures.
        before: The start's own objective on validation.
        rounds: Rounds run.
    """

    start: str
    schedule: CustomSchedule
    search: float
    validation: float
    before: float
    rounds: int


@dataclass
class _Descent:
    """A refinement on its way: where it is, and the best schedule it came by."""

    best: Refined
    levels: Levels
    score: float
    rounds: int = 0
    idle: int = 0


def robust_mean(errors: Errors) -> float:
    """A mean that a few pictures cannot dominate: the power mean of exponent 1/2, between geometric and arithmetic.

    Pictures that became another picture have errors near 1, thirty times the others, and would dominate the mean.
    """
    return float(np.mean(np.sqrt(errors)) ** 2) if np.isfinite(errors).all() else math.inf


class Refiner:
    """Refines starts.

    Args:
        placing: Converts levels to lists.
        search: Errors on the search pictures.
        validation: Errors on the validation pictures.
        objective: One number from the errors of a schedule; lower is better.
        tell: Called with a line about each round.
    """

    def __init__(
        self,
        placing: Placing,
        search: Measure,
        validation: Measure,
        objective: Callable[[Errors], float] = robust_mean,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._placing, self._search, self._validation = placing, search, validation
        self._objective, self._tell = objective, tell

    def race(self, starts: dict[str, Levels], keep: int = 2) -> list[str]:
        """The best starts on the search pictures, best first; a few pictures screen them before the rest are run."""
        named = {found: name for name, levels in starts.items() if (found := self._placing.schedule(levels))}
        lists = {name: found for found, name in named.items()}
        first = self._objectives(list(lists.values()), FIRST_PICTURES)
        order = [name for _, name in sorted(zip(first, lists, strict=True))][: keep + 2]
        full = self._objectives([lists[name] for name in order], None)
        return [name for _, name in sorted(zip(full, order, strict=True))][:keep]

    def refine(self, starts: Mapping[str, Levels], rounds: int) -> tuple[Refined, ...]:
        """Refines every start for `TRIAL_ROUNDS`, and the best of them on validation for at most `rounds` in all."""
        descents = [self._begin(name, levels) for name, levels in starts.items()]
        for descent in descents:
            self._descend(descent, min(rounds, TRIAL_ROUNDS))
        self._descend(min(descents, key=lambda descent: descent.best.validation), rounds)
        return tuple(replace(descent.best, rounds=descent.rounds) for descent in descents)

    def _begin(self, name: str, levels: Levels) -> _Descent:
        schedule = self._placing.schedule(levels)
        assert schedule is not None  # `race` drops starts without one
        score, before = self._objectives([schedule], None)[0], self._judge(schedule)
        return _Descent(Refined(name, schedule, score, before, before, 0), levels, score)

    def _descend(self, descent: _Descent, rounds: int) -> None:
        """Goes on until `rounds` are done, or nothing is gained."""
        while descent.rounds < rounds and descent.idle < PATIENCE:
            moved, score = self._round(descent.levels, descent.score, SHRINK**descent.rounds)
            gained = not np.array_equal(moved, descent.levels)
            descent.levels, descent.score, descent.rounds = moved, score, descent.rounds + 1
            schedule, best = self._placing.schedule(moved), descent.best
            assert schedule is not None  # `_moved` keeps only levels that have one
            judged = self._judge(schedule) if gained else math.inf
            told = f"{judged:.4g} on validation" if gained else "no move helped"
            self._tell(f"{best.start}, round {descent.rounds}: {score:.4g} on search, {told}")
            descent.idle = 0 if judged < best.validation else descent.idle + 1
            if judged < best.validation:
                descent.best = Refined(best.start, schedule, score, judged, best.before, descent.rounds)

    def _round(self, start: Levels, score: float, size: float) -> tuple[Levels, float]:
        """Tries to move every level once, then to repeat the whole change."""
        levels = start
        for place in range(1, len(levels)):
            levels, score = self._moved(levels, score, [self._nudged(levels, place, size * move) for move in MOVES])
        if not np.array_equal(levels, start):
            levels, score = self._moved(levels, score, [levels + (levels - start)])
        return levels, score

    def _nudged(self, levels: Levels, place: int, share: float) -> Levels:
        """The levels with one moved by a share of the gap: up if positive, else down."""
        below = levels[place + 1] if place + 1 < len(levels) else self._placing.lowest
        gap = (levels[place - 1] if levels[place - 1] < 10 else levels[place] + 2) - levels[place]
        moved = levels.copy()
        moved[place] += share * (gap if share > 0 else levels[place] - below)
        return moved

    def _moved(self, levels: Levels, score: float, candidates: Sequence[Levels]) -> tuple[Levels, float]:
        """The best of the candidates, or the levels themselves if none is better, with the score."""
        now = self._placing.schedule(levels)
        assert now is not None  # as above
        lists: dict[CustomSchedule, Levels] = {}
        for each in candidates:
            found = self._placing.schedule(each)
            if found is not None and found != now:
                lists[found] = each
        if not lists:
            return levels, score
        first = self._objectives([now, *lists], FIRST_PICTURES)
        better = [each for value, each in zip(first[1:], lists, strict=True) if value < first[0]]
        for value, found in zip(self._objectives(better, None), better, strict=True):
            if value < score:
                levels, score = lists[found], value
        return levels, score

    def _objectives(self, schedules: Sequence[CustomSchedule], pictures: int | None) -> list[float]:
        if not schedules:
            return []
        return [self._objective(row) for row in self._search(schedules, pictures)]

    def _judge(self, schedule: CustomSchedule) -> float:
        return self._objective(self._validation([schedule], None)[0])
