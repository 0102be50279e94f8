"""Charts of speed against quality (rows of `engine.analysis.standings.standings`), and of convergence."""

import altair as alt
import pandas as pd

from engine.analysis.recommendation import ACCEPTED
from engine.analysis.standings import frontier
from engine.display import theme
from engine.display.charts import looks
from engine.display.formats import duration, number, number_range, signed

# Cost of a lane: column, ends of its interval if it has one, title of the axis.
COSTS = {
    "ms": ("median_ms", ("low_ms", "high_ms"), "Median time (ms, {batch})"),
    "nfe": ("nfe", None, "Denoiser calls (NFE)"),
    "steps": ("steps", None, "Steps"),
}
HEIGHT = 380
CROWDED = 24  # with more lanes, only those on the Pareto front are labelled
WIDE_RANGE = 6  # with a larger ratio of values, the axis is logarithmic


def trade_off_chart(table: pd.DataFrame, cost: str, batch: str) -> alt.LayerChart | alt.FacetChart:
    """Difference in quality from the baseline over cost: lanes with intervals, equivalence band and Pareto front.

    Args:
        table: Rows of one metric.
        cost: Key of `COSTS`.
        batch: What was timed, e.g. "one image at a time".

    Returns:
        The chart; better is up. The band is the margin around the baseline; lanes that the decision accepts have filled
        marks.
    """
    column, ends, title = COSTS[cost]
    shown = _for_display(table.dropna(subset=["difference", column]), column)
    first, across = shown.iloc[0], title.format(batch=batch)
    up = f"{first['metric_label']}: difference" + (f" ({first['unit']})" if first["unit"] else "")
    direction = alt.Scale(reverse=first["direction"] == "lower", nice=True)
    x = alt.X(f"{column}:Q", title=across, scale=_scale(shown[column]), axis=_AXIS)
    y = alt.Y("difference:Q", title=up, scale=direction, axis=alt.Axis(tickCount=6))
    base = alt.Chart(shown)
    colour, shape = looks(shown)
    layers = [*_band(first, up), *_front(shown, column, x, y)]
    layers.append(_spread(shown, ("low", "high")).encode(x=x, y=alt.Y("low:Q", title=up), y2="high:Q", color=colour))
    if ends:
        low, high = ends
        layers.append(_spread(shown, ends).encode(x=alt.X(f"{low}:Q", title=across), x2=f"{high}:Q", y=y, color=colour))
    marks = {"x": x, "y": y, "color": colour, "shape": shape, "tooltip": _tooltip(shown["median_ms"].notna().any())}
    layers += [
        alt.Chart(rows).mark_point(filled=good, opacity=1, size=130 if good else 110, strokeWidth=2).encode(**marks)
        for good, rows in shown.groupby("as_good")  # never a layer without marks: it would be an unnamed graphic
    ]
    layers += [
        base.transform_filter(alt.datum.above == above)
        .mark_text(align="left", dx=7, dy=-11 if above else 12, color=theme.NEUTRAL, fontSize=11)
        .encode(x=x, y=y, text="name:N")
        for above in (True, False)
    ]
    return alt.layer(*layers).properties(height=HEIGHT)


def _spread(table: pd.DataFrame, ends: tuple[str, str]) -> alt.Chart:
    """Interval lines of the rows that have an interval."""
    return alt.Chart(table.dropna(subset=list(ends))).mark_rule(strokeWidth=1.5, opacity=0.7)


