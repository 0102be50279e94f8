"""Paired sets of pictures as vectors, and the uncertainty of metrics on them. Pure numpy and scipy.

Both sides have the same prompts and seeds, so row i of one belongs to row i of the other. The prompt is the unit; its
seeds stay together. The standard error is a delete-a-group jackknife over prompts (Kott 2001, Journal of Official
Statistics 17(4); with one prompt per group, the jackknife of Tukey 1958). A bootstrap would draw prompts twice, and a
picture agrees with itself, which biases every distance between sets.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import special  # not scipy.stats, which takes longer to import than most commands

Floats = npt.NDArray[np.float64]
Kernel = Callable[[Floats, Floats], Floats]

MIN_PROMPTS = 5
# More groups hardly change the standard error, and each takes one evaluation of the metric.
MAX_GROUPS = 30
CONFIDENCE = 0.95
# Rows of a kernel matrix computed at a time: 5,000 pictures need 20 MB instead of 200.
BLOCK = 512


@dataclass(frozen=True)
class Sets:
    """Vectors of the pictures on both sides.

    Attributes:
        lane: (n, D) float64.
        against: (n, D) float64; each row has the same prompt and seed as that of `lane`.
        prompts: (n,) number of each row's prompt, 0 to P - 1.
    """

    lane: Floats
    against: Floats
    prompts: npt.NDArray[np.int64]
    _whole: "Sets | None" = None
    _kept: npt.NDArray[np.int64] | None = None
    _sums: dict[Kernel, Floats] = field(default_factory=dict, compare=False, repr=False)

    @property
    def prompt_count(self) -> int:
        """Number of prompts, P."""
        return int(self.prompts.max()) + 1 if len(self.prompts) else 0

    def without(self, left_out: npt.NDArray[np.int64]) -> "Sets":
        """The sets without some prompts."""
        whole = self._whole or self
        names = self._kept if self._kept is not None else np.arange(self.prompt_count)
        kept = np.setdiff1d(np.arange(self.prompt_count), left_out)
        rows = np.isin(self.prompts, kept)
        numbers = np.searchsorted(kept, self.prompts[rows])
        return replace(
            self,
            lane=self.lane[rows],
            against=self.against[rows],
            prompts=numbers,
            _whole=whole,
            _kept=names[kept],
            _sums={},
        )

    def disagreement(self, kernel: Kernel) -> Floats:
        """(P, P) means over pictures i of prompt p and j of prompt q of k(xi,xj) + k(yi,yj) - k(xi,yj) - k(yi,xj).

        Computed once for the whole sets; sets without some prompts use a part of it.
        """
        if self._whole is not None:
            return self._whole.disagreement(kernel)[np.ix_(self._kept, self._kept)]  # type: ignore[arg-type]
        if kernel not in self._sums:
            self._sums[kernel] = _disagreement(self, kernel)
        return self._sums[kernel]


@dataclass(frozen=True)
class SetEstimate:
    """A value with standard error and 95 % interval, which are NaN if there are too few prompts."""

    value: float
    standard_error: float
    low: float
    high: float


def estimate(measure: Callable[[Sets], float], sets: Sets, lowest: float, highest: float) -> SetEstimate:
    """Value of a metric, with a Student interval of G - 1 degrees of freedom from G groups of prompts.

    Args:
        measure: The metric.
        sets: Both sides.
        lowest: Smallest possible value; the interval is clipped to it.
        highest: Largest possible value; the interval is clipped to it.
    """
    value = measure(sets)
    if sets.prompt_count < MIN_PROMPTS:
        return SetEstimate(value, float("nan"), float("nan"), float("nan"))
    groups = min(sets.prompt_count, MAX_GROUPS)
    # Every G-th prompt, since adjacent prompts of a study may be similar.
    left_out = [np.arange(group, sets.prompt_count, groups) for group in range(groups)]
    replicates = np.array([measure(sets.without(prompts)) for prompts in left_out])
    error = float(np.sqrt((groups - 1) / groups * np.sum((replicates - replicates.mean()) ** 2)))
    reach = float(special.stdtrit(groups - 1, (1 + CONFIDENCE) / 2)) * error
    return SetEstimate(value, error, max(lowest, value - reach), min(highest, value + reach))


def _disagreement(sets: Sets, kernel: Kernel) -> Floats:
    n, prompts = len(sets.prompts), sets.prompt_count
    belongs = np.zeros((n, prompts))
    belongs[np.arange(n), sets.prompts] = 1
    summed = np.zeros((prompts, prompts))
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        x, y = sets.lane[rows], sets.against[rows]
        gram = kernel(x, sets.lane) + kernel(y, sets.against) - kernel(x, sets.against) - kernel(y, sets.lane)
        summed += belongs[rows].T @ (gram @ belongs)
    counts = belongs.sum(axis=0)
    means: Floats = summed / np.outer(counts, counts)
    return means
