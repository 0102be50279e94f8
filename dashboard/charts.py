"""Charts from timing summaries: pure functions from a DataFrame to an Altair chart, without Streamlit.

All take rows of `StudyView.timings` for one environment and one batch size, and draw lanes in the order of the rows.
"""

import altair as alt
import pandas as pd

from dashboard import theme
from dashboard.formats import duration, duration_range, ratio
from engine.analysis.timing import STAGES

ROW_PIXELS = 34
MARGIN_PIXELS = 60
_AXIS = alt.Axis(tickCount=6, labelOverlap=True)


def time_chart(table: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Median time per lane with its 95 % interval; a dashed line marks the baseline."""
    shown = table.assign(
        median=[duration(value) for value in table["median_ms"]],
        interval=[duration_range(low, high) for low, high in zip(table["low_ms"], table["high_ms"], strict=True)],
        gain=[ratio(value) for value in table["speedup"]],
    )
    tooltip = [
        alt.Tooltip("label", title="Lane"), alt.Tooltip("median", title="Median"),
        alt.Tooltip("interval", title="95 % interval"), alt.Tooltip("n:Q", title="n"),
        alt.Tooltip("nfe:Q", title="Denoiser calls"), alt.Tooltip("gain", title="Speed-up"),
    ]  # fmt: skip
    base = alt.Chart(shown).encode(y=_lanes(shown), tooltip=tooltip)
    colour, shape = _looks(shown)
    time = alt.X("median_ms:Q", title="Median time (ms)", scale=alt.Scale(zero=True), axis=_AXIS)
    layers = [
        base.mark_bar(height=3, opacity=0.45).encode(x=time, color=colour),
        base.mark_rule(strokeWidth=4).encode(x="low_ms:Q", x2="high_ms:Q", color=colour),
        base.mark_point(filled=True, size=100, opacity=1).encode(x=time, color=colour, shape=shape),
    ]
    baseline = shown[shown["is_baseline"]]
    if not baseline.empty:
        line = alt.Chart(baseline).mark_rule(strokeDash=[4, 4], color=theme.NEUTRAL, strokeWidth=1.5)
        layers.insert(0, line.encode(x="median_ms:Q"))
    return alt.layer(*layers).properties(height=_height(shown))


def stage_chart(table: pd.DataFrame) -> alt.Chart:
    """Where the time goes: stage medians, stacked per lane; `markup.stage_legend` names the colours."""
    columns = {f"{stage}_ms": stage for stage in STAGES}
    long = table.melt(["label"], list(columns), "stage", "ms").dropna(subset=["ms"])
    long["stage"] = long["stage"].map(columns)
    long["order"] = long["stage"].map({stage: place for place, stage in enumerate(STAGES)})
    long["share"] = long["ms"] / long.groupby("label")["ms"].transform("sum")
    long["median"] = [duration(value) for value in long["ms"]]
    present = [stage for stage in STAGES if stage in set(long["stage"])]
    colour = alt.Color(
        "stage:N",
        scale=alt.Scale(domain=present, range=[theme.STAGE_COLOURS[stage] for stage in present]),
        legend=None,
    )
    return (
        alt.Chart(long)
        .mark_bar(height=14)
        .encode(
            x=alt.X("ms:Q", title="Median time per stage (ms)", stack="zero", axis=_AXIS),
            y=_lanes(table),
            color=colour,
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("label", title="Lane"), alt.Tooltip("stage", title="Stage"),
                alt.Tooltip("median", title="Median"), alt.Tooltip("share:Q", title="Share", format=".0%"),
            ],
        )
        .properties(height=_height(table))
    )  # fmt: skip


def _lanes(table: pd.DataFrame) -> alt.Y:
    return alt.Y("label:N", sort=table["label"].tolist(), title=None, axis=alt.Axis(labelLimit=220, ticks=False))


def _looks(table: pd.DataFrame) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape per scheduler; the lane labels name them, so there is no legend."""
    keys = sorted(set(table["scheduler"]))
    looks = [theme.look(key) for key in keys]
    colours = alt.Scale(domain=keys, range=[look.colour for look in looks])
    shapes = alt.Scale(domain=keys, range=[look.shape for look in looks])
    return alt.Color("scheduler:N", scale=colours, legend=None), alt.Shape("scheduler:N", scale=shapes, legend=None)


def _height(table: pd.DataFrame) -> int:
    return ROW_PIXELS * len(table) + MARGIN_PIXELS
