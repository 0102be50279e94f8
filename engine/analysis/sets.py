"""Metrics of whole sets as text: each value with interval, n and warning. Pure, no torch."""

import pandas as pd

HEADING = ("metric", "lane", "against", "value", "95 % interval", "n", "warning")


def set_rows(sets: pd.DataFrame) -> list[tuple[str, ...]]:
    """Set metrics as rows of text, with a header; refused ones are in `refusal_lines`.

    Args:
        sets: Columns of `engine.cache.score_tables.lane_scores`.
    """
    return [HEADING, *(_row(row) for row in sets[sets["value"].notna()].to_dict("records"))]


def refusal_lines(sets: pd.DataFrame) -> list[str]:
    """Metrics without values, one line per reason."""
    lines = []
    for reason, rows in sets[sets["value"].isna()].groupby("warning", sort=False):
        labels = ", ".join(dict.fromkeys(rows["label"]))
        lines.append(f"No value for {labels} ({len(rows)} sets): {reason}.")
    return lines


def feature_lines(sets: pd.DataFrame) -> list[str]:
    """The feature extractors, one line each."""
    return [f"Features: {name}." for name in dict.fromkeys(sets["features"])]


def _row(row: dict[str, object]) -> tuple[str, ...]:
    return (
        f"{row['label']} ({row['unit']})" if row["unit"] else str(row["label"]),
        str(row["lane"]),
        str(row["against"]),
        f"{row['value']:.3g}",
        f"{row['low']:.3g} to {row['high']:.3g}",
        f"{row['prompts']} prompts, {row['n']} pictures",
        str(row["warning"]) if isinstance(row["warning"], str) else "",
    )
