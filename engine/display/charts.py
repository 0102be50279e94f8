"""Shared parts of lane charts: one mark per lane with its interval, and the colour and shape of each scheduler.

Charts are pure functions from a DataFrame to an Altair chart, used by dashboard and report alike. Lanes appear in the
order of the rows, which have columns label, scheduler and is_baseline.
"""

import altair as alt
import pandas as pd

from engine.display import theme

ROW_PIXELS = 34
MARGIN_PIXELS = 60
AXIS = alt.Axis(tickCount=6, labelOverlap=True)


def lane_marks(
    shown: pd.DataFrame, title: str, columns: tuple[str, str, str], tooltip: list[alt.Tooltip]
) -> alt.LayerChart | alt.FacetChart:
    """Draws a mark per lane with its interval, from zero; `columns` are the value and the ends of its interval."""
    middle, low, high = columns
    base = alt.Chart(shown).encode(y=lane_axis(shown), tooltip=tooltip)
    colour, shape = looks(shown)
    value = alt.X(f"{middle}:Q", title=title, scale=alt.Scale(zero=True), axis=AXIS)
    layers = [
        base.mark_bar(height=3, opacity=0.45).encode(x=value, color=colour),
        base.mark_rule(strokeWidth=4).encode(x=f"{low}:Q", x2=f"{high}:Q", color=colour),
        base.mark_point(filled=True, size=100, opacity=1).encode(x=value, color=colour, shape=shape),
    ]
    baseline = shown[shown["is_baseline"]]
    if not baseline.empty:
        line = alt.Chart(baseline).mark_rule(strokeDash=[4, 4], color=theme.NEUTRAL, strokeWidth=1.5)
        layers.insert(0, line.encode(x=f"{middle}:Q"))
    return alt.layer(*layers).properties(height=height(shown))


def lane_axis(table: pd.DataFrame) -> alt.Y:
    return alt.Y("label:N", sort=table["label"].tolist(), title=None, axis=alt.Axis(labelLimit=220, ticks=False))


def looks(table: pd.DataFrame) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape by scheduler; no legend, since the axis labels name the lanes."""
    keys = sorted(set(table["scheduler"]))
    looks = [theme.look(key) for key in keys]
    colours = alt.Scale(domain=keys, range=[look.colour for look in looks])
    shapes = alt.Scale(domain=keys, range=[look.shape for look in looks])
    return alt.Color("scheduler:N", scale=colours, legend=None), alt.Shape("scheduler:N", scale=shapes, legend=None)


def height(table: pd.DataFrame) -> int:
    return ROW_PIXELS * len(table) + MARGIN_PIXELS
