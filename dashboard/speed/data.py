"""The table of all figures: on the page with one row per lane, as a file with one row per lane and metric."""

from typing import Any

import pandas as pd
from streamlit import column_config as columns

from engine.sharing.figures import spreadsheet_csv

LANE = {
    "label": "Lane",
    "steps": "Steps",
    "nfe": "NFE",
    "decided": "By all guards",
    "verdict": "By this metric alone",
}
QUALITY = {
    "mean": "Mean",
    "difference": "Difference",
    "low": "from",
    "high": "to",
    "prompts": "Prompts",
    "pairs": "Pairs",
}
TIMES = {
    "median_ms": "Median ms",
    "low_ms": "ms from",
    "high_ms": "ms to",
    "speedup": "Speed-up",
    "speedup_low": "Speed-up from",
    "speedup_high": "Speed-up to",
    "n": "Timing samples",
}
HELP = {
    "Mean": "Mean of the lane in the metric chosen above.",
    "Difference": "Mean of lane minus baseline in the metric chosen above, on the same prompts, seeds and noise.",
    "from": "Lower end of the difference's 95 % interval.",
    "to": "Upper end of the difference's 95 % interval.",
    "By all guards": "The decision: as good only if every guard has shown it.",
    "By this metric alone": "Two one-sided t tests at 5 % for a mean difference within the margin, adjusted for the "
    "number of lanes. For display only: a mean can hide single pictures that became others.",
    "NFE": "Counted denoiser calls.",
    "ms from": "Lower end of the 95 % interval of the median.",
    "ms to": "Upper end of the 95 % interval of the median.",
    "Speed-up": "Median time of the baseline divided by that of the lane.",
}


def wide_table(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row per lane: verdict and difference in one metric, times, and the mean in every metric.

    Args:
        table: Rows of `engine.analysis.standings.standings`.
        metric: Its key; "" if nothing has been scored.
    """
    own = table[table["metric"] == metric] if metric else table.drop_duplicates("lane")
    named = LANE | (QUALITY if metric else {}) | TIMES
    shown = own.set_index("lane")[list(named)].rename(columns=named)
    for _, rows in table.dropna(subset=["metric"]).groupby("metric", sort=False):
        first = rows.iloc[0]
        if first["metric"] == metric:
            continue
        unit = f" ({first['unit']})" if first["unit"] else ""
        shown[f"{first['metric_label']}{unit}"] = rows.set_index("lane")["mean"]
    return shown.dropna(axis="columns", how="all").reset_index(drop=True)


def column_formats(shown: pd.DataFrame) -> dict[str, Any]:
    """The format of each column; the lane is pinned."""
    formats: dict[str, Any] = {"Lane": columns.TextColumn(pinned=True)}
    for name in shown.columns.drop("Lane"):
        if name in {"By all guards", "By this metric alone"}:
            formats[name] = columns.TextColumn(help=HELP[name])
        elif name in {"Steps", "NFE", "Prompts", "Pairs", "Timing samples"}:
            formats[name] = columns.NumberColumn(format="%d", help=HELP.get(name))
        else:
            style = "%.0f" if name in {"Median ms", "ms from", "ms to"} and shown[name].min() >= 100 else "%.4g"
            formats[name] = columns.NumberColumn(format=style, help=HELP.get(name))
    return formats


def csv_of(table: pd.DataFrame, study_id: str) -> bytes:
    """All figures, one row per lane and metric."""
    return spreadsheet_csv(table.assign(study=study_id)).encode("utf-8")
