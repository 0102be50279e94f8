"""The budget of one call of `decide`, its outcome, and how many more prompts fit."""

import contextlib
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.analysis.decision import Decision
from engine.errors import StudyError

_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*([mpc])")


@dataclass(frozen=True)
class SearchBudget:
    """Limits of one call."""

    seconds: float = math.inf
    prompts: float = math.inf
    calls: float = math.inf


def parse_budget(text: str) -> SearchBudget:
    """Reads minutes (`10m`), prompts (`200p`) or denoiser calls (`5000c`).

    Raises:
        StudyError: It is none of these.
    """
    match = _BUDGET.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise StudyError(f"Budget {text!r} should read 10m (minutes), 200p (prompts) or 5000c (denoiser calls).")
    amount = float(match[1])
    return {"m": SearchBudget(seconds=60 * amount), "p": SearchBudget(prompts=amount), "c": SearchBudget(calls=amount)}[
        match[2]
    ]


@dataclass
class DecideOutcome:
    """The outcome of a call.

    Attributes:
        decision: The current decision.
        made: Cells made.
        failed: Cells, timings and scores that failed, each reported to the progress.
        prompts: Prompts examined in this call.
        calls: Expected denoiser calls of the cells made.
        seconds: Wall seconds.
    """

    decision: Decision | None = None
    made: int = 0
    failed: int = 0
    prompts: int = 0
    calls: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """1 if something failed; else 0 if a lane is recommended or none can be, 3 if that is not known yet."""
        return 1 if self.failed else 3 if self.decision is None else self.decision.exit_code

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        found = self.decision
        told = (
            {"lane": found.lane, "known": found.known, "stop": found.stop, "sentence": found.sentence} if found else {}
        )
        numbers = ("made", "failed", "prompts", "calls", "seconds", "exit_code")
        return {key: getattr(self, key) for key in numbers} | told


# Prompts of the first batch under a time limit, while the pace is unknown.
FIRST_PROMPTS = 2
# Share of the time reserved for scoring what was made.
MEASURING = 0.1


class Meter:
    """Tracks how much of its budget a call has spent.

    Args:
        budget: The budget.
        outcome: The outcome so far, in which cells and calls are counted.
    """

    def __init__(self, budget: SearchBudget, outcome: DecideOutcome) -> None:
        self.budget, self.outcome = budget, outcome
        self._start, self._seconds, self._calls, self._full = time.monotonic(), 0.0, 0, False

    @property
    def seconds(self) -> float:
        """Wall seconds since the start of the call."""
        return time.monotonic() - self._start

    @property
    def spent(self) -> bool:
        """Whether no further prompt fits."""
        done, most = self.outcome, self.budget
        over = done.prompts >= most.prompts or done.calls >= most.calls
        return self._full or over or self.seconds >= (1 - MEASURING) * most.seconds

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Surrounds the making of cells: their pace tells how many more fit."""
        start, before = time.monotonic(), self.outcome.calls
        yield
        if self.outcome.calls > before:  # cached cells give no pace
            self._seconds += time.monotonic() - start
            self._calls += self.outcome.calls - before

    def fits(self, calls: int, prompts: int) -> int:
        """How many prompts of a batch fit: 0 if the budget is spent, at least 1 if the call has made nothing yet.

        A budget of prompts is spent in whole batches.

        Args:
            calls: Denoiser calls of the whole batch, without cached cells.
            prompts: Size of the batch.
        """
        if self.spent:
            return 0
        if not calls:
            return prompts
        each, most, done = calls / prompts, self.budget, self.outcome
        size = min(prompts, (most.calls - done.calls) / each)
        if math.isfinite(most.seconds):
            pace = self._seconds / self._calls if self._calls else 0.0
            left = (1 - MEASURING) * most.seconds - self.seconds
            size = min(size, left / (pace * each) if pace else FIRST_PROMPTS)
        found = int(size) if self._calls else max(1, int(size))
        self._full = found < 1
        return found

    def turns(self, most: int, share: float) -> Iterator[int]:
        """1, 2, ... up to `most`; no further one if another like the last would leave a share of the budget."""
        for turn in range(1, most + 1):
            seconds, calls = self.seconds, self.outcome.calls
            yield turn
            again = 2 * self.seconds - seconds, 2 * self.outcome.calls - calls
            if again[0] > share * self.budget.seconds or again[1] > share * self.budget.calls:
                return

    def fits_calls(self, calls: int, pace: float | None) -> bool:
        """Whether further calls fit that can't be interrupted and belong to no prompt.

        Args:
            calls: Denoiser calls.
            pace: Seconds per call; None for the pace so far.
        """
        pace = pace or (self._seconds / self._calls if self._calls else 0.0)
        return self.outcome.calls < self.budget.calls and pace * calls <= self.budget.seconds - self.seconds
