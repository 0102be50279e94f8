"""What the raw timing samples say: medians, intervals, speed-up. Pure: numpy and pandas, no torch, no clock.

Definitions, for one lane in one environment at one batch size:

- A sample is one repeat: the wall time of a whole batch, all stages together (stage "total").
- Median and interval: the median of the samples, and its 95 % percentile bootstrap interval (samples drawn anew with
  replacement, the median of each draw, the 2.5 % and 97.5 % quantiles of those medians). The generator is seeded, so
  equal samples give equal figures.
- Speed-up: median of the baseline divided by the median of the lane, in the same environment at the same batch size;
  2.0 means half the time. Its interval comes from the same bootstrap. If lane and baseline hold the same repeats,
  their repeats are drawn together, so that what slowed a whole round cancels out; otherwise independently.
- Stage medians: the median of each stage by itself. They need not add up to the median of the total.
- Settled: whether the samples look like noise around one value. "too few" below 5 samples. Otherwise "settled" if the
  medians of the first and second half of the repeats differ by less than 10 %, and the interquartile range is less
  than 25 % of the median; else "unsettled". With fewer than 5 samples no interval is given either: of 3 or 4 it would
  cover the median in 75 or 86 % of cases instead of 95.
- Counted environment: times of two environments (machines, releases of torch) are never compared with each other. Where
  one has to be chosen, it is the one in which a call at batch 1 was timed last.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

STAGES = ("text", "denoiser", "scheduler", "decode", "other")
MIN_SAMPLES = 5
MAX_DRIFT = 0.10
MAX_SPREAD = 0.25
RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0

GROUP = ["lane", "environment_id", "device_name", "batch_size"]
COLUMNS = [
    *GROUP,
    "n",
    "median_ms",
    "low_ms",
    "high_ms",
    *(f"{stage}_ms" for stage in STAGES),
    "nfe",
    "speedup",
    "speedup_low",
    "speedup_high",
    "settled",
    "first_at",
    "last_at",
]

Floats = npt.NDArray[np.float64]
Settled = Literal["settled", "unsettled", "too few"]


def summarise(samples: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """One row per lane, environment and batch size.

    Args:
        samples: Raw samples with the columns of `engine.cache.queries.timings`.
        baseline: The lane that speed-ups refer to; need not be among the samples.

    Returns:
        Columns `COLUMNS`, fastest first within environment and batch size. Milliseconds are of the whole batch.
        `nfe` is the number of denoiser calls. `first_at` and `last_at` (UTC) say when the samples were taken.
        What cannot be told (no such stage, no baseline, too few samples) is NaN.
    """
    totals = samples[samples["stage"] == "total"]
    if totals.empty:
        return pd.DataFrame(columns=COLUMNS)
    taken = {key: group.sort_values(["created_at", "repeat"]) for key, group in totals.groupby(GROUP, sort=True)}
    stages = _stage_medians(samples)
    rows = []
    for key, group in taken.items():
        reference = taken.get((baseline, *key[1:]))
        rows.append(
            {
                **dict(zip(GROUP, key, strict=True)),
                **_total(group),
                **{f"{stage}_ms": stages.get((*key, stage), np.nan) for stage in STAGES},
                **_speedup(group, reference, is_baseline=key[0] == baseline),
                "settled": settled(_milliseconds(group)),
                "first_at": group["created_at"].min(),
                "last_at": group["created_at"].max(),
            }
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["environment_id", "batch_size", "median_ms", "lane"], ignore_index=True)


def environments_by_last_timing(times: pd.DataFrame) -> list[str]:
    """The environments of samples or of their summaries, the one that counts first.

    Those with times at batch 1 come before others, those timed later before those timed earlier; of several that were
    timed at the same moment the smallest id comes first.
    """
    if times.empty:
        return []
    moment = "last_at" if "last_at" in times else "created_at"
    table = times.assign(single=times["batch_size"] == 1)
    latest = table.groupby(["environment_id", "single"], as_index=False)[moment].max()
    ordered = latest.sort_values(["single", moment, "environment_id"], ascending=[False, False, True])
    return [str(key) for key in ordered["environment_id"].drop_duplicates()]


def counted_environment(times: pd.DataFrame) -> str | None:
    """The environment whose times count where one has to be chosen (see the module); None without times."""
    return next(iter(environments_by_last_timing(times)), None)


def counted(times: pd.DataFrame) -> pd.DataFrame:
    """The rows of samples, or of summaries, at batch 1 in the environment that counts."""
    return times[(times["environment_id"] == counted_environment(times)) & (times["batch_size"] == 1)]


def median_interval(values: Floats) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the median; NaN, NaN below 5 values."""
    if len(values) < MIN_SAMPLES:
        return float("nan"), float("nan")
    return _quantiles(np.median(values[_draws(len(values), SEED)], axis=1))


