"""What one call of `decide` may spend, and what it did."""

import math
import re
from dataclasses import dataclass
from typing import Any

from engine.analysis.decision import Decision
from engine.errors import StudyError

_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*([mpc])")


@dataclass(frozen=True)
class SearchBudget:
    """The most that one call may spend."""

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
        raise StudyError(f"SearchBudget {text!r} should read 10m (minutes), 200p (prompts) or 5000c (denoiser calls).")
    amount = float(match[1])
    return {"m": SearchBudget(seconds=60 * amount), "p": SearchBudget(prompts=amount), "c": SearchBudget(calls=amount)}[
        match[2]
    ]


@dataclass
class DecideOutcome:
    """What a search did.

    Attributes:
        decision: What may be said now.
        made: Cells made.
        failed: Cells, timings and scores that failed, each told to the progress.
        prompts: Prompts of the order that this call has looked at.
        calls: Denoiser calls that the cells made were expected to take.
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
        """1 if something failed; else 0 if a lane is named or none can be, 3 if nothing is known yet."""
        return 1 if self.failed else 3 if self.decision is None else self.decision.exit_code

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        found = self.decision
        told = (
            {"lane": found.lane, "known": found.known, "stop": found.stop, "sentence": found.sentence} if found else {}
        )
        numbers = ("made", "failed", "prompts", "calls", "seconds", "exit_code")
        return {key: getattr(self, key) for key in numbers} | told
