"""Where in a run things happen, from its recorded steps. Progress is (step + 1) / calls. Pure, no torch.

The path of a run is the line that x0, the estimate of the clean latents, draws from call to call; its length is the sum
of the root mean square changes. The change at call i is laid evenly between the progress of call i - 1 and of call i.
Progress is no physical variable: the same noise level falls at other percentages under other spacings of the steps.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]


class Path:
    """The x0 path of one run: how much of its length is behind at each progress.

    Args:
        progress: Of the calls at which a change was recorded, ascending.
        changes: The changes.
    """

    def __init__(self, progress: Floats, changes: Floats) -> None:
        if len(progress) == 0 or not changes.sum() > 0:
            raise ValueError("A path needs at least one change above zero.")
        step = progress[1] - progress[0] if len(progress) > 1 else progress[0] / 2
        self._at = np.concatenate([[progress[0] - step], progress])
        self._behind = np.concatenate([[0.0], np.cumsum(changes)]) / changes.sum()

    def share(self, start: float, end: float) -> float:
        """Share of the length between two values of progress."""
        low, high = np.interp([start, end], self._at, self._behind)
        return float(high - low)

    def critical_phase(self, share: float = 0.5) -> tuple[float, float]:
        """The shortest interval of progress that holds a share of the length.

        The rate is constant between calls, so that a shortest interval begins or ends at a call.
        """
        candidates = []
        for at, behind in zip(self._at, self._behind, strict=True):
            if behind + share <= 1 + 1e-12:
                candidates.append((at, self._where(behind + share)))
            if behind - share >= -1e-12:
                candidates.append((self._where(behind - share, last=True), at))
        start, end = min(candidates, key=lambda pair: (pair[1] - pair[0], pair[0]))
        return float(start), float(end)

    def _where(self, behind: float, *, last: bool = False) -> float:
        """The first (or last) progress at which so much is behind."""
        if last:
            index = min(int(np.searchsorted(self._behind, behind + 1e-12, side="right")), len(self._at) - 1) - 1
        else:
            index = max(int(np.searchsorted(self._behind, behind - 1e-12, side="left")) - 1, 0)
        gap = self._behind[index + 1] - self._behind[index]
        part = (behind - self._behind[index]) / gap if gap > 0 else 0.0
        return float(self._at[index] + np.clip(part, 0, 1) * (self._at[index + 1] - self._at[index]))


def paths(step_metrics: pd.DataFrame, lane: str) -> dict[tuple[str, int], Path]:
    """The x0 path of each (prompt, seed) of a lane that has recorded changes."""
    rows = step_metrics[(step_metrics["lane"] == lane) & (step_metrics["metric"] == "x0_change")]
    found = {}
    for key, run in rows.groupby(["prompt", "seed"], sort=True):
        ordered = run.sort_values("step_index")
        changes = ordered["value"].to_numpy(dtype=np.float64)
        if changes.sum() > 0:
            found[key] = Path(ordered["progress"].to_numpy(dtype=np.float64), changes)
    return found


def settled_at(rows: pd.DataFrame, holds: Callable[[pd.Series], pd.Series]) -> dict[tuple[str, int], float | None]:
    """For each (prompt, seed), the progress from which a condition holds to the end; None if it does not hold there.

    It came true between two measured steps, of which the middle is taken; or at the first measured step.

    Args:
        rows: Columns prompt, seed, step_index, progress, value.
        holds: From values to truth values.
    """
    found: dict[tuple[str, int], float | None] = {}
    for key, run in rows.groupby(["prompt", "seed"], sort=True):
        ordered = run.sort_values("step_index")
        true = holds(ordered["value"]).to_numpy(dtype=bool)
        failed = np.flatnonzero(~true)
        first = int(failed[-1]) + 1 if len(failed) else 0
        around = ordered["progress"].iloc[max(first - 1, 0) : first + 1]
        found[key] = float(around.mean()) if first < len(true) else None
    return found
