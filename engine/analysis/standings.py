"""Time, calls and quality of every lane in one table, and the Pareto front. Pure, no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.analysis.comparison import Comparison

LANE_COLUMNS = ["lane", "label", "scheduler", "steps", "nfe", "is_baseline"]
TIME_COLUMNS = [
    "median_ms",
    "low_ms",
    "high_ms",
    "n",
    "speedup",
    "speedup_low",
    "speedup_high",
    "settled",
    "environment_id",
    "device_name",
    "batch_size",
    "last_at",
]
QUALITY_COLUMNS = [
    "metric",
    "metric_label",
    "unit",
    "direction",
    "mean",
    "mean_low",
    "mean_high",
    "difference",
    "low",
    "high",
    "margin",
    "margin_from",
    "prompts",
    "pairs",
    "p_equivalence",
    "p_difference",
    "verdict",
    "decided",
]
NOT_COMPARED = "not compared"


def standings(
    lanes: pd.DataFrame, times: pd.DataFrame, found: Sequence[Comparison], decided: Mapping[str, str]
) -> pd.DataFrame:
    """One row per metric and lane, in the order of `found` and `lanes`; one row per lane without any metric.

    Args:
        lanes: Columns `LANE_COLUMNS`.
        times: Rows of `timing.summarise`, of one environment and batch size; may be empty.
        found: Comparisons with the baseline in any number of metrics.
        decided: Lane -> its status in the decision.

    Returns:
        Columns `LANE_COLUMNS`, `TIME_COLUMNS` (n: timing samples) and `QUALITY_COLUMNS` (low and high: the 95 %
        interval of the difference; prompts and pairs behind it). The baseline differs from itself by 0 and has the
        verdict "baseline". Missing values are NaN, with the verdict `NOT_COMPARED`.
    """
    timed = lanes.merge(times.reindex(columns=["lane", *TIME_COLUMNS]), on="lane", how="left")
    metrics = dict.fromkeys(row.metric for row in found)
    tables = [_by_metric(timed, [row for row in found if row.metric == metric]) for metric in metrics]
    if not tables:
        tables = [timed.assign(verdict=NOT_COMPARED)]
    columns = [*LANE_COLUMNS, *TIME_COLUMNS, *QUALITY_COLUMNS]
    whole = pd.concat([table.reindex(columns=columns) for table in tables], ignore_index=True)
    return whole.assign(decided=whole["lane"].map(dict(decided)))


def _by_metric(timed: pd.DataFrame, found: Sequence[Comparison]) -> pd.DataFrame:
    by_lane = {row.lane: row for row in found}
    widest = max(found, key=lambda row: row.baseline_mean.pairs)
    rows = []
    for lane in timed["lane"]:
        if lane == widest.baseline:
            rows.append(_baseline(widest))
        else:
            rows.append(_compared(by_lane[lane]) if lane in by_lane else _shared(widest) | {"verdict": NOT_COMPARED})
    return pd.concat([timed, pd.DataFrame(rows, index=timed.index)], axis=1)


def _shared(row: Comparison) -> dict[str, Any]:
    return {
        "metric": row.metric,
        "metric_label": row.label,
        "unit": row.unit,
        "direction": row.direction,
        "margin": row.margin,
        "margin_from": row.margin_from,
    }


def _baseline(row: Comparison) -> dict[str, Any]:
    """The baseline in a metric, from the comparison with most of its cells."""
    mean = row.baseline_mean
    return _shared(row) | {
        "mean": mean.value,
        "mean_low": mean.low,
        "mean_high": mean.high,
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
        "prompts": mean.n,
        "pairs": mean.pairs,
        "verdict": "baseline",
    }


def _compared(row: Comparison) -> dict[str, Any]:
    gap, mean = row.difference, row.mean
    return _shared(row) | {
        "mean": mean.value,
        "mean_low": mean.low,
        "mean_high": mean.high,
        "difference": gap.value,
        "low": gap.low,
        "high": gap.high,
        "prompts": gap.n,
        "pairs": gap.pairs,
        "p_equivalence": row.p_equivalence,
        "p_difference": row.p_difference,
        "verdict": row.verdict,
    }


def frontier(cost: npt.ArrayLike, gain: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points are on the Pareto front: no other costs at most as much and gains at least as much, one strictly.

    Args:
        cost: Lower is better, (N,).
        gain: Higher is better, (N,). A point with NaN is never on the front.
    """
    costs, gains = np.asarray(cost, dtype=np.float64), np.asarray(gain, dtype=np.float64)
    known = np.isfinite(costs) & np.isfinite(gains)
    found = np.zeros(len(costs), dtype=np.bool_)
    for place in np.flatnonzero(known):
        no_worse = known & (costs <= costs[place]) & (gains >= gains[place])
        found[place] = not np.any(no_worse & ((costs < costs[place]) | (gains > gains[place])))
    return found
