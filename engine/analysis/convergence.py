"""How fast each scheduler converges: errors over denoiser calls, and observed orders. Pure.

Definitions, on errors of finished cells relative to the converged solution (relative L2 of the latents):

- Error of a lane: the median over prompts of each prompt's median over seeds. Medians, since a mean would be dominated
  by the few pictures that became another picture; their share (error above `FLIPPED`) is reported separately.
- Observed order p of a scheduler: minus the least-squares slope of log error over log denoiser calls, over its step
  counts. Calls are those counted, not the step count. A solver of order k shows p near k once its errors are small but
  still larger than the error of the reference itself (`floor`): a lane whose error is not above `ABOVE_FLOOR` times the
  floor is left out of the fit.
- Intervals: expanded percentile bootstrap over prompts (statistics.py). Orders are fitted on the prompts that all step
  counts of a scheduler have in common, resampled together.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.analysis import statistics as st

Floats = npt.NDArray[np.float64]

FLIPPED = 0.3
ABOVE_FLOOR = 2.0

ERROR_COLUMNS = (
    "scheduler",
    "label",
    "lane",
    "steps",
    "nfe",
    "error",
    "low",
    "high",
    "quarter",
    "three_quarters",
    "n",
    "pairs",
    "flipped",
    "above_floor",
)
ORDER_COLUMNS = ("scheduler", "label", "order", "low", "high", "n", "points", "nfe_first", "nfe_last", "reason")


@dataclass(frozen=True)
class Convergence:
    """Errors and orders of a study.

    Attributes:
        errors: One row per lane, schedulers in the study's order and calls ascending. Columns: scheduler (key), label,
            lane, steps, nfe (counted denoiser calls), error (median), low and high (its 95 % interval), quarter and
            three_quarters (quartiles over cells), n (prompts), pairs (cells), flipped (share of cells above
            `FLIPPED`), above_floor (whether it is part of the fit).
        orders: One row per scheduler. Columns: scheduler, label, order, low and high (its 95 % interval), n (prompts),
            points (lanes fitted), nfe_first and nfe_last (their calls), reason (why there is no order, else empty).
        floor: Errors below it are not meaningful; 0 if unknown.
        metric: The metric of the errors.
    """

    errors: pd.DataFrame
    orders: pd.DataFrame
    floor: float
    metric: str


def convergence(
    quality: pd.DataFrame, cells: pd.DataFrame, metric: str = "latent_error", floor: float = 0.0
) -> Convergence:
    """Errors per lane and the observed order of each scheduler; empty tables if nothing has an error.

    Args:
        quality: Columns lane, prompt, seed, metric, value (`engine.cache.score_tables.picture_scores`).
        cells: Columns study_lane, scheduler, scheduler_label, steps, nfe, status (`engine.cache.queries.cells`).
        metric: The error metric, which must converge to zero.
        floor: Errors below it are not meaningful (`engine.results.Results.floors`).
    """
    values = quality[(quality["metric"] == metric) & np.isfinite(quality["value"].astype(float))]
    lanes = _lanes(cells[cells["status"] == "done"])
    lanes = lanes[lanes["lane"].isin(set(values["lane"]))]
    by_lane = {str(lane): _by_prompt(rows) for lane, rows in values.groupby("lane", sort=False)}
    errors = [
        _error(row, values[values["lane"] == row["lane"]], by_lane[row["lane"]], floor)
        for row in lanes.to_dict("records")
    ]
    table = pd.DataFrame(errors, columns=list(ERROR_COLUMNS))
    orders = [_order(rows, by_lane) for _, rows in table.groupby("scheduler", sort=False)]
    return Convergence(table, pd.DataFrame(orders, columns=list(ORDER_COLUMNS)), floor, metric)


def observed_order(nfe: Sequence[float] | Floats, errors: Floats) -> Floats:
    """Minus the least-squares slope of log error over log calls.

    Args:
        nfe: Calls, (K,), at least two of them different.
        errors: Above zero, (..., K).

    Returns:
        The order, (...).
    """
    x = np.log(np.asarray(nfe, dtype=np.float64))
    x = x - x.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes: Floats = np.log(errors) @ x / (x @ x)
    return -slopes


def convergence_rows(parts: Mapping[str, Convergence]) -> list[tuple[str, ...]]:
    """Errors side by side as rows of text, with a header; "~" marks those too close to their floor to be fitted.

    Args:
        parts: By column title; the lanes are those of the first.
    """
    tables = [part.errors.set_index("lane").to_dict("index") for part in parts.values()]
    heading = ("scheduler", "steps", "calls", *parts, "other picture", "n")
    rows: list[tuple[str, ...]] = [heading]
    for lane, row in tables[0].items():
        errors = [_error_text(table[lane]) if lane in table else "-" for table in tables]
        rows.append(
            (
                row["label"],
                str(row["steps"]),
                str(row["nfe"]),
                *errors,
                f"{row['flipped']:.0%}",
                f"{row['n']} prompts, {row['pairs']} cells",
            )
        )
    return rows


def order_rows(parts: Mapping[str, Convergence]) -> list[tuple[str, ...]]:
    """Orders side by side as rows of text, with a header, each with the calls it was fitted over."""
    tables = [part.orders.set_index("scheduler").to_dict("index") for part in parts.values()]
    rows: list[tuple[str, ...]] = [("observed order", *parts, "n")]
    for scheduler, row in tables[0].items():
        orders = [_order_text(table[scheduler]) if scheduler in table else "-" for table in tables]
        rows.append((row["label"], *orders, f"{row['n']} prompts" if row["n"] else "-"))
    return rows


def _error_text(row: Mapping[Hashable, Any]) -> str:
    near = "" if row["above_floor"] else "~"
    return near + _with_interval(row["error"], row["low"], row["high"], ".3g")


def _order_text(row: Mapping[Hashable, Any]) -> str:
    if row["reason"]:
        return f"- ({row['reason']})"
    calls = f"{row['nfe_first']} to {row['nfe_last']} calls"
    return f"{_with_interval(row['order'], row['low'], row['high'], '.2f')}, {calls}"


def _with_interval(value: float, low: float, high: float, form: str) -> str:
    spread = f"[{low:{form}}, {high:{form}}]" if np.isfinite(low) else f"(no interval below {st.MIN_PROMPTS} prompts)"
    return f"{value:{form}} {spread}"


def _lanes(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per lane: schedulers in order of first appearance, calls ascending."""
    named = cells[["study_lane", "scheduler", "scheduler_label", "steps", "nfe"]]
    named = named.rename(columns={"study_lane": "lane", "scheduler_label": "label"})
    lanes = named.groupby("lane", sort=False).first().reset_index()
    places = {key: place for place, key in enumerate(lanes["scheduler"].drop_duplicates())}
    return lanes.assign(place=lanes["scheduler"].map(places)).sort_values(["place", "nfe"], ignore_index=True)


