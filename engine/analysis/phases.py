"""Where in a run things happen, by its recorded steps: in progress or in log-SNR. Pure, no torch.

Progress is (step + 1) / calls. It is no physical variable: where a noise level falls depends on the spacing of the
steps. Log-SNR, the log of the signal-to-noise power ratio, is the same for all.

The path of a run is the line that x0, the estimate of the clean latents, draws from call to call; its length is the sum
of the root mean square changes. The change at call i is spread evenly between the places of call i - 1 and of call i.
Calls at one noise level (the two of Heun) are one place in log-SNR, and their changes one change.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Axis = Literal["progress", "log_snr"]
# Between which positions can lie.
ENDS: dict[Axis, tuple[float, float]] = {"progress": (0.0, 1.0), "log_snr": (-math.inf, math.inf)}


@dataclass(frozen=True)
class Run:
    """One metric of one run, step by step.

    Attributes:
        progress: Ascending.
        log_snr: NaN if unknown.
    """

    prompt: str
    seed: int
    step_index: npt.NDArray[np.int64]
    progress: Floats
    log_snr: Floats
    value: Floats

    def at(self, axis: Axis) -> Floats:
        """The positions of its steps."""
        return self.progress if axis == "progress" else self.log_snr


def split(rows: pd.DataFrame) -> dict[Hashable, list[Run]]:
    """The runs of a lane by metric, steps in order.

    Args:
        rows: Columns prompt, seed, step_index, progress, log_snr, metric, value.
    """
    if rows.empty:
        return {}
    codes = rows.groupby(["metric", "prompt", "seed"], sort=False).ngroup().to_numpy()
    order = np.lexsort((rows["step_index"].to_numpy(), codes))
    ends = np.flatnonzero(np.diff(codes[order])) + 1
    numbers = {name: rows[name].to_numpy(dtype=np.float64)[order] for name in ("progress", "log_snr", "value")}
    steps, first = rows["step_index"].to_numpy(dtype=np.int64)[order], order[np.concatenate([[0], ends])]
    keys, prompts, seeds = (rows[name].to_numpy()[first] for name in ("metric", "prompt", "seed"))
    found: dict[Hashable, list[Run]] = {}
    for place, part in enumerate(np.split(np.arange(len(rows)), ends)):
        cut = {name: values[part[0] : part[-1] + 1] for name, values in numbers.items()}
        run = Run(prompts[place], int(seeds[place]), steps[part[0] : part[-1] + 1], **cut)
        found.setdefault(keys[place], []).append(run)
    return found


class Path:
    """The x0 path of one run: how much of its length it has covered at each place.

    Args:
        places: Positions of the calls with a recorded change, ascending: progress, or log-SNR.
        changes: The changes.
        start: Position of the call before the first change; None to use the distance of the next one.
    """

    def __init__(self, places: Floats, changes: Floats, start: float | None = None) -> None:
        if len(places) == 0 or not changes.sum() > 0:
            raise ValueError("A path needs at least one change above zero.")
        if start is None:
            start = places[0] - (places[1] - places[0] if len(places) > 1 else places[0] / 2)
        self._at = np.concatenate([[start], places])
        self._behind = np.concatenate([[0.0], np.cumsum(changes)]) / changes.sum()

    def share(self, start: float, end: float) -> float:
        """Share of the length between two positions."""
        low, high = self.behind(np.array([start, end]))
        return float(high - low)

    def behind(self, places: Floats) -> Floats:
        """Share of the length covered at each of these places."""
        return np.asarray(np.interp(places, self._at, self._behind), dtype=np.float64)

    def halfway(self) -> float:
        """Where half of the length is covered."""
        return float(self._where(np.array([0.5]))[0])

    @property
    def reach(self) -> tuple[float, float]:
        """The positions where it starts and ends."""
        return float(self._at[0]), float(self._at[-1])

    def critical_phase(self, share: float = 0.5) -> tuple[float, float]:
        """The shortest interval that contains a share of the length.

        The rate is constant between calls, so a shortest interval starts or ends at a call.
        """
        # With a tolerance, or rounding would drop the candidates at both ends.
        begins, ends = self._behind + share <= 1 + 1e-12, self._behind - share >= -1e-12
        starts = np.concatenate([self._at[begins], self._where(self._behind[ends] - share, last=True)])
        stops = np.concatenate([self._where(self._behind[begins] + share), self._at[ends]])
        best = np.lexsort((starts, np.round(stops - starts, 12)))[0]
        return float(starts[best]), float(stops[best])

    def _where(self, behind: Floats, *, last: bool = False) -> Floats:
        """The first (or last) places at which so much is covered."""
        if last:
            index = np.minimum(np.searchsorted(self._behind, behind + 1e-12, side="right"), len(self._at) - 1) - 1
        else:
            index = np.maximum(np.searchsorted(self._behind, behind - 1e-12, side="left") - 1, 0)
        gap = self._behind[index + 1] - self._behind[index]
        part = np.divide(behind - self._behind[index], gap, out=np.zeros_like(behind), where=gap > 0)
        found: Floats = self._at[index] + np.clip(part, 0, 1) * (self._at[index + 1] - self._at[index])
        return found


def paths(step_metrics: pd.DataFrame, lane: str, axis: Axis = "progress") -> dict[tuple[str, int], Path]:
    """The x0 path of each (prompt, seed) of a lane that has recorded changes.

    In log-SNR, a run also needs the distance or another metric of its first call, to know its position.
    """
    of_lane = step_metrics[step_metrics["lane"] == lane]
    first = of_lane[of_lane["step_index"] == 0]
    starts = dict(zip(zip(first["prompt"], first["seed"], strict=True), first["log_snr"], strict=True))
    found = {}
    for run in sorted(split(of_lane[of_lane["metric"] == "x0_change"]).get("x0_change", []), key=_key):
        key = (run.prompt, run.seed)
        if not run.value.sum() > 0:
            continue
        path = Path(run.progress, run.value) if axis == "progress" else _in_log_snr(run, starts.get(key))
        if path is not None:
            found[key] = path
    return found


def _key(run: Run) -> tuple[str, int]:
    return run.prompt, run.seed


def _in_log_snr(run: Run, start: float | None) -> Path | None:
    """The path of one run; changes at the level of its first call are added to the change to the next level."""
    if start is None or not np.isfinite([start, *run.log_snr]).all():
        return None
    places, index = np.unique(run.log_snr, return_inverse=True)
    changes = np.asarray(np.bincount(index, weights=run.value), dtype=np.float64)
    if not (places > start).any():
        return None
    first = int(np.argmax(places > start))
    changes[first] += changes[:first].sum()
    return Path(places[first:], changes[first:], start)


def settled_at(
    rows: pd.DataFrame, holds: Callable[[pd.Series], pd.Series], axis: Axis = "progress"
) -> dict[tuple[str, int], float | None]:
    """For each (prompt, seed), the position from which a condition holds to the end; None if it fails at the end.

    The position is midway between the two measured steps around it, or the first measured step.

    Args:
        rows: Rows of one metric: columns prompt, seed, step_index, progress, value, and log_snr for that axis.
        holds: Maps values to truth values.
        axis: The axis of the positions.
    """
    found: dict[tuple[str, int], float | None] = {}
    known = rows.assign(metric="", **({} if "log_snr" in rows else {"log_snr": np.nan}))
    for run in sorted(split(known).get("", []), key=_key):
        true = holds(pd.Series(run.value)).to_numpy(dtype=bool)
        failed = np.flatnonzero(~true)
        first = int(failed[-1]) + 1 if len(failed) else 0
        around = run.at(axis)[max(first - 1, 0) : first + 1]
        found[run.prompt, run.seed] = float(around.mean()) if first < len(true) else None
    return found
