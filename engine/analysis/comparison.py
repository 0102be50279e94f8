"""How each lane compares with the baseline by each metric: paired, with interval and verdict. Pure, no torch.

These verdicts are of one metric alone and for display: which lane may replace the baseline is said by decision.py.

- A lane is compared on the prompts and seeds for which both it and the baseline have a value. Those without one are
  counted, and keep the lane from being called equivalent or better: what cannot be measured is often what went wrong.
- Margin: the metric's own; or that of the study's decision; or 0.3 of the baseline's seed-to-seed noise, of which the
  lower 95 % bound is taken, so that few prompts give a narrow one. It is known before any lane is looked at, and never
  below what the measurement itself can tell apart (`floors`).
- "Equivalent": the mean difference is within the margin by both the tests and the interval shown (statistics.py).
- "Worse" or "better" ("higher" or "lower" where neither is better): it is beyond the margin by both.
- "Too few": fewer pairs than the metric needs, or fewer than five prompts. "Undecided": anything else, also where all
  prompts give the same difference and the metric has no bounds. It does not mean equal.
- p values of one metric are adjusted by Holm (1979) over the lanes, equivalence and difference apart.
- Where latent errors cannot be told apart, pictures are not ranked by their likeness to the reference.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from engine.analysis import statistics as st
from engine.study.decision_settings import SEED_NOISE_SHARE

# Metrics of pictures that compare with the reference, as the latent error does.
OF_THE_REFERENCE = frozenset({"psnr", "ssim", "lpips"})
# Prompts whose differences vary by less than this share of the values are all alike.
ALIKE = 1e-6

Verdict = Literal["equivalent", "better", "worse", "higher", "lower", "undecided", "too few"]


class Floor(float):
    """A difference below which nothing is told apart, and where it comes from."""

    def __new__(cls, value: float, source: str) -> "Floor":
        """A floor of that value."""
        floor = super().__new__(cls, value)
        floor.source = source
        return floor

    source: str

    def __reduce__(self) -> tuple[type["Floor"], tuple[float, str]]:
        """For copies and pickles: pages keep what was worked out."""
        return Floor, (float(self), self.source)


def floors_of(references: pd.DataFrame, noise: pd.DataFrame) -> dict[str, Floor]:
    """The largest known error of repeated measurements, by metric.

    The latent error to the reference and that to its check differ by at most the distance between the two. And what the
    same cell differs by under other batch sizes, or in the study's number format from float32, is arithmetic.

    Args:
        references: Of the study's prompts and seeds (`engine.cache.score_tables.references`).
        noise: Of the study's environment and model (`engine.cache.lint_tables.noise`).
    """
    known = []
    if len(references) and references["agrees"].any():
        distance = float(references[references["agrees"]]["distance"].median())
        known.append(Floor(distance, "distance of the reference to its check"))
    rows = noise[(noise["metric"] == "latent_error") & noise["median"].notna()]
    # A study is never compiled, and all of its cells are of one number format.
    rows = rows[rows["variation"].str.startswith(("again", "batch")) | (rows["variation"] == "float32")]
    if len(rows):
        worst = rows.sort_values("median").iloc[-1]
        source = (
            f"noise of the arithmetic ({worst['variation']}, {worst['lane']}, n = {int(worst['n'])}, "
            f"on {worst['device_name']})"
        )
        known.append(Floor(float(worst["median"]), source))
    return {"latent_error": max(known)} if known else {}


@dataclass(frozen=True)
class Comparison:
    """One lane against the baseline by one metric.

    Attributes:
        difference: Mean of lane minus baseline.
        mean: The lane's mean with its interval, on the same cells.
        baseline_mean: Likewise.
        margin: Differences below it count as equivalent; NaN if it is not known.
        margin_from: Where the margin comes from, in words.
        p_equivalence: Of a mean beyond the margin, Holm-adjusted over the lanes; NaN if it cannot be told.
        p_difference: Of a mean within the margin, likewise.
        smallest_n: Pairs needed for a verdict.
        deviation: Standard deviation of the difference over prompts; NaN of a single one.
        span: How wide the range of the metric's values is; NaN if it has no bounds.
        missing: Pairs of pictures that are there, but have no value.
        floor: Differences below it cannot be told apart.
    """

    lane: str
    baseline: str
    metric: str
    label: str
    unit: str
    direction: str
    difference: st.Estimate
    mean: st.Estimate
    baseline_mean: st.Estimate
    margin: float
    margin_from: str
    p_equivalence: float
    p_difference: float
    smallest_n: int
    deviation: float
    verdict: Verdict
    span: float = math.nan
    missing: int = 0
    floor: float = 0.0

    @property
    def extent(self) -> str:
        """What it rests on, e.g. "24 prompts, 46 pairs, 2 without a value"."""
        n, pairs = self.difference.n, self.difference.pairs
        missing = f", {self.missing:,} without a value" if self.missing else ""
        return f"{n:,} prompt{'s' * (n != 1)}, {pairs:,} pair{'s' * (pairs != 1)}{missing}"

    @property
    def detectable(self) -> float:
        """The mean difference that so many prompts find with 80 % power, before the adjustment over lanes."""
        return st.minimum_detectable(self.deviation, self.difference.n)

    @property
    def prompts_needed(self) -> int | None:
        """Prompts that would find true equality equivalent with 80 % power, likewise.

        None if that cannot be told, or if equality is out of the question: the interval excludes it, or values are
        missing.
        """
        if not self.margin > 0 or self.missing or self.difference.low > 0 or self.difference.high < 0:
            return None
        unanimous = st.unanimous_prompts(self.margin, self.span) if self.margin < self.span else 0
        if self.deviation > 0:
            needed = st.prompts_needed(self.deviation, self.margin, alpha=st.ALPHA / 2)
            return None if needed is None else max(needed, unanimous)
        return unanimous or None


def compare(
    quality: pd.DataFrame,
    metrics: pd.DataFrame,
    baseline: str,
    floors: Mapping[str, Floor] | None = None,
    *,
    unscored: pd.DataFrame | None = None,
    margins: Mapping[str, float] | None = None,
) -> list[Comparison]:
    """All lanes against the baseline by all metrics, in the order of the metrics.

    Args:
        quality: Columns lane, prompt, seed, metric, value (`engine.cache.score_tables.picture_scores`).
        metrics: Columns metric, label, unit, direction, smallest_n, span, margin (`engine.cache.score_tables.metrics`).
        baseline: Lane that the others are compared with.
        floors: Least margin of a metric, by key (`engine.results.Results.floors`).
        unscored: Pictures that a metric says nothing of (`engine.cache.score_tables.picture_reasons`).
        margins: By key, those that the study's decision fixed.
    """
    found: list[Comparison] = []
    for metric in metrics.to_dict("records"):
        values = quality[quality["metric"] == metric["metric"]]
        base = values[values["lane"] == baseline]
        if base.empty:
            continue
        margin, source = margin_of(metric, base, (margins or {}).get(str(metric["metric"])))
        floor = (floors or {}).get(str(metric["metric"]), Floor(0.0, ""))
        if margin < floor:
            margin, source = float(floor), floor.source
        lanes = [lane for lane in values["lane"].unique() if lane != baseline]
        rows = [_compared(values, base, lane, baseline, metric, margin, source) for lane in lanes]
        missing = _missing(unscored, str(metric["metric"]), baseline)
        found += _judged([replace(row, floor=float(floor), missing=len(missing(row.lane))) for row in rows])
    return _not_ranked_below_the_floor(found)


def _missing(unscored: pd.DataFrame | None, metric: str, baseline: str) -> Callable[[str], set[tuple[str, int]]]:
    """Which prompts and seeds a metric says nothing of, for a lane or for the baseline."""
    places: dict[str, set[tuple[str, int]]] = {}
    if unscored is not None:
        rows = unscored[unscored["metric"] == metric]
        for lane, prompt, seed in zip(rows["lane"], rows["prompt"], rows["seed"], strict=True):
            places.setdefault(lane, set()).add((prompt, seed))
    return lambda lane: places.get(lane, set()) | places.get(baseline, set())


def _not_ranked_below_the_floor(found: Sequence[Comparison]) -> list[Comparison]:
    """A lane whose latents are no nearer to the reference, or farther, than can be told is not ranked by pictures."""
    same = {row.lane for row in found if row.metric == "latent_error" and abs(row.difference.value) < row.floor}
    return [
        replace(row, verdict="undecided")
        if row.metric in OF_THE_REFERENCE and row.lane in same and row.verdict in {"better", "worse"}
        else row
        for row in found
    ]


def margin_of(metric: Mapping[str, object], base: pd.DataFrame, decided: float | None = None) -> tuple[float, str]:
    """The margin of a metric and where it comes from, seen from the baseline's values alone.

    Args:
        metric: Its row.
        base: The baseline's values.
        decided: The margin that the study's decision fixed, if there is one.
    """
    fixed = _number(metric.get("margin"))
    if fixed is not None:
        return fixed, "fixed for the metric"
    if decided is not None:
        return decided, "fixed by the calibration of the decision"
    values, prompts = base["value"].tolist(), base["prompt"].tolist()
    noise = st.seed_noise_bound(values, prompts)
    if math.isnan(noise):
        few = (
            "has one seed per prompt" if math.isnan(st.seed_noise(values, prompts)) else "has few prompts of two seeds"
        )
        return noise, f"unknown: the baseline {few}, so its seed-to-seed noise is not known"
    return SEED_NOISE_SHARE * noise, f"{SEED_NOISE_SHARE:g} of the baseline's seed-to-seed noise, its lower 95 % bound"


def paired(values: pd.DataFrame, base: pd.DataFrame, lane: str) -> pd.DataFrame:
    """Columns prompt, seed, value, value_base of the prompts and seeds that both have, in a fixed order."""
    keys = ["prompt", "seed"]
    own = values[values["lane"] == lane][[*keys, "value"]]
    both = own.merge(base[[*keys, "value"]], on=keys, suffixes=("", "_base"))
    return both.sort_values(keys, ignore_index=True)


def _compared(
    values: pd.DataFrame,
    base: pd.DataFrame,
    lane: str,
    baseline: str,
    metric: dict[str, object],
    margin: float,
    source: str,
) -> Comparison:
    pairs = paired(values, base, lane)
    prompts = pairs["prompt"].tolist()
    gaps = (pairs["value"] - pairs["value_base"]).to_numpy(dtype=np.float64)
    means = st.prompt_means(gaps, prompts)
    difference, span = st.estimate(gaps, prompts), _number(metric.get("span"))
    deviation = float(means.std(ddof=1)) if len(means) > 1 else math.nan
    if len(means) > 1 and np.ptp(means) <= ALIKE * pairs[["value", "value_base"]].abs().to_numpy().max():
        means, deviation = np.full_like(means, means.mean()), 0.0
    if span is not None:
        low, high = st.bounded_interval(means, span)
        tests = st.bounded_equivalence_p(means, margin, span), st.bounded_difference_p(means, margin, span)
    else:
        low, high = (math.nan, math.nan) if deviation == 0 else (difference.low, difference.high)
        tests = st.equivalence_p(means, margin), st.difference_p(means, margin)
    return Comparison(
        lane,
        baseline,
        str(metric["metric"]),
        str(metric["label"]),
        str(metric["unit"]),
        str(metric["direction"]),
        replace(difference, low=low, high=high),
        _mean(pairs["value"].to_numpy(), prompts, metric),
        _mean(pairs["value_base"].to_numpy(), prompts, metric),
        margin,
        source,
        *tests,
        int(str(metric["smallest_n"])),
        deviation,
        "undecided",
        math.nan if span is None else span,
    )


def _mean(values: np.ndarray, prompts: Sequence[object], metric: dict[str, object]) -> st.Estimate:
    """The mean with its interval, which has a width even where all prompts are alike, on a scale from zero."""
    span = _number(metric.get("span"))
    if span is None or not metric.get("has_true_zero"):
        return st.estimate(values, prompts)
    return st.ranged_estimate(values, prompts, 0.0, span)


def _judged(rows: Sequence[Comparison]) -> list[Comparison]:
    equivalence = st.holm([row.p_equivalence for row in rows])
    difference = st.holm([row.p_difference for row in rows])
    adjusted = [
        replace(row, p_equivalence=float(same), p_difference=float(other))
        for row, same, other in zip(rows, equivalence, difference, strict=True)
    ]
    return [replace(row, verdict=_verdict(row)) for row in adjusted]


def _verdict(row: Comparison) -> Verdict:
    if row.difference.pairs < row.smallest_n or row.difference.n < st.MIN_PROMPTS:
        return "too few"
    low, high, margin = row.difference.low, row.difference.high, row.margin
    if row.p_equivalence < st.ALPHA and -margin < low and high < margin:
        return "undecided" if row.missing else "equivalent"
    if not (row.p_difference < st.ALPHA and (low > margin or high < -margin)):
        return "undecided"
    above = low > margin
    if row.direction == "neither":
        return "higher" if above else "lower"
    if above != (row.direction == "higher"):
        return "worse"
    return "undecided" if row.missing else "better"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None


def comparison_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """The comparisons as rows of text, a heading first; "-" where there are too few prompts for an interval."""
    heading = ("metric", "lane", "mean", "minus baseline", "95 % interval", "margin", "n", "by it alone")
    rows: list[tuple[str, ...]] = [heading]
    for row in comparisons:
        gap = row.difference
        rows.append(
            (
                f"{row.label} ({row.unit})" if row.unit else row.label,
                row.lane,
                str(row.mean),
                "-" if math.isnan(gap.low) and row.deviation != 0 else f"{gap.value:+.3g}",
                _interval(row),
                "-" if math.isnan(row.margin) else f"{row.margin:.3g}",
                row.extent,
                row.verdict,
            )
        )
    return rows


def _interval(row: Comparison) -> str:
    """The interval of the difference, or why there is none."""
    if not math.isnan(row.difference.low):
        return f"{row.difference.low:+.3g} to {row.difference.high:+.3g}"
    return "all prompts alike" if row.deviation == 0 and row.difference.n >= st.MIN_PROMPTS else "-"


def undecided_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """What would decide the undecided: the difference that so many prompts find, and the prompts equality needs."""
    lines = []
    for row in comparisons:
        if row.verdict != "undecided":
            continue
        n = row.difference.n
        if row.deviation > 0:
            said = f"{n} prompts find a difference of {row.detectable:.3g} with 80 % power"
        else:
            said = f"all {n} prompts give the same difference"
        if row.missing:
            of = row.difference.pairs + row.missing
            said += f"; without a value of {row.missing} of {of} pairs it can't be called equivalent or better"
        if (needed := row.prompts_needed) is not None and needed > n:
            said += f"; equality within {row.margin:.3g} needs about {needed:,} prompts"
        elif not row.deviation > 0 and math.isnan(row.span):
            said += ", and the metric has no bounds: how far others may differ cannot be told"
        lines.append(f"{row.label}, {row.lane}: {said}.")
    return lines