def _by_prompt(rows: pd.DataFrame) -> pd.Series:
    return rows.groupby("prompt")["value"].median()


def _error(lane: dict[str, object], rows: pd.DataFrame, by_prompt: pd.Series, floor: float) -> dict[str, object]:
    medians, cells = by_prompt.to_numpy(dtype=np.float64), rows["value"].to_numpy(dtype=np.float64)
    low, high = st.resampled_interval(lambda drawn: np.median(medians[drawn], axis=1), len(medians))
    quarter, three_quarters = np.quantile(cells, [0.25, 0.75])
    error = float(np.median(medians))
    keys = ("scheduler", "label", "lane", "steps", "nfe")
    return {key: lane[key] for key in keys} | {
        "error": error,
        "low": low,
        "high": high,
        "quarter": quarter,
        "three_quarters": three_quarters,
        "n": len(medians),
        "pairs": len(cells),
        "flipped": float(np.mean(cells > FLIPPED)),
        "above_floor": bool(error > ABOVE_FLOOR * floor),
    }


def _order(rows: pd.DataFrame, by_lane: dict[str, pd.Series]) -> dict[str, object]:
    """The order of one scheduler from its rows of the error table."""
    fitted = rows[rows["above_floor"]]
    first = rows.iloc[0]
    found = {
        "scheduler": first["scheduler"],
        "label": first["label"],
        "order": float("nan"),
        "low": float("nan"),
        "high": float("nan"),
        "n": 0,
        "points": len(fitted),
        "nfe_first": int(rows["nfe"].min()),
        "nfe_last": int(rows["nfe"].max()),
        "reason": "",
    }
    if fitted["nfe"].nunique() < 2:
        return found | {"reason": f"{len(fitted)} of {len(rows)} step counts above the floor"}
    table = pd.concat([by_lane[lane] for lane in fitted["lane"]], axis=1, join="inner").to_numpy(dtype=np.float64)
    nfe = fitted["nfe"].to_numpy(dtype=np.float64)
    if not len(table):
        return found | {"reason": "no prompt has an error at all step counts"}
    low, high = st.resampled_interval(lambda drawn: observed_order(nfe, np.median(table[drawn], axis=1)), len(table))
    return found | {
        "order": float(observed_order(nfe, np.median(table, axis=0))),
        "low": low,
        "high": high,
        "n": len(table),
        "nfe_first": int(nfe.min()),
        "nfe_last": int(nfe.max()),
    }
