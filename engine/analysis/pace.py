"""How long lanes take beside the baseline, and their order of cost: from interleaved samples, paired by repeat. Pure.

- Ratio: in each repeat all lanes run one after the other, so that what slows a repeat slows all of them. The ratio of a
  lane is the median of its time over the baseline's, repeat by repeat.
- Interval of one run: order statistics with the interpolation of Hettmansperger and Sheather (1986,
  doi:10.1016/0167-7152(86)90021-0), which assumes nothing about the distribution. Below 6 samples the ends are the
  extremes: 93.8 % for 5. It holds for that run, not for other days.
- Several runs: each gives one value (its median), and the interval is Student's on their logarithms, so that it
  includes the scatter from run to run.
- Order: by ratio; ratios within 5 % of the dearest of a group are ties, and fewer denoiser calls then count as cheaper.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from engine.analysis.decision import LaneCost

Floats = npt.NDArray[np.float64]

FEWEST_SAMPLES = 5
CONFIDENCE = 0.95
TIE = 0.05
PAUSE = pd.Timedelta(hours=1)


@dataclass(frozen=True)
class Pace:
    """A time, or a ratio of times.

    Attributes:
        low, high: 95 % interval; NaN below `FEWEST_SAMPLES` samples.
        n: Samples.
        runs: Runs they come from.
    """

    value: float
    low: float
    high: float
    n: int
    runs: int

    @property
    def scope(self) -> str:
        """What the interval holds for, in words."""
        if math.isnan(self.low):
            return "too few samples for an interval"
        return "holds for this run" if self.runs == 1 else f"holds from run to run, of {self.runs} runs"


def runs_of(taken: pd.Series) -> pd.Series:
    """The run, counted from 0, that each sample belongs to: a pause of more than an hour begins a new one."""
    order = taken.sort_values()
    return (order.diff() > PAUSE).cumsum().reindex(taken.index)


def pace(values: npt.ArrayLike, runs: Iterable[object]) -> Pace:
    """Median and interval of positive values that were taken in one run or in several.

    Args:
        values: Seconds, or ratios of them, (samples,).
        runs: The run of each.

    Raises:
        ValueError: Of unequal length, or a value that is not positive.
    """
    times, labels = np.asarray(values, dtype=np.float64), list(runs)
    if len(times) != len(labels):
        raise ValueError(f"{len(times)} values for {len(labels)} samples.")
    if not (times > 0).all():
        raise ValueError("A time is not positive.")
    if not len(times):
        return Pace(math.nan, math.nan, math.nan, 0, 0)
    medians = pd.Series(times).groupby(labels).median().to_numpy(dtype=np.float64)
    if len(medians) == 1:
        low, high = median_interval(times)
        return Pace(float(np.median(times)), low, high, len(times), 1)
    logs = np.log(medians)
    half = special.stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2) * logs.std(ddof=1) / math.sqrt(len(logs))
    low, high = np.exp(logs.mean() - half), np.exp(logs.mean() + half)
    return Pace(float(np.exp(logs.mean())), float(low), float(high), len(times), len(medians))


def median_interval(values: Floats) -> tuple[float, float]:
    """The distribution-free 95 % interval of a median; NaN, NaN below `FEWEST_SAMPLES` values."""
    n, ordered = len(values), np.sort(values)
    if n < FEWEST_SAMPLES:
        return math.nan, math.nan
    inner = np.arange(1, n // 2 + 1)
    covered = 1 - 2 * special.bdtr(inner - 1, n, 0.5)  # by the interval from the k-th smallest to the k-th largest
    k = int((covered >= CONFIDENCE).sum())
    if k == 0:
        return float(ordered[0]), float(ordered[-1])
    low, high = ordered[k - 1], ordered[n - k]
    if k < len(inner):
        beyond = (covered[k - 1] - CONFIDENCE) / (covered[k - 1] - covered[k])
        share = (n - k) * beyond / (k + (n - 2 * k) * beyond)
        low, high = low + share * (ordered[k] - low), high + share * (ordered[n - k - 1] - high)
    return float(low), float(high)


def paired_paces(samples: pd.DataFrame, baseline: str) -> dict[str, Pace]:
    """Each lane's time over the baseline's, from the repeats that both have.

    Args:
        samples: Columns lane, run, repeat, seconds: whole calls in one environment, at one batch size; one a lane, run
            and repeat.
        baseline: Its lane; a ratio of 1 without an interval.
    """
    table = samples.pivot(index=["run", "repeat"], columns="lane", values="seconds")
    if baseline not in table:
        return {}
    found = {}
    for lane in table:
        both = table[[lane, baseline]].dropna() if lane != baseline else table[[baseline]].dropna()
        ratios = (both[lane] / both[baseline]).to_numpy(dtype=np.float64)
        found[str(lane)] = pace(ratios, both.index.get_level_values("run"))
    own = found[baseline]
    return found | {baseline: Pace(1.0, math.nan, math.nan, own.n, own.runs)}


def by_cost(lanes: Iterable[LaneCost], tie: float = TIE) -> list[LaneCost]:
    """Lanes from the dearest to the cheapest; those without a time first."""
    rest = sorted(lanes, key=lambda lane: (-lane.cost if not math.isnan(lane.cost) else -math.inf, lane.lane))
    ordered: list[LaneCost] = []
    while rest:
        least = rest[0].cost * (1 - tie)
        group = [lane for lane in rest if lane is rest[0] or lane.cost >= least]
        ordered += sorted(group, key=lambda lane: (-lane.calls, -lane.cost, lane.lane))
        rest = [lane for lane in rest if lane not in group]
    return ordered
