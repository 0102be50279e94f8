"""How each lane compares with the baseline by each metric: paired, with interval and verdict. Pure, no torch.

A lane is compared on the prompts and seeds for which both it and the baseline have a value; statistics.py defines
interval, tests and verdict words. The margin is the metric's own, or the baseline's seed-to-seed noise, which is known
before any lane is looked at; but never below what the measurement itself can tell apart (`floors`), and a difference
below that is never "better" or "worse", nor are pictures then ranked by their likeness to the reference. Below the
metric's smallest n, or with fewer than five prompts, the verdict is "too few".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from engine.analysis import statistics as st

# Metrics of pictures that compare with the reference, as the latent error does.
OF_THE_REFERENCE = frozenset({"psnr", "ssim", "lpips"})

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


@dataclass(frozen=True)
class Comparison:
    """One lane against the baseline by one metric.

    Attributes:
        difference: Mean of lane minus baseline.
        mean: The lane's mean with its interval, on the same cells.
        baseline_mean: Likewise.
        margin: Differences below it count as equivalent; NaN if it is not known.
        margin_from: Where the margin comes from, in words.
        p_equivalence: Holm-adjusted over the lanes; NaN if it cannot be told.
        p_difference: Likewise.
        smallest_n: Pairs needed for a verdict.
        deviation: Standard deviation of the difference over prompts; NaN of a single one.
        floor: Differences below it are not ranked.
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
    floor: float = 0.0

    @property
    def extent(self) -> str:
        """What it rests on, e.g. "24 prompts, 48 pairs"."""
        n, pairs = self.difference.n, self.difference.pairs
        return f"{n:,} prompt{'s' * (n != 1)}, {pairs:,} pair{'s' * (pairs != 1)}"

    @property
    def detectable(self) -> float:
        """The mean difference that so many prompts find with 80 % power, before the adjustment over lanes."""
        return st.minimum_detectable(self.deviation, self.difference.n)

    @property
    def prompts_needed(self) -> int | None:
        """Prompts that would find true equality equivalent with 80 % power, likewise.

        None if that cannot be told, or if equality is out of the question: the interval excludes it.
        """
        if not (self.deviation > 0 and self.margin > 0) or self.difference.low > 0 or self.difference.high < 0:
            return None
        return st.prompts_needed(self.deviation, self.margin)


def compare(
    quality: pd.DataFrame, metrics: pd.DataFrame, baseline: str, floors: Mapping[str, Floor] | None = None
) -> list[Comparison]:
    """All lanes against the baseline by all metrics, in the order of the metrics.

    Args:
        quality: Columns lane, prompt, seed, metric, value (`engine.cache.score_tables.picture_scores`).
        metrics: Columns metric, label, unit, direction, smallest_n, span, margin (`engine.cache.score_tables.metrics`).
        baseline: Lane that the others are compared with.
        floors: Least margin of a metric, by key (`engine.results.Results.floors`).
    """
    found: list[Comparison] = []
    for metric in metrics.to_dict("records"):
        values = quality[quality["metric"] == metric["metric"]]
        base = values[values["lane"] == baseline]
        if base.empty:
            continue
        margin, source = margin_of(metric, base)
        floor = (floors or {}).get(str(metric["metric"]), Floor(0.0, ""))
        if margin < floor:
            margin, source = float(floor), floor.source
        lanes = [lane for lane in values["lane"].unique() if lane != baseline]
        rows = [_compared(values, base, lane, baseline, metric, margin, source) for lane in lanes]
        found += _judged([replace(row, floor=float(floor)) for row in rows])
    return _not_ranked_below_the_floor(found)


def _not_ranked_below_the_floor(found: Sequence[Comparison]) -> list[Comparison]:
    """A lane whose latents are no nearer to the reference, or farther, than can be told is not ranked by pictures."""
    same = {row.lane for row in found if row.metric == "latent_error" and abs(row.difference.value) < row.floor}
    return [
        replace(row, verdict="undecided")
        if row.metric in OF_THE_REFERENCE and row.lane in same and row.verdict in {"better", "worse"}
        else row
        for row in found
    ]


