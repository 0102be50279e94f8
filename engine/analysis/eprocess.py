"""Evidence that may be checked after every prompt: e-processes, their intervals, and the prompts still needed.

An e-process starts at 1 and has an expectation of at most 1 under its hypothesis: the probability that it ever reaches
1/a is at most a (Ville 1939). So evidence may be checked after each prompt and prompts may be added at any time without
changing the error rate. All functions return logarithms; `log 20 = 3.0` rejects at 5 %.

- Shares (an event occurs for a prompt or not): mixtures of binomial likelihoods over a beta distribution truncated to
  the alternative (Robbins 1970, doi:10.1214/aoms/1177696786).
- Means of bounded values: a bet on each value, with a stake determined by the previous values (Waudby-Smith and Ramdas
  2023, doi:10.1093/jrsssb/qkad009, section 4).
- Intervals: all values of the parameter that the same evidence has not rejected so far, so that an interval can't
  contradict a verdict. Each end holds separately at the level.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]

MOST_PROMPTS = 20_000
MOST_STAKED = 0.9
STEPS = 40
TINY = 1e-9


@dataclass(frozen=True)
class Start:
    """Prior guesses of a betting process: mean and variance before the first value."""

    mean: float
    variance: float


def first_guess(mean: float, reach: float) -> Start:
    """A start halfway between a mean and 0, for values at most `reach` away from 0."""
    return Start(mean / 2, abs(mean * reach) / 4)


def log_e_few(events: npt.ArrayLike, n: npt.ArrayLike, share: npt.ArrayLike) -> Floats:
    """Evidence against "the event occurs in a share of `share` or more", after `events` of `n` prompts; broadcasts.

    The mixture is Beta(1/2, 1/share) truncated to [0, share], which expects the event to be rare.
    """
    x, n, q = (np.asarray(part, dtype=np.float64) for part in (events, n, share))
    a, b = 0.5, 1 / q
    with np.errstate(divide="ignore"):  # the logarithm of a probability too small to store
        mixed = special.betaln(a + x, b + n - x) + np.log(special.betainc(a + x, b + n - x, q))
        cut = special.betaln(a, b) + np.log(special.betainc(a, b, q))
    return np.asarray(mixed - cut - special.xlogy(x, q) - special.xlog1py(n - x, -q), dtype=np.float64)


def log_e_many(events: npt.ArrayLike, n: npt.ArrayLike, share: npt.ArrayLike) -> Floats:
    """Evidence against "the event occurs in a share of `share` or less"; the mixture is uniform on [share, 1]."""
    x, n, q = (np.asarray(part, dtype=np.float64) for part in (events, n, share))
    with np.errstate(divide="ignore"):
        mixed = special.betaln(1 + x, 1 + n - x) + np.log(special.betaincc(1 + x, 1 + n - x, q))
    return np.asarray(mixed - np.log1p(-q) - special.xlogy(x, q) - special.xlog1py(n - x, -q), dtype=np.float64)


def log_e_above(values: npt.ArrayLike, mean: npt.ArrayLike, low: float, start: Start | None = None) -> Floats:
    """Evidence against "the mean is `mean` or less" after each value, in the order of the prompts.

    Args:
        values: Not below `low`, (..., prompts).
        mean: Scalar, or broadcast against `values`, e.g. (means, 1).
        low: The smallest possible value.
        start: By default halfway between `mean` and 0, with `low` as the largest distance from 0.

    Returns:
        The process, in the broadcast shape.
    """
    y, m = np.asarray(values, dtype=np.float64), np.asarray(mean, dtype=np.float64)
    start = start or first_guess(float(m), low)
    known = np.arange(1, y.shape[-1] + 1)  # number of values behind each estimate, besides the prior guess
    sums = np.cumsum(y, axis=-1) + start.mean
    means = sums / (known + 1)
    squares = np.cumsum((y - means) ** 2, axis=-1) + start.variance
    gap = _shifted(means, start.mean) - m
    stake = np.clip(gap / (_shifted(squares / (known + 1), start.variance) + gap**2), 0, MOST_STAKED / (m - low))
    return np.asarray(np.cumsum(np.log1p(stake * (y - m)), axis=-1), dtype=np.float64)


def log_e_below(values: npt.ArrayLike, mean: npt.ArrayLike, high: float, start: Start | None = None) -> Floats:
    """The mirror of `log_e_above`: evidence against "the mean is `mean` or more", for values not above `high`."""
    y, m = np.asarray(values, dtype=np.float64), np.asarray(mean, dtype=np.float64)
    mirrored = Start(-start.mean, start.variance) if start else None
    return log_e_above(-y, -m, -high, mirrored)


def _shifted(estimates: Floats, first: float) -> Floats:
    """The estimates before each value."""
    ahead = np.full((*estimates.shape[:-1], 1), first)
    return np.concatenate([ahead, estimates[..., :-1]], axis=-1)


def p_value(log_e: float) -> float:
    """The p value of the largest evidence so far."""
    return float(min(1.0, math.exp(-log_e))) if log_e > -700 else 1.0


def threshold(level: float) -> float:
    """The evidence that rejects at a level; at level 0 none does."""
    return -math.log(level) if level > 0 else math.inf


def share_interval(events: npt.ArrayLike, level: float) -> tuple[float, float]:
    """The shares that neither `log_e_many` nor `log_e_few` has rejected at any prompt.

    Args:
        events: 0 or 1 for each prompt, in order, (prompts,).
        level: Level of each end.
    """
    x = np.cumsum(np.asarray(events, dtype=np.float64))
    n = np.arange(1, len(x) + 1)
    if not len(x):
        return 0.0, 1.0
    need = threshold(level)
    high = _crossing(lambda share: log_e_few(x, n, share).max() < need, 0.0, 1.0)
    low = _crossing(lambda share: log_e_many(x, n, share).max() >= need, 0.0, 1.0)
    return (low if low > TINY else 0.0), (high if high < 1 - TINY else 1.0)


def mean_interval(values: npt.ArrayLike, bound: float, low: float, high: float, level: float) -> tuple[float, float]:
    """The means of bounded values that betting has not rejected at any prompt, from below or above.

    Args:
        values: From `low` to `high`, in order, (prompts,).
        bound: The mean that the verdict is about; the interval agrees with the verdict on it.
        low, high: The range of the values.
        level: Level of each end.
    """
    y = np.asarray(values, dtype=np.float64)
    if not len(y):
        return low, high
    need = threshold(level)
    start = first_guess(bound, max(-low, high))

    def too_low(mean: float) -> bool:
        return bool(log_e_above(y, mean, low, start).max() >= need)

    def not_too_high(mean: float) -> bool:
        return bool(log_e_below(y, mean, high, start).max() < need)

    least = _crossing(too_low, *((bound, high) if too_low(bound) else (low, bound)))
    most = _crossing(not_too_high, *((bound, high) if not_too_high(bound) else (low, bound)))
    return least, most


def _crossing(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that holds at `low` stops holding, by bisection; `high` if it always holds."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (low + high) / 2


def prompts_for_few(events: int, level: float, share: float, rate: float = 0.0, n: int = 0) -> int | None:
    """Total prompts, at least `n`, at which `log_e_few` rejects, if the event occurs at `rate` from now on.

    Returns:
        None if that takes more than `MOST_PROMPTS`.
    """
    prompts = np.arange(max(n, 1), MOST_PROMPTS + 1)
    enough = log_e_few(events + rate * (prompts - n), prompts, share) >= threshold(level)
    return int(prompts[np.argmax(enough)]) if enough.any() else None


def usual_prompts_for_few(level: float, share: float, rate: float, most: int = 5_000) -> int | None:
    """Prompts by which `log_e_few` has rejected in half of all studies, if the event occurs in a share `rate`.

    Returns:
        None if that takes more than `most`.
    """
    if rate >= share:
        return None
    counts = np.arange(200)
    alive, rejected = np.where(counts == 0, 1.0, 0.0), 0.0  # share of undecided studies, by number of events
    for n in range(1, most + 1):
        alive = (1 - rate) * alive + rate * np.concatenate([[0.0], alive[:-1]])
        known = counts <= n
        enough = np.zeros(len(counts), dtype=bool)
        enough[known] = log_e_few(counts[known], n, share) >= threshold(level)
        rejected += float(alive[enough].sum())
        alive[enough] = 0.0
        if rejected >= 0.5:
            return n
    return None


def prompts_for_above(values: npt.ArrayLike, mean: float, low: float, level: float) -> int | None:
    """Total prompts at which `log_e_above` rejects, if the values seen so far keep repeating.

    Returns:
        None if that takes more than `MOST_PROMPTS`, or nothing has been seen.
    """
    y = np.asarray(values, dtype=np.float64)
    if not len(y) or y.mean() <= mean:
        return None
    enough = log_e_above(np.resize(y, MOST_PROMPTS), mean, low) >= threshold(level)
    return int(np.argmax(enough)) + 1 if enough.any() else None
