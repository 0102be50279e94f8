"""Charts of measured times, from rows of `timing_summary.summarise` with label, scheduler and is_baseline."""

import altair as alt
import pandas as pd

from engine.analysis.timing_summary import STAGES
from engine.display import theme
from engine.display.charts import AXIS, height, lane_axis, lane_marks
from engine.display.formats import duration, duration_range, ratio

MARKS = "Mark: median. Thick bar: 95 % interval. Dashed: baseline."


def time_chart(table: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Median time per lane with 95 % interval; a dashed line marks the baseline."""
    shown = table.assign(
        median=[duration(value) for value in table["median_ms"]],
        interval=[duration_range(low, high) for low, high in zip(table["low_ms"], table["high_ms"], strict=True)],
        gain=[ratio(value) for value in table["speedup"]],
    )
    tooltip = [
        alt.Tooltip("label", title="Lane"),
        alt.Tooltip("median", title="Median"),
        alt.Tooltip("interval", title="95 % interval"),
        alt.Tooltip("n:Q", title="n"),
        alt.Tooltip("nfe:Q", title="Denoiser calls"),
        alt.Tooltip("gain", title="Speed-up"),
    ]
    return lane_marks(shown, "Median time (ms)", ("median_ms", "low_ms", "high_ms"), tooltip)


def stage_chart(table: pd.DataFrame) -> alt.Chart:
    """Median time per stage, stacked for each lane; `tables.STAGE_MARKS` is the legend."""
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
            x=alt.X("ms:Q", title="Median time (ms)", stack="zero", axis=AXIS),
            y=lane_axis(table),
            color=colour,
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("label", title="Lane"),
                alt.Tooltip("stage", title="Stage"),
                alt.Tooltip("median", title="Median"),
                alt.Tooltip("share:Q", title="Share", format=".0%"),
            ],
        )
        .properties(height=height(table))
    )
