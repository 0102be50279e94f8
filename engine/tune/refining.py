"""Measured refinement: levels are moved one by one, and a move is kept only if real runs confirm it.

Coordinate descent in log sigma with the real scheduler, as many moves as there are in one batch; a few pictures sort
out moves that are no good before all of them are run. After each round other pictures judge: what only fits the
pictures of the search is left behind, and no further round follows two that gained nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.study.custom_schedules import CustomSchedule
from engine.tune.placing import Levels, Placing

Errors = npt.NDArray[np.float64]
# Errors of schedules (rows) on pictures (columns): of all pictures of a split, or of its first ones.
Measure = Callable[[Sequence[CustomSchedule], int | None], Errors]

# Moves of a level, as parts of the gap to its neighbour on that side.
MOVES = (0.35, -0.35, 0.12, -0.12)
SHRINK = 0.7
FIRST_PICTURES = 8
# Rounds without a gain on the other pictures after which a search ends.
PATIENCE = 2


@dataclass(frozen=True)
class Refined:
    """What came of a start.

    Attributes:
        start: Its name.
        schedule: The best schedule by the pictures that judge.
        search: Its objective on the pictures of the search.
        validation: Its objective on the pictures that judge.
        before: The start's own objective on them.
        rounds: Rounds made.
    """

    start: str
    schedule: CustomSchedule
    search: float
    validation: float
    before: float
    rounds: int


def robust_mean(errors: Errors) -> float:
    """A mean that a few pictures cannot rule: the power mean of exponent 1/2, between the geometric mean and the mean.

    Pictures that went elsewhere have errors near 1, thirty times the others; their mean would be all one minimised.
    """
    return float(np.mean(np.sqrt(errors)) ** 2) if np.isfinite(errors).all() else math.inf


class Refiner:
    """Refines starts.

    Args:
        placing: Turns levels into lists.
        search: Errors on the pictures of the search.
        validation: Errors on the pictures that judge.
        objective: One figure of the errors of a schedule; lower is better.
        tell: Is told what was found.
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
        """The best starts by the pictures of the search, best first; a few pictures sort out the rest."""
        named = {found: name for name, levels in starts.items() if (found := self._placing.schedule(levels))}
        lists = {name: found for found, name in named.items()}
        first = self._objectives(list(lists.values()), FIRST_PICTURES)
        order = [name for _, name in sorted(zip(first, lists, strict=True))][: keep + 2]
        full = self._objectives([lists[name] for name in order], None)
        return [name for _, name in sorted(zip(full, order, strict=True))][:keep]

    def refine(self, name: str, start: Levels, rounds: int) -> Refined:
        """Refines one start for at most so many rounds."""
        levels, schedule = start, self._placing.schedule(start)
        assert schedule is not None  # as `race` has it
        score = self._objectives([schedule], None)[0]
        before = self._judge(schedule)
        best, idle, size, made = Refined(name, schedule, score, before, before, 0), 0, 1.0, 0
        for made in range(1, rounds + 1):
            moved, score = self._round(levels, score, size)
            gained = not np.array_equal(moved, levels)
            levels, size = moved, size * SHRINK
            schedule = self._placing.schedule(levels)
            assert schedule is not None  # only schedules are kept
            judged = self._judge(schedule) if gained else math.inf
            self._tell(f"{name}, round {made}: {score:.4g} on search, {judged:.4g} on validation")
            idle = 0 if judged < best.validation else idle + 1
            if judged < best.validation:
                best = Refined(name, schedule, score, judged, before, made)
            if idle >= PATIENCE:
                break
        return Refined(name, best.schedule, best.search, best.validation, before, made)

    def _round(self, start: Levels, score: float, size: float) -> tuple[Levels, float]:
        """Tries to move every level once, then the whole change once more."""
        levels = start
        for place in range(1, len(levels)):
            levels, score = self._moved(levels, score, [self._nudged(levels, place, size * move) for move in MOVES])
        if not np.array_equal(levels, start):
            levels, score = self._moved(levels, score, [levels + (levels - start)])
        return levels, score

    def _nudged(self, levels: Levels, place: int, share: float) -> Levels:
        """A level moved by a part of the gap: up for a positive share."""
        below = levels[place + 1] if place + 1 < len(levels) else self._placing.lowest
        gap = (levels[place - 1] if levels[place - 1] < 10 else levels[place] + 2) - levels[place]
        moved = levels.copy()
        moved[place] += share * (gap if share > 0 else levels[place] - below)
        return moved

    def _moved(self, levels: Levels, score: float, candidates: Sequence[Levels]) -> tuple[Levels, float]:
        """The best of the candidates if it is better than what there is."""
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
