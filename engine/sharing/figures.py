"""All figures of a study as CSV."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from engine.analysis.standings import standings
from engine.results import Results


def figures_csv(results: Results) -> str:
    """All figures as CSV, one row per lane, metric, environment and batch size.

    `n` counts timing samples; `prompts` and `pairs` count what quality is based on; `low` and `high` are the ends of
    95 % intervals.
    """
    tables = [
        standings(results.lane_table, times, results.comparisons, results.decided)
        for times in _each_place(results.timings)
    ]
    table = pd.concat(tables, ignore_index=True) if tables else results.standings
    table.insert(0, "study", results.id)
    table.insert(1, "baseline", results.baseline)
    return spreadsheet_csv(table)


def spreadsheet_csv(table: pd.DataFrame) -> str:
    """A table as CSV with all texts escaped against formula injection, since they may be untrusted."""
    texts = table.select_dtypes(include=["object", "string"]).columns
    table = table.assign(**{name: table[name].map(_as_text) for name in texts})
    return str(table.to_csv(index=False, lineterminator="\n"))


def _each_place(times: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for _, group in times.groupby(["environment_id", "batch_size"], sort=True):
        yield group


def _as_text(value: Any) -> Any:
    """Prefixes a text that a spreadsheet would run as a formula with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value
