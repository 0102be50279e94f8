"""Tables of what lanes really ran: noise levels by call, settings with their origin, lint findings."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from engine.display import html
from engine.display.formats import NONE, cut
from engine.display.tables import (
    Entry,
    FilledColumn,
    ResultTable,
    ShownLane,
    TableCell,
    name_of,
    table,
    table_of,
    text,
    wrap,
)

ORIGINS = {
    "lane": "this lane",
    "table": "the table of schedulers",
    "lab": "the lab",
    "model": "inherited from the model",
    "default": "default of the class",
    "ignored": "given, but not accepted by the class",
}
TOLD_TOLERANCE = 0.02


def summary_table(
    lanes: Iterable[ShownLane], levels: pd.DataFrame, findings: pd.DataFrame, baseline: str
) -> ResultTable:
    """One row per lane: calls, first and last noise level, noise left at the end, and findings.

    Below the name of a tuned lane stands what it was tuned for.
    """
    rows = []
    for lane in lanes:
        own = levels[levels["lane"] == lane.key]
        said = findings[findings["lane"] == lane.key]
        cells = ["not inspected" if said.empty else NONE, *[NONE] * 4]
        if not own.empty:
            first, last = own.iloc[0], own.iloc[-1]
            cells = [
                f"{len(own)}",
                f"{first['timestep']:g} → {last['timestep']:g}",
                f"{first['sigma']:.4g}",
                f"{last['sigma']:.3g}",
                f"{last['final_sigma']:.3g}",
            ]
        below = (cut(lane.conditions, 300),) if lane.conditions else ()
        rows.append((replace(name_of(lane, baseline), below=below), *cells, _remarks(said)))
    columns = ("Lane", "Calls", "Timesteps", "First sigma", "Last sigma", "Final sigma", wrap("Findings"))
    return table("What each lane ran", columns, rows)


def _remarks(findings: pd.DataFrame) -> Entry:
    """Visible warnings, and collapsed information."""
    lines = [(str(row.severity), cut(str(row.message), 300)) for row in findings.itertuples()]
    loud = [line for line in lines if line[0] != "info"]
    return html.remarks(loud, [message for severity, message in lines if severity == "info"]) or NONE


def level_table(levels: pd.DataFrame) -> ResultTable:
    """The noise levels of one lane; bold where the timestep implies another one."""
    columns: list[FilledColumn] = [
        ("Call", lambda row: str(int(row.call_index) + 1)),
        ("Timestep", lambda row: f"{row.timestep:.5g}"),
        ("Sigma", lambda row: f"{row.sigma:.4g}"),
        ("Sigma of timestep", lambda row: TableCell(f"{row.told_sigma:.4g}", strong=_differs(row))),
        ("Log-SNR", lambda row: f"{row.log_snr:.2f}"),
    ]
    return table_of("Noise levels", levels.itertuples(), columns)


def _differs(row: Any) -> bool:
    return bool(abs(row.told_sigma / row.sigma - 1) > TOLD_TOLERANCE if row.sigma > 0 else row.told_sigma > 0)


def setting_table(settings: pd.DataFrame) -> ResultTable:
    """The settings of one lane, those set explicitly first, defaults of the class last."""
    order = {origin: place for place, origin in enumerate(ORIGINS)}
    ordered = settings.assign(place=settings["origin"].map(order).fillna(len(order)))
    columns: list[FilledColumn] = [
        ("Setting", lambda row: str(row.setting)),
        (wrap("Value"), lambda row: TableCell(_value(row.value), below=_replaced(row.replaced))),
        (text("From"), lambda row: ORIGINS.get(row.origin, str(row.origin))),
    ]
    return table_of("Settings", ordered.sort_values(["place", "setting"]).itertuples(), columns)


def _replaced(stored: object) -> tuple[str, ...]:
    return () if pd.isna(stored) else (f"replaces the model's {_value(stored)}",)


def _value(stored: object) -> str:
    try:
        value = json.loads(str(stored))
    except ValueError:
        value = stored
    return cut(value if isinstance(value, str) else json.dumps(value, default=str), 120)
