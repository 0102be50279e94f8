"""Charts from timing summaries and prices: pure functions from a DataFrame to an Altair chart, without Streamlit.

All take rows of `StudyView.timings` for one environment and one batch size, and draw lanes in the order of the rows.
"""

import altair as alt
import pandas as pd

from dashboard import theme
from dashboard.formats import NONE, duration, duration_range, known, ratio
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
    return _marks(shown, "Median time (ms)", ("median_ms", "low_ms", "high_ms"), tooltip)


def cost_chart(table: pd.DataFrame, figure: str, title: str) -> alt.LayerChart | alt.FacetChart:
    """Dollars a month per lane with their interval; a dashed line marks the baseline.

    Args:
        table: Rows of `engine.analysis.cost.price_lanes`.
        figure: Its column "usd_month" or "fleet_usd".
        title: Of the axis, with the unit.
    """
    low, high = f"{figure}_low", f"{figure}_high"
    shown = table.assign(
        cost=[money(value) for value in table[figure]],
        interval=[money_range(*ends) for ends in zip(table[low], table[high], strict=True)],
        saving=[percent(value) for value in table["saving_share"]],
    )
    tooltip = [
        alt.Tooltip("label", title="Lane"), alt.Tooltip("cost", title="A month"),
        alt.Tooltip("interval", title="95 % interval"), alt.Tooltip("saving", title="Saved by use"),
        alt.Tooltip("seconds:Q", title="Seconds per image", format=".3~g"), alt.Tooltip("gpus:Q", title="Whole GPUs"),
    ]  # fmt: skip
    return _marks(shown, title, (figure, low, high), tooltip)


def _marks(
    shown: pd.DataFrame, title: str, columns: tuple[str, str, str], tooltip: list[alt.Tooltip]
) -> alt.LayerChart | alt.FacetChart:
    """A mark per lane with its interval, from zero; `columns` are the value and the ends of its interval."""
    middle, low, high = columns
    base = alt.Chart(shown).encode(y=_lanes(shown), tooltip=tooltip)
    colour, shape = _looks(shown)
    value = alt.X(f"{middle}:Q", title=title, scale=alt.Scale(zero=True), axis=_AXIS)
    layers = [
        base.mark_bar(height=3, opacity=0.45).encode(x=value, color=colour),
        base.mark_rule(strokeWidth=4).encode(x=f"{low}:Q", x2=f"{high}:Q", color=colour),
        base.mark_point(filled=True, size=100, opacity=1).encode(x=value, color=colour, shape=shape),
    ]
    baseline = shown[shown["is_baseline"]]
    if not baseline.empty:
        line = alt.Chart(baseline).mark_rule(strokeDash=[4, 4], color=theme.NEUTRAL, strokeWidth=1.5)
        layers.insert(0, line.encode(x=f"{middle}:Q"))
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


def money(dollars: float) -> str:
    """E.g. "$0.0123", "$12.30", "$123", "$1,234", "$1.23 M"."""
    if not known(dollars):
        return NONE
    sign, size = "−" if dollars < 0 else "", abs(dollars)
    if size >= 999_999.5:
        return f"{sign}${size / 1e6:,.2f} M"
    if size >= 99.995 or size == 0:
        return f"{sign}${size:,.0f}"
    return f"{sign}${size:.2f}" if size >= 0.1 else f"{sign}${size:.3g}"


def money_range(low: float, high: float) -> str:
    """E.g. "$1,200 – $1,250"; one figure if both ends read the same."""
    ends = [money(low), money(high)]
    if NONE in ends:
        return NONE
    return ends[0] if ends[0] == ends[1] else " – ".join(ends)


def percent(share: float) -> str:
    """E.g. "38.2 %"."""
    return f"{100 * share:.1f} %".replace("-", "−") if known(share) else NONE


def percent_range(low: float, high: float) -> str:
    """E.g. "36.1 – 40.0 %"."""
    return f"{percent(low)[:-2]} – {percent(high)}" if known(low) and known(high) else NONE
