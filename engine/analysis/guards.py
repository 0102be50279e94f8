"""Guards: what a lane has to show before it may replace the baseline, and how far the prompts so far show it. Pure.

A guard turns each prompt into one number and names the worst true value that is still too bad. It is "shown" once the
evidence against that value is strong enough at the lane's level, and "refuted" once the mirrored evidence says that the
lane is worse than allowed. Anything else counts as not shown: too few prompts, no values at all, and prompts behind one
that has none (a value may be missing for a reason that has to do with it).
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from engine.analysis import eprocess as ep

Floats = npt.NDArray[np.float64]
Kind = Literal["event", "share", "difference"]
State = Literal["shown", "refuted", "open", "too few", "missing"]

OTHER = "other_picture"
EXCESS = "excess_error"


@dataclass(frozen=True)
class Guard:
    """What a lane must show, fixed before any candidate is looked at.

    Attributes:
        key: Column of the outcomes it looks at.
        label: For people, e.g. "CLIP score".
        kind: `event`: 0 or 1 a prompt, 1 is bad. `share`: a share of events a prompt, where there are several seeds.
            `difference`: lane minus baseline, oriented so that more is better.
        bound: A share of `bound` or more is too bad; or a mean difference of `bound` (below 0) or less.
        reach: Differences are clipped to plus and minus this; 1 for the other kinds.
        fewest: Prompts below which nothing is said.
        unit: Of a difference.
    """

    key: str
    label: str
    kind: Kind
    bound: float
    reach: float = 1.0
    fewest: int = 5
    unit: str = ""

    def __post_init__(self) -> None:
        """Refuses bounds that no evidence could be weighed against."""
        inside = -self.reach < self.bound < 0 if self.kind == "difference" else 0 < self.bound < 1
        if not inside:
            raise ValueError(f"Guard '{self.key}': a bound of {self.bound:g} does not fit values of kind {self.kind}.")


@dataclass(frozen=True)
class GuardEvidence:
    """What the prompts so far say by one guard.

    Attributes:
        n: Prompts it rests on, the first of the order without a gap.
        events: Prompts that the event struck; NaN for differences.
        value: Share of events, or mean difference (clipped); with what the evidence has not rejected, `low` to `high`,
            each end at the lane's level.
        log_e: Largest evidence so far that the lane is good enough; p what it is worth.
        log_e_against: Largest evidence so far that it is not.
        level: At which `p` has to reject.
        needed: Further prompts that would show it: if none of them is bad, and if they are like those seen (alike for
            differences: if they are like those seen); None where that would take forever.
    """

    guard: Guard
    state: State
    n: int
    events: float
    value: float
    low: float
    high: float
    log_e: float
    p: float
    log_e_against: float
    level: float
    needed: tuple[int | None, int | None] = (None, None)

    @property
    def shown(self) -> bool:
        """Whether this guard consents."""
        return self.state == "shown"

    @property
    def measured(self) -> str:
        """Value and interval, e.g. "1.2 % [0, 4.3]"."""
        if not self.n:
            return "no values"
        if self.guard.kind == "difference":
            return f"{self.value:+.2g} [{self.low:+.2g}, {self.high:+.2g}]"
        value, low, high = (f"{round(100 * part, 2):.3g}" for part in (self.value, self.low, self.high))
        return f"{value} % [{low}, {high}]"

    def __str__(self) -> str:
        """Value, interval and what it rests on, e.g. "other pictures 1.2 % [0, 4.3] of 84 prompts"."""
        if not self.n:
            return f"{self.guard.label}: {self.measured}"
        unit = f" {self.guard.unit}" if self.guard.unit else ""
        preposition = "in" if self.guard.kind == "difference" else "of"
        return f"{self.guard.label} {self.measured}{unit} {preposition} {self.n:,} prompt{'s' * (self.n != 1)}"


@dataclass(frozen=True)
class Process:
    """The two processes of a guard on the values seen, as running logarithms of evidence, (..., prompts)."""

    favour: Floats
    against: Floats

    @classmethod
    def of(cls, guard: Guard, values: npt.ArrayLike) -> Self:
        """Evidence after each prompt; leading axes are studies of their own."""
        y = np.asarray(values, dtype=np.float64)
        if guard.kind == "event":
            events, n = np.cumsum(y, axis=-1), np.arange(1, y.shape[-1] + 1)
            return cls(ep.log_e_few(events, n, guard.bound), ep.log_e_many(events, n, guard.bound))
        y, bound, low, high = _oriented(guard, y)
        start = ep.first_guess(bound, guard.reach)
        return cls(ep.log_e_above(y, bound, low, start), ep.log_e_below(y, bound, high, start))


def _oriented(guard: Guard, y: Floats) -> tuple[Floats, float, float, float]:
    """Values, bound and range such that more is better and 0 is the baseline."""
    if guard.kind == "share":
        return -np.clip(y, 0, 1), -guard.bound, -1.0, 0.0
    return np.clip(y, -guard.reach, guard.reach), guard.bound, -guard.reach, guard.reach


def leading(positions: npt.ArrayLike, values: npt.ArrayLike) -> Floats:
    """Values of the prompts 0, 1, 2, ... up to the first that has none.

    Raises:
        ValueError: A position is there twice: seeds have to be put together first.
    """
    places, y = np.asarray(positions, dtype=np.int64), np.asarray(values, dtype=np.float64)
    if len(np.unique(places)) != len(places):
        raise ValueError("A prompt has two values for one lane; put its seeds together first.")
    order = np.argsort(places)
    places, y = places[order], y[order]
    unbroken = (places == np.arange(len(places))) & np.isfinite(y)
    return y[: len(y) if unbroken.all() else int(np.argmin(unbroken))]


def weigh(guard: Guard, values: npt.ArrayLike, level: float, alpha: float) -> GuardEvidence:
    """What the values of one lane say by a guard.

    Args:
        guard: What has to be shown.
        values: One a prompt in the order of the study, without gaps.
        level: At which the lane may be accepted.
        alpha: At which it may be dropped.

    Raises:
        ValueError: A value that is not finite, or outside of what the guard's kind can be.
    """
    y = np.asarray(values, dtype=np.float64)
    _check(guard, y)
    if not len(y):
        nan = math.nan
        return GuardEvidence(guard, "missing", 0, nan, nan, nan, nan, 0.0, 1.0, 0.0, level, _needed(guard, y, level))
    process = Process.of(guard, y)
    favour, against = max(0.0, float(process.favour.max())), max(0.0, float(process.against.max()))
    low, high = _interval(guard, y, level)
    seen = np.clip(y, -guard.reach, guard.reach)
    events = math.nan if guard.kind == "difference" else float(y.sum())
    state = _state(guard, len(y), favour >= ep.threshold(level), against >= ep.threshold(alpha))
    needed = _needed(guard, y, level) if state in {"open", "too few"} else (0, 0) if state == "shown" else (None, None)
    p = ep.p_value(favour)
    return GuardEvidence(guard, state, len(y), events, float(seen.mean()), low, high, favour, p, against, level, needed)


def _check(guard: Guard, y: Floats) -> None:
    wrong = ~np.isfinite(y)
    if guard.kind == "event":
        wrong |= (y != 0) & (y != 1)
    elif guard.kind == "share":
        wrong |= (y < 0) | (y > 1)
    if wrong.any():
        raise ValueError(f"Guard '{guard.key}': {y[wrong][0]:g} is no value of kind {guard.kind}.")


def _state(guard: Guard, n: int, enough: bool, too_much: bool) -> State:
    """Where both processes have rejected, the worse of the two counts."""
    if n < guard.fewest:
        return "too few"
    return "refuted" if too_much else "shown" if enough else "open"


def _interval(guard: Guard, y: Floats, level: float) -> tuple[float, float]:
    if guard.kind == "event":
        return ep.share_interval(y, level)
    oriented, bound, least, most = _oriented(guard, y)
    low, high = ep.mean_interval(oriented, bound, least, most, level)
    return (-high, -low) if guard.kind == "share" else (low, high)


def _needed(guard: Guard, y: Floats, level: float) -> tuple[int | None, int | None]:
    n = len(y)
    if guard.kind == "event":
        events, rate = int(y.sum()), (float(y.sum()) + 0.5) / (n + 1) if n else 0.0
        totals = (
            ep.prompts_for_few(events, level, guard.bound, 0.0, n),
            ep.prompts_for_few(events, level, guard.bound, rate, n) if rate < guard.bound else None,
        )
    else:
        oriented, bound, least, _ = _oriented(guard, y)
        total = ep.prompts_for_above(oriented, bound, least, level)
        totals = (total, total)
    more = [None if total is None else max(total, guard.fewest) - n for total in totals]
    return more[0], more[1]