def _for_display(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Adds texts for tooltips and labels, and whether a lane is on the Pareto front."""
    plain = not table.duplicated(["scheduler", "steps"]).any()
    sign = {"higher": 1.0, "lower": -1.0}.get(str(table["direction"].iloc[0]), float("nan"))
    front = frontier(table[column], sign * table["difference"])
    named = (table["steps"].astype(str) if plain else table["label"]).where(front | (len(table) <= CROWDED), "")
    return table.assign(
        name=named,
        as_good=table["decided"].isin([ACCEPTED, "baseline"]),
        above=table[column].rank(method="first") % 2 == 1,  # labels alternate above and below
        front=front,
        time=[duration(value) for value in table["median_ms"]],
        value=[number(value) for value in table["mean"]],
        gap=[signed(value) for value in table["difference"]],
        interval=[number_range(*ends) for ends in zip(table["low"], table["high"], strict=True)],
    )


def _band(row: pd.Series, title: str) -> list[alt.Chart]:
    """The baseline as a dashed line, and the margin around it, if known."""
    edges = pd.DataFrame([{"zero": 0.0, "under": -row["margin"], "over": row["margin"]}])
    line = alt.Chart(edges).mark_rule(strokeDash=[4, 4], color=theme.NEUTRAL, strokeWidth=1.5)
    line = line.encode(y=alt.Y("zero:Q", title=title))
    if pd.isna(row["margin"]):
        return [line]
    band = alt.Chart(edges).mark_rect(color=theme.ACCENT, opacity=0.13)
    return [band.encode(y=alt.Y("under:Q", title=title), y2="over:Q"), line]


def _front(shown: pd.DataFrame, column: str, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    front = shown[shown["front"]].sort_values(column)
    if len(front) < 2:
        return []
    end = front.tail(1).assign(**{column: shown[column].max()})
    line = alt.Chart(pd.concat([front, end])[[column, "difference"]])
    return [line.mark_line(interpolate="step-after", color=theme.ACCENT, strokeWidth=2, opacity=0.8).encode(x=x, y=y)]


def _tooltip(timed: bool) -> list[alt.Tooltip]:
    time = [alt.Tooltip("time", title="Median time"), alt.Tooltip("n:Q", title="Timing samples")] if timed else []
    return [
        alt.Tooltip("label", title="Lane"),
        *time,
        alt.Tooltip("nfe:Q", title="Denoiser calls"),
        alt.Tooltip("value", title="Mean"),
        alt.Tooltip("gap", title="Difference"),
        alt.Tooltip("interval", title="95 % interval"),
        alt.Tooltip("prompts:Q", title="Prompts"),
        alt.Tooltip("decided", title="By all guards"),
        alt.Tooltip("verdict", title="By this metric alone"),
    ]


def convergence_chart(errors: pd.DataFrame, floor: float) -> alt.LayerChart | alt.FacetChart:
    """Median error over denoiser calls on logarithmic axes, one line per scheduler.

    Args:
        errors: As in `engine.analysis.convergence.Convergence`.
        floor: Errors below it are not meaningful; drawn as a dashed line unless it is 0. Marks too close to it to be
            used for the observed order are hollow.
    """
    shown = errors[errors["error"] > 0]
    shown = shown.assign(
        value=[number(value) for value in shown["error"]],
        interval=[number_range(*ends) for ends in zip(shown["low"], shown["high"], strict=True)],
    )
    colour, shape = looks(shown)
    x = alt.X("nfe:Q", title="Denoiser calls (NFE)", scale=alt.Scale(type="log", nice=False, padding=18), axis=_AXIS)
    up = "Median error (relative L2 of the latents)"
    y = alt.Y(
        "error:Q",
        title=up,
        scale=alt.Scale(type="log", nice=False, padding=18),
        axis=alt.Axis(tickCount=5, format=".3~g"),
    )
    tooltip = [
        alt.Tooltip("label", title="Scheduler"),
        alt.Tooltip("steps:Q", title="Steps"),
        alt.Tooltip("nfe:Q", title="Denoiser calls"),
        alt.Tooltip("value", title="Median error"),
        alt.Tooltip("interval", title="95 % interval"),
        alt.Tooltip("n:Q", title="Prompts"),
        alt.Tooltip("flipped:Q", title="Different picture", format=".0%"),
    ]
    base = alt.Chart(shown)
    marks = {"x": x, "y": y, "color": colour, "shape": shape, "tooltip": tooltip}
    spread = _spread(shown[shown["low"] > 0], ("low", "high"))
    layers = [
        base.mark_line(strokeWidth=1.8, opacity=0.8).encode(x=x, y=y, color=colour),
        spread.encode(x=x, y=alt.Y("low:Q", title=up), y2="high:Q", color=colour),
        *(
            alt.Chart(rows).mark_point(filled=above, size=90, opacity=1, strokeWidth=2).encode(**marks)
            for above, rows in shown.groupby("above_floor")  # as above: never a layer without marks
        ),
    ]
    if floor > 0:
        dashed = alt.Chart(pd.DataFrame([{"floor": floor}]))
        layers.insert(
            0,
            dashed.mark_rule(strokeDash=[4, 4], color=theme.NEUTRAL, strokeWidth=1.5).encode(
                y=alt.Y("floor:Q", title=up)
            ),
        )
    return alt.layer(*layers).properties(height=HEIGHT)


_AXIS = alt.Axis(tickCount=8, labelOverlap=True, format=",.4~g")


def _scale(values: pd.Series) -> alt.Scale:
    """Logarithmic if the values span a wide range; padded at both ends for the labels."""
    wide = values.min() > 0 and values.max() / values.min() > WIDE_RANGE
    return alt.Scale(type="log" if wide else "linear", zero=False, nice=False, padding=28)
