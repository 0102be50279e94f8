"""Paired statistics: intervals, equivalence, Holm and power. Pure: numpy and scipy, no torch, no clock.

Definitions, on differences lane minus baseline of the same prompt and seed:

- Unit: the prompt. Seeds are nested: the differences of a prompt are averaged first, and prompts count alike. Every
  function here but `prompt_means` takes one value a prompt.
- Interval: percentile bootstrap over prompts, with the tails widened from normal to Student quantiles ("expanded
  percentile", Hesterberg 2015, doi:10.1080/00031305.2015.1089789), as plain percentiles are too narrow for few
  prompts. The generator is seeded.
- Equivalence: two one-sided t tests (TOST, Schuirmann 1987, doi:10.1007/BF01068419) of |mean| < margin, the margin
  fixed before the differences are seen. p is the larger of the two. Shares (of pictures that are recognised) differ in
  few prompts or none, where a t test claims too much; there a binomial bound has to agree. No test
  can exclude what is too rare for so many prompts: one in five samples of 30 prompts misses a change that strikes one
  prompt in twenty.
- Difference: two-sided one-sample t test, of mean = 0 or of |mean| <= margin.
- Where all prompts give the same value nothing is known of how they scatter: no interval and no p, unless the metric is
  bounded (`unanimous_bound`, `ranged_estimate`).
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special  # not scipy.stats, which takes longer to import than a page to draw

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
CONFIDENCE = 0.95
RESAMPLES = 4000
MIN_PROMPTS = 5
SEED = 0
# Values that differ by less are alike.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        n: Prompts behind it.
        pairs: Cells, or pairs of cells, behind it.
    """

    value: float
    low: float
    high: float
    n: int
    pairs: int

    def __str__(self) -> str:
        """Value and interval, or "-" if there is none: no figure is shown without."""
        return "-" if math.isnan(self.low) else f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def prompt_means(values: Sequence[float] | Floats, prompts: Sequence[object]) -> Floats:
    """The mean of each prompt's values, prompts in order of first appearance.

    Raises:
        ValueError: Of unequal length, or a value that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) != len(prompts):
        raise ValueError(f"{len(array)} values for {len(prompts)} prompts.")
    if not np.isfinite(array).all():
        raise ValueError("A value is not finite.")
    order: dict[object, int] = {}
    index = np.array([order.setdefault(prompt, len(order)) for prompt in prompts], dtype=np.int64)
    return np.bincount(index, weights=array, minlength=len(order)) / np.bincount(index, minlength=len(order))


def interval(means: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The bootstrap interval of the mean over prompts; NaN, NaN below `MIN_PROMPTS` prompts."""
    n = len(means)
    if n < MIN_PROMPTS:
        return float("nan"), float("nan")
    resampled = means[_draws(n)].mean(axis=1)
    low, high = np.quantile(resampled, expanded_tails(n, confidence))
    return float(low), float(high)


def estimate(values: Sequence[float] | Floats, prompts: Sequence[object]) -> Estimate:
    """Mean and interval of values grouped by prompt."""
    means = prompt_means(values, prompts)
    low, high = interval(means)
    return Estimate(float(means.mean()) if len(means) else float("nan"), low, high, len(means), len(values))


def ranged_estimate(
    values: Sequence[float] | Floats, prompts: Sequence[object], least: float = -math.inf, most: float = math.inf
) -> Estimate:
    """As `estimate`, for values between two ends, also where all prompts are alike.

    There the bootstrap has no width. The interval then reaches as far as prompts that were not seen can move the mean
    (`unanimous_bound`); without such ends there is none.
    """
    found, means = estimate(values, prompts), prompt_means(values, prompts)
    if found.n < MIN_PROMPTS or not np.allclose(means, means[0], rtol=ROUNDING, atol=ROUNDING):
        return found
    low = found.value - unanimous_bound(found.n, found.value - least)
    high = found.value + unanimous_bound(found.n, most - found.value)
    if not (math.isfinite(low) and math.isfinite(high)):
        low = high = math.nan
    return replace(found, low=low, high=high)


def ratio(lane: Floats, baseline: Floats) -> tuple[float, float, float]:
    """Ratio of the means over prompts with its interval, prompts drawn together; NaN if the baseline's mean is zero."""
    if not len(baseline) or baseline.mean() == 0:
        return float("nan"), float("nan"), float("nan")
    value = float(lane.mean() / baseline.mean())
    if len(lane) < MIN_PROMPTS:
        return value, float("nan"), float("nan")
    draws = _draws(len(lane))
    below = baseline[draws].mean(axis=1)
    # A draw without any baseline left says nothing.
    resampled = lane[draws].mean(axis=1)[below != 0] / below[below != 0]
    low, high = np.quantile(resampled, expanded_tails(len(lane)))
    return value, float(low), float(high)