def mean_interval(values: Floats) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean; NaN, NaN below 5 values."""
    if len(values) < MIN_SAMPLES:
        return float("nan"), float("nan")
    return _quantiles(values[_draws(len(values), SEED)].mean(axis=1))


def ratio_interval(baseline: Floats, lane: Floats, *, paired: bool) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of median(baseline) / median(lane); NaN, NaN below 5 values of either.

    Args:
        baseline: Values of the baseline.
        lane: Values of the lane.
        paired: Value i of both belongs to the same repeat; they are drawn together.
    """
    if min(len(baseline), len(lane)) < MIN_SAMPLES:
        return float("nan"), float("nan")
    drawn = _draws(len(lane), SEED)
    other = drawn if paired else _draws(len(baseline), SEED + 1)
    return _quantiles(np.median(baseline[other], axis=1) / np.median(lane[drawn], axis=1))


def settled(values: Floats) -> Settled:
    """Whether samples, in the order they were taken, look like noise around one value (see the module)."""
    if len(values) < MIN_SAMPLES:
        return "too few"
    middle = float(np.median(values))
    half = len(values) // 2
    drift = abs(float(np.median(values[half:])) / float(np.median(values[:half])) - 1)
    low, high = np.quantile(values, [0.25, 0.75])
    return "settled" if drift < MAX_DRIFT and (high - low) / middle < MAX_SPREAD else "unsettled"


def _stage_medians(samples: pd.DataFrame) -> dict[tuple[object, ...], float]:
    medians = samples.groupby([*GROUP, "stage"])["seconds"].median() * 1000
    return {tuple(key): float(value) for key, value in medians.items()}


def _milliseconds(group: pd.DataFrame) -> Floats:
    return group["seconds"].to_numpy(dtype=np.float64) * 1000


def _total(group: pd.DataFrame) -> dict[str, float]:
    values = _milliseconds(group)
    low, high = median_interval(values)
    nfe = float(group["nfe"].median())
    return {"n": len(values), "median_ms": float(np.median(values)), "low_ms": low, "high_ms": high, "nfe": nfe}


def _speedup(group: pd.DataFrame, reference: pd.DataFrame | None, *, is_baseline: bool) -> dict[str, float]:
    """The baseline's own speed-up is 1 by definition and has no interval."""
    if reference is None:
        return {"speedup": float("nan"), "speedup_low": float("nan"), "speedup_high": float("nan")}
    if is_baseline:
        return {"speedup": 1.0, "speedup_low": float("nan"), "speedup_high": float("nan")}
    group, reference = group.sort_values("repeat"), reference.sort_values("repeat")
    base, lane = _milliseconds(reference), _milliseconds(group)
    low, high = ratio_interval(base, lane, paired=_same_repeats(group, reference))
    return {"speedup": float(np.median(base) / np.median(lane)), "speedup_low": low, "speedup_high": high}


def _same_repeats(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    return one["repeat"].is_unique and one["repeat"].tolist() == other["repeat"].tolist()


def _draws(size: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, size, (RESAMPLES, size))


def _quantiles(values: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
