"""Curves over log-SNR from the recorded steps of many runs. Pure, no torch.

Each run is read on a grid of log-SNR by linear interpolation between its calls, within its own range only; of several
calls at one noise level the last counts. A curve is the median over runs (prompts and seeds), its band the 10 % and
90 % quantiles: the spread of runs, not the uncertainty of the median.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.analysis import statistics as st
from engine.analysis.phases import Run, paths, split

Floats = npt.NDArray[np.float64]
GRID_STEP = 0.25
BAND = (0.1, 0.9)
# Grid points that a smaller share of the runs reach are left out, since their median is over other runs.
MIN_SHARE = 0.5
COLUMNS = ["lane", "metric", "log_snr", "median", "low", "high", "runs", "prompts"]


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Median and band of each lane and metric on the grid.

    Args:
        rows: Columns lane, prompt, seed, step_index, log_snr, metric, value.

    Returns:
        Columns lane, metric, log_snr, median, low, high, runs, prompts; lanes and metrics in order of appearance.
    """
    known = rows[rows["log_snr"].notna()]
    return _table(
        _summary(*_on_grid(runs), str(lane), str(metric), [run.prompt for run in runs])
        for lane, group in known.groupby("lane", sort=False)
        for metric, runs in split(group).items()
    )


def shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Curves of metrics that are 0 or 1: the share of runs (column `median`), with its 95 % interval over prompts."""
    found = []
    known = rows[rows["log_snr"].notna()]
    for lane, group in known.groupby("lane", sort=False):
        for metric, runs in split(group).items():
            table, grid = _on_grid(runs)
            part = _summary(table, grid, str(lane), str(metric), [run.prompt for run in runs])
            columns = [np.flatnonzero(grid == place)[0] for place in part["log_snr"]]
            estimates = [_estimate(table[:, column], runs) for column in columns]
            names = ("value", "low", "high")
            part[["median", "low", "high"]] = [[getattr(found, name) for name in names] for found in estimates]
            found.append(part)
    return _table(iter(found))


def speeds(rows: pd.DataFrame, metric: str = "speed") -> pd.DataFrame:
    """Curves of the speed of x0: the share of its path per unit of log-SNR, around each grid point.

    Args:
        rows: Step metrics `x0_change` and one that first calls also have, such as `x0_distance`.
        metric: Name of the resulting metric.
    """
    found = []
    for lane in rows["lane"].unique():
        runs = paths(rows, str(lane), "log_snr")
        if not runs:
            continue
        grid = _grid([run.reach for run in runs.values()])
        table = np.full((len(runs), len(grid)), np.nan)
        for place, run in enumerate(runs.values()):
            low, high = run.reach
            inside = (grid >= low) & (grid <= high)
            edges = [np.clip(grid[inside] + side * GRID_STEP / 2, low, high) for side in (-1, 1)]
            behind = [run.behind(edge) for edge in edges]
            table[place, inside] = (behind[1] - behind[0]) / np.maximum(edges[1] - edges[0], 1e-12)
        found.append(_summary(table, grid, str(lane), metric, [prompt for prompt, _ in runs]))
    return _table(iter(found))


def octave_distances(rows: pd.DataFrame) -> pd.DataFrame:
    """Relative L2 distance of each octave of x0 to the final one, from its coherence c and relative power p.

    ||X - Y||^2 / ||Y||^2 = p + 1 - 2 c sqrt(p).

    Args:
        rows: Step metrics `coherence_k` and `power_k`.

    Returns:
        Rows of the same form, with metric `octave_k`.
    """
    keys = ["lane", "prompt", "seed", "step_index", "octave"]
    named = rows.assign(octave=rows["metric"].str.extract(r"_(\d+)$", expand=False))
    coherence = named[named["metric"].str.startswith("coherence_")]
    power = named[named["metric"].str.startswith("power_")][[*keys, "value"]]
    both = coherence.merge(power, on=keys, suffixes=("", "_power"))
    square = both["value_power"] + 1 - 2 * both["value"] * np.sqrt(both["value_power"])
    distances = both.assign(metric="octave_" + both["octave"], value=np.sqrt(np.maximum(square, 0.0)))
    return distances[[column for column in rows.columns if column in distances]]


def _on_grid(runs: list[Run]) -> tuple[Floats, Floats]:
    """Values of runs on the grid, (runs, points), NaN outside a run's range; and the grid."""
    grid = _grid([(run.log_snr.min(), run.log_snr.max()) for run in runs])
    table = np.full((len(runs), len(grid)), np.nan)
    for place, run in enumerate(runs):
        # Of equal levels, the last step counts.
        levels, index = np.unique(run.log_snr[::-1], return_index=True)
        table[place] = np.interp(grid, levels, run.value[::-1][index], left=np.nan, right=np.nan)
    return table, grid


def _estimate(values: Floats, runs: list[Run]) -> st.Estimate:
    there = np.flatnonzero(~np.isnan(values))
    return st.ranged_estimate(values[there], [runs[place].prompt for place in there], 0.0, 1.0)


def _grid(reaches: list[tuple[float, float]]) -> Floats:
    low, high = min(low for low, _ in reaches), max(high for _, high in reaches)
    first, last = np.ceil(low / GRID_STEP - 1e-9), np.floor(high / GRID_STEP + 1e-9)
    # A run whose levels all lie between two grid points is shown at their middle.
    return GRID_STEP * np.arange(first, last + 1) if last >= first else np.array([(low + high) / 2])


def _summary(table: Floats, grid: Floats, lane: str, metric: str, prompts: list[str]) -> pd.DataFrame:
    there = ~np.isnan(table)
    shown = there.sum(axis=0) >= max(1, MIN_SHARE * len(table))
    low, median, high = np.nanquantile(table[:, shown], [BAND[0], 0.5, BAND[1]], axis=0)
    names = np.array(prompts, dtype=object)
    counts = [len(set(names[column])) for column in there[:, shown].T]
    return pd.DataFrame(
        {
            "lane": lane,
            "metric": metric,
            "log_snr": grid[shown],
            "median": median,
            "low": low,
            "high": high,
            "runs": there[:, shown].sum(axis=0),
            "prompts": counts,
        }
    )


def _table(parts: Iterator[pd.DataFrame]) -> pd.DataFrame:
    found = [part for part in parts if len(part)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)