def resampled_interval(statistic: Callable[[npt.NDArray[np.int64]], Floats], n: int) -> tuple[float, float]:
    """The expanded percentile interval of any statistic over n prompts; NaN, NaN below `MIN_PROMPTS` prompts.

    Args:
        statistic: From (resamples, n) indices of drawn prompts to one value for each resample; NaN says nothing.
        n: Prompts.
    """
    if n < MIN_PROMPTS:
        return float("nan"), float("nan")
    values = statistic(_draws(n))
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, expanded_tails(n))
    return float(low), float(high)


def equivalence_p(means: Floats, margin: float) -> float:
    """p of the hypothesis that the true mean is at least `margin` away from 0.

    NaN below `MIN_PROMPTS` prompts, and where all are alike.
    """
    n = len(means)
    if n < MIN_PROMPTS or not margin > 0:
        return float("nan")
    centre, error = float(means.mean()), float(means.std(ddof=1)) / np.sqrt(n)
    return float(special.stdtr(n - 1, (abs(centre) - margin) / error)) if error > 0 else float("nan")


def difference_p(means: Floats, margin: float = 0.0) -> float:
    """Two-sided p of the hypothesis that the true mean is at most `margin` away from 0; NaN as `equivalence_p`."""
    n = len(means)
    if n < MIN_PROMPTS or math.isnan(margin):
        return float("nan")
    centre, error = float(means.mean()), float(means.std(ddof=1)) / np.sqrt(n)
    return float(min(1.0, 2 * special.stdtr(n - 1, (margin - abs(centre)) / error))) if error > 0 else float("nan")


def bounded_equivalence_p(means: Floats, margin: float, span: float) -> float:
    """As `equivalence_p`, for values of a bounded metric that few prompts differ in, where a t test sees too little.

    A mean loss of `margin` in n prompts shows as a summed loss of so little with at most the probability that a
    binomial count of chance margin / span does; likewise for gains. Sums between whole numbers are read off the beta
    distribution. p is the largest of these two and that of the t tests.
    """
    n = len(means)
    if n < MIN_PROMPTS or not 0 < margin <= span:
        return equivalence_p(means, margin)
    sums = [float(np.clip(sign * means / span, 0, 1).sum()) for sign in (-1, 1)]
    sparse = max(
        float(special.betainc(n - total, total + 1, 1 - margin / span)) if total < n else 1.0 for total in sums
    )
    tested = equivalence_p(means, margin)
    if math.isnan(tested):  # all alike
        tested = 0.0 if abs(float(means.mean())) < margin else 1.0
    return max(tested, sparse)


def bounded_difference_p(means: Floats, margin: float, span: float) -> float:
    """As `difference_p`, for values of a bounded metric; the mirror of `bounded_equivalence_p`."""
    n = len(means)
    if n < MIN_PROMPTS or not 0 < margin <= span:
        return difference_p(means, margin)
    total = max(float(np.clip(sign * means / span, 0, 1).sum()) for sign in (-1, 1))
    often = 2 * float(special.betainc(total, n - total + 1, margin / span)) if total > 0 else 1.0
    tested = difference_p(means, margin)
    return min(1.0, often if math.isnan(tested) else max(tested, often))


