"""Tables of prompts and cells for which lanes give another picture."""

from collections.abc import Mapping

import pandas as pd

from engine.display.formats import cut, number
from engine.display.tables import FilledColumn, ResultTable, table_of, wrap


def prompt_table(prompts: pd.DataFrame) -> ResultTable:
    """Prompts by the number of other pictures (`Differences.prompts`)."""
    columns: list[FilledColumn] = [
        (wrap("Prompt"), lambda row: cut(row.prompt, 80)),
        ("Other pictures", lambda row: f"{row.others} of {row.pairs}"),
        ("Median distance", lambda row: number(row.error)),
    ]
    return table_of("Prompts by the number of other pictures", prompts.itertuples(), columns)


def pair_table(pairs: pd.DataFrame, labels: Mapping[str, str]) -> ResultTable:
    """Cells whose picture is another one than the baseline's (`Differences.others`)."""
    columns: list[FilledColumn] = [
        (wrap("Prompt"), lambda row: cut(row.prompt, 80)),
        ("Seed", lambda row: f"{row.seed}"),
        (wrap("Lane"), lambda row: labels.get(row.lane, row.lane)),
        ("Distance", lambda row: number(row.distance)),
    ]
    return table_of("Pairs that became another picture", pairs.itertuples(), columns)