def margin_of(metric: dict[str, object], base: pd.DataFrame) -> tuple[float, str]:
    """The equivalence margin of a metric and where it comes from, seen from the baseline's values alone."""
    fixed = metric.get("margin")
    if isinstance(fixed, int | float) and not math.isnan(fixed):
        return float(fixed), "fixed for the metric"
    noise = st.seed_noise(base["value"].tolist(), base["prompt"].tolist())
    if math.isnan(noise):
        return noise, "unknown: the baseline has one seed per prompt, so its seed-to-seed noise is not known"
    return noise, "seed-to-seed noise of the baseline"


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
    p_equivalence, p_difference = st.equivalence_p(means, margin), st.difference_p(means)
    if span is not None:
        low, high = st.bounded_interval(means, span)
        difference = replace(difference, low=low, high=high)
        p_equivalence = st.bounded_equivalence_p(means, margin, span)
    return Comparison(
        lane,
        baseline,
        str(metric["metric"]),
        str(metric["label"]),
        str(metric["unit"]),
        str(metric["direction"]),
        difference,
        _mean(pairs["value"].to_numpy(), prompts, metric),
        _mean(pairs["value_base"].to_numpy(), prompts, metric),
        margin,
        source,
        p_equivalence,
        p_difference,
        int(str(metric["smallest_n"])),
        float(means.std(ddof=1)) if len(means) > 1 else float("nan"),
        "undecided",
    )


def _mean(values: np.ndarray, prompts: Sequence[object], metric: dict[str, object]) -> st.Estimate:
    """The mean with its interval, which has a width even where all prompts give the same end of a scale from zero."""
    found, span = st.estimate(values, prompts), _number(metric.get("span"))
    if span is None or not metric.get("has_true_zero") or found.n < st.MIN_PROMPTS or found.low < found.high:
        return found
    bound = st.unanimous_bound(found.n, span)
    return replace(found, low=max(0.0, found.value - bound), high=min(span, found.value + bound))


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
    if row.p_equivalence < st.ALPHA:
        return "equivalent"
    if not row.p_difference < st.ALPHA or abs(row.difference.value) < row.floor:
        return "undecided"
    above = row.difference.value > 0
    if row.direction == "neither":
        return "higher" if above else "lower"
    return "better" if above == (row.direction == "higher") else "worse"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None


def comparison_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """The comparisons as rows of text, a heading first; "-" where there are too few prompts for an interval."""
    heading = ("metric", "lane", "mean", "minus baseline", "95 % interval", "margin", "n", "verdict")
    rows: list[tuple[str, ...]] = [heading]
    for row in comparisons:
        gap = row.difference
        rows.append(
            (
                f"{row.label} ({row.unit})" if row.unit else row.label,
                row.lane,
                str(row.mean),
                "-" if math.isnan(gap.low) else f"{gap.value:+.3g}",
                "-" if math.isnan(gap.low) else f"{gap.low:+.3g} to {gap.high:+.3g}",
                "-" if math.isnan(row.margin) else f"{row.margin:.3g}",
                f"{gap.n} prompts, {gap.pairs} pairs",
                row.verdict,
            )
        )
    return rows


def undecided_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """What would decide the undecided: the difference in reach of so many prompts, and the prompts equality needs."""
    lines = []
    for row in comparisons:
        if row.verdict != "undecided" or not row.deviation > 0:
            continue
        line = (
            f"{row.label}, {row.lane}: {row.difference.n} prompts find a difference of {row.detectable:.3g} with "
            "80 % power"
        )
        if (needed := row.prompts_needed) is not None and needed > row.difference.n:
            line += f"; equality within {row.margin:.3g} needs about {needed:,} prompts"
        lines.append(f"{line}.")
    return lines