def bounded_interval(means: Floats, span: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """As `interval`, for values of a bounded metric: at least as wide as losses and gains that rare can hide."""
    low, high = interval(means, confidence=confidence)
    n, centre = len(means), float(means.mean()) if len(means) else float("nan")
    if math.isnan(low):
        return low, high
    loss, gain = (float(np.clip(sign * means / span, 0, 1).sum()) for sign in (-1, 1))
    return (
        min(low, centre - span * (upper_bound(loss, n, confidence) - loss / n)),
        max(high, centre + span * (upper_bound(gain, n, confidence) - gain / n)),
    )


def upper_bound(total: float, n: int, confidence: float = CONFIDENCE) -> float:
    """How large the mean of n values of 0 to 1 may be that add up to `total` (one-sided, Clopper and Pearson 1934)."""
    return float(special.betaincinv(total + 1, n - total, confidence)) if total < n else 1.0


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Holm-adjusted p values in the order given; NaNs stay, and count for nothing."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order])) if len(order) else []
    return adjusted


def unanimous_bound(n: int, span: float, confidence: float = CONFIDENCE) -> float:
    """How far from what all n prompts show alike the true mean may be, for a value bounded to a range of `span`.

    Where no prompt differs, a bootstrap interval has no width and a t test no error. The share of prompts that would
    differ is then below 1 - (1 - confidence)^(1/n) (Clopper and Pearson 1934), each by at most `span`.
    """
    return span * upper_bound(0.0, n, confidence)


def unanimous_prompts(margin: float, span: float, confidence: float = CONFIDENCE) -> int:
    """Fewest prompts, all alike, whose `unanimous_bound` lies below a margin."""
    return max(MIN_PROMPTS, math.floor(math.log(1 - confidence) / math.log1p(-margin / span)) + 1)


def seed_noise(values: Sequence[float] | Floats, prompts: Sequence[object]) -> float:
    """Mean absolute difference between two seeds of a prompt; NaN if no prompt has two.

    With normal noise of standard deviation s within prompts this is 1.13 s.
    """
    gaps = _seed_gaps(values, prompts)
    return float(gaps.mean()) if len(gaps) else float("nan")


def seed_noise_bound(values: Sequence[float] | Floats, prompts: Sequence[object]) -> float:
    """What `seed_noise` is at least (one-sided, by Student): a few prompts show little; NaN below `MIN_PROMPTS`."""
    gaps = _seed_gaps(values, prompts)
    if len(gaps) < MIN_PROMPTS:
        return float("nan")
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    return max(0.0, float(gaps.mean() - special.stdtrit(len(gaps) - 1, CONFIDENCE) * error))


def _seed_gaps(values: Sequence[float] | Floats, prompts: Sequence[object]) -> Floats:
    """Mean absolute difference between two seeds of each prompt that has two."""
    grouped: dict[object, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        grouped.setdefault(prompt, []).append(float(value))
    gaps = [
        np.abs(np.subtract.outer(seeds, seeds))[np.triu_indices(len(seeds), 1)].mean()
        for seeds in grouped.values()
        if len(seeds) > 1
    ]
    return np.array(gaps, dtype=np.float64)


def minimum_detectable(deviation: float, n: int, power: float = 0.8, alpha: float = ALPHA) -> float:
    """The true mean difference that n prompts find with that power, for prompt means of that standard deviation."""
    if n < 2:
        return float("inf")
    return float((special.stdtrit(n - 1, 1 - alpha / 2) + special.stdtrit(n - 1, power)) * deviation / np.sqrt(n))


def equivalence_power(deviation: float, n: int, margin: float, true: float = 0.0, alpha: float = ALPHA) -> float:
    """Probability that n prompts are found equivalent, if the prompt means are normal with that true mean."""
    if n < 2:
        return 0.0
    error = deviation / np.sqrt(n)
    # Average over the sample's standard deviation, which follows a chi distribution.
    shares = (np.arange(4000) + 0.5) / 4000
    sampled = error * np.sqrt(2 * special.gammaincinv((n - 1) / 2, shares) / (n - 1))
    room = np.maximum(margin - special.stdtrit(n - 1, 1 - alpha) * sampled, 0.0)
    return float(np.mean(special.ndtr((room - true) / error) - special.ndtr((-room - true) / error)))


def prompts_needed(
    deviation: float, margin: float, power: float = 0.8, alpha: float = ALPHA, most: int = 100_000
) -> int | None:
    """Fewest prompts that find true equality equivalent with that power; None if more than `most`."""
    low, high = 1, MIN_PROMPTS
    while equivalence_power(deviation, high, margin, alpha=alpha) < power:
        low, high = high, high * 2
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if equivalence_power(deviation, middle, margin, alpha=alpha) >= power else (middle, high)
        )
    return max(high, MIN_PROMPTS)


@functools.lru_cache(maxsize=4)
def _draws(n: int) -> npt.NDArray[np.int64]:
    """The same for all figures of n prompts, and kept: to draw them takes longer than to use them."""
    draws = np.random.default_rng(SEED).integers(0, n, (RESAMPLES, n))
    draws.flags.writeable = False
    return draws


def expanded_tails(n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The quantiles of n resampled prompts that an interval ends at: normal ones widened to those of Student."""
    wide = np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, (1 + confidence) / 2)
    tail = float(special.ndtr(-wide))
    return tail, 1 - tail
