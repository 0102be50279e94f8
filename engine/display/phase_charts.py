"""Charts of image formation over log-SNR, from noise on the left to the picture on the right.

Curves are medians over runs with a 10 to 90 % band, one per lane in its scheduler's colour. Rulers below the chart,
one per lane, mark the log-SNR at which 20, 40, 60 and 80 % of its calls are done.
"""

import altair as alt
import numpy as np
import pandas as pd

from engine.analysis.phases import Axis
from engine.display import theme
from engine.display.charts import looks

Layers = alt.LayerChart | alt.FacetChart

CURVE_PIXELS = 260
LEGEND_PIXELS = 70
RULER_PIXELS = 15
LOG_SNR = "Log-SNR: noise → picture"
SPAN_MARKS = (
    "Bar: half of the path. Line: 80 % of it. Mark: halfway. Dark ends: 95 % intervals. "
    "Grey: 40 – 80 %, the claimed critical phase."
)
# Dash patterns of the octaves of x0, coarse to fine.
OCTAVE_DASHES = ([1, 0], [8, 3], [5, 3], [3, 2], [2, 2], [1, 2], [1, 4])


def curve_chart(
    curve: pd.DataFrame, ruler: pd.DataFrame, title: str, value_format: str = ".3~g", band: str = "10 – 90 % of runs"
) -> Layers:
    """Curves of lanes over log-SNR with their bands and rulers.

    Args:
        curve: Columns label, scheduler, log_snr, median, low, high, runs, prompts.
        ruler: Columns label, scheduler, log_snr, progress.
        title: Title of the y axis, with unit and direction.
        value_format: Format of its values.
        band: Name of the band in the tooltip.
    """
    shown = curve.assign(mark=_marked(curve))
    colour, shape = looks(shown)
    x = _across(curve, ruler)
    base = alt.Chart(shown).encode(x=x, color=colour, detail="label:N")
    tooltip = [
        alt.Tooltip("label", title="Lane"),
        alt.Tooltip("log_snr:Q", title="Log-SNR", format=".2f"),
        alt.Tooltip("median:Q", title="Value", format=".3g"),
        alt.Tooltip("low:Q", title=f"Low ({band})", format=".3g"),
        alt.Tooltip("high:Q", title=f"High ({band})", format=".3g"),
        alt.Tooltip("runs:Q", title="Runs"),
    ]
    value = _up(title, "median", value_format)
    layers = [
        base.mark_area(opacity=0.13).encode(y=_up(title, "low", value_format), y2="high:Q"),
        base.mark_line(strokeWidth=1.8).encode(y=value, tooltip=tooltip),
        base.transform_filter("datum.mark")
        .mark_point(filled=True, size=46, opacity=1)
        .encode(y=value, shape=shape, tooltip=tooltip),
    ]
    return _with_ruler(layers, ruler, x)


def octave_chart(curve: pd.DataFrame, ruler: pd.DataFrame, title: str) -> Layers:
    """Agreement of each octave of x0 with the final latents over log-SNR, for one lane.

    Args:
        curve: As in `curve_chart`, for one lane; metric ends in `_k`, the octave's lower end in cycles per side.
        ruler: Ruler of that lane.
        title: Title of the y axis.
    """
    numbers = curve["metric"].str.rpartition("_")[2].astype(int)
    highest = int(numbers.max())
    names = {number: octave_name(number, highest) for number in sorted(numbers.unique())}
    shown = curve.assign(octave=numbers.map(names), order=numbers)
    x = _across(curve, ruler)
    order = list(names.values())
    dashes = [list(OCTAVE_DASHES[min(place, len(OCTAVE_DASHES) - 1)]) for place in range(len(order))]
    base = alt.Chart(shown).encode(x=x, y=_up(title), detail="octave:N")
    legend = alt.Legend(
        title="Cycles per side", orient="bottom", columns=4, symbolStrokeWidth=2, symbolType="stroke", symbolSize=300
    )
    tooltip = [
        alt.Tooltip("octave", title="Cycles per side"),
        alt.Tooltip("log_snr:Q", title="Log-SNR", format=".2f"),
        alt.Tooltip("median:Q", title="Median", format=".3g"),
        alt.Tooltip("low:Q", title="10 % of runs", format=".3g"),
        alt.Tooltip("high:Q", title="90 % of runs", format=".3g"),
        alt.Tooltip("runs:Q", title="Runs"),
    ]
    ends = base.transform_filter(alt.FieldOneOfPredicate("order", [int(numbers.min()), highest]))
    colour = theme.look(str(curve["scheduler"].iloc[0])).colour
    layers = [
        ends.mark_area(opacity=0.12, color=colour).encode(y=_up(title, "low"), y2="high:Q"),
        base.mark_line(strokeWidth=2, color=colour).encode(
            strokeDash=alt.StrokeDash(
                "octave:N", sort=order, scale=alt.Scale(domain=order, range=dashes), legend=legend
            ),
            tooltip=tooltip,
        ),
    ]
    return _with_ruler(layers, ruler, x, LEGEND_PIXELS)


def octave_name(lower: int, highest: int) -> str:
    """E.g. "below 1", "2 – 4", "8 and more"."""
    if lower == 0:
        return "below 1"
    return f"{lower} and more" if lower == highest else f"{lower} – {2 * lower}"


def span_chart(spans: pd.DataFrame, title: str, place: Axis, claimed: tuple[float, float] | None = None) -> Layers:
    """Critical phases of lanes: a thick bar for half of the path, a thin line for 80 % of it.

    Args:
        spans: Columns label, scheduler, start_50, end_50, start_80, end_80 and half; with _low and _high of each of
            start_50 and end_50.
        title: Title of the x axis.
        place: Variable of the x axis.
        claimed: A claimed span, drawn in the background.
    """
    percent = place == "progress"
    colour, shape = looks(spans)
    axis = alt.Axis(tickCount=6, format=".0%" if percent else "~g")
    domain = alt.Scale(domain=[0, 1]) if percent else alt.Scale(zero=False, nice=True)
    lanes = alt.Y("label:N", sort=spans["label"].tolist(), title=None, axis=alt.Axis(labelLimit=170, ticks=False))
    base = alt.Chart(spans).encode(y=lanes)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=title, axis=axis, scale=domain)

    number = ".0%" if percent else ".2f"
    tooltip = [alt.Tooltip("label", title="Lane")]
    for name, text in (
        ("start_50", "Half begins"),
        ("half", "Half of the path"),
        ("end_50", "Half ends"),
        ("start_80", "80 % begins"),
        ("end_80", "80 % ends"),
    ):
        tooltip.append(alt.Tooltip(f"{name}:Q", title=text, format=number))
    layers = [
        base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=x("start_80"), x2="end_80", color=colour, tooltip=tooltip),
        base.mark_bar(height=9, opacity=0.5).encode(x=x("start_50"), x2="end_50", color=colour, tooltip=tooltip),
        base.mark_rule(strokeWidth=4).encode(x=x("start_50_low"), x2="start_50_high", color=colour),
        base.mark_rule(strokeWidth=4).encode(x=x("end_50_low"), x2="end_50_high", color=colour),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x=x("half"), color=colour, shape=shape, tooltip=tooltip
        ),
    ]
    if claimed is not None:
        band = pd.DataFrame({"from": [claimed[0]], "to": [claimed[1]]})
        layers.insert(0, alt.Chart(band).mark_rect(color=theme.NEUTRAL, opacity=0.18).encode(x=x("from"), x2="to"))
    return alt.layer(*layers).properties(height=30 * len(spans) + 50)


def path_chart(points: pd.DataFrame, axes: tuple[int, int], explained: tuple[float, ...]) -> Layers:
    """Paths of lanes on two common principal components; a ring marks the start.

    Args:
        points: Columns label, scheduler, step_index, progress, log_snr, pca_1, pca_2, pca_3.
        axes: Which two components, from 1.
        explained: Share of the variance that each component explains.
    """
    colour, shape = looks(points)
    shown = points.sort_values(["label", "step_index"])
    last = shown.groupby("label")["step_index"].transform("max")
    shown = shown.assign(first=shown["step_index"] == 0, last=shown["step_index"] == last)
    titles = [f"Component {axis} ({explained[axis - 1]:.0%})" for axis in axes]
    x = alt.X(f"pca_{axes[0]}:Q", title=titles[0], scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    y = alt.Y(f"pca_{axes[1]}:Q", title=titles[1], scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    tooltip = [
        alt.Tooltip("label", title="Lane"),
        alt.Tooltip("progress:Q", title="Progress", format=".0%"),
        alt.Tooltip("log_snr:Q", title="Log-SNR", format=".2f"),
    ]
    base = alt.Chart(shown).encode(x=x, y=y, color=colour, detail="label:N", tooltip=tooltip)
    return alt.layer(
        base.mark_line(strokeWidth=1.4, opacity=0.75).encode(order="step_index:Q"),
        base.mark_circle(size=9, opacity=0.8),
        base.transform_filter("datum.first").mark_point(size=110, strokeWidth=1.6, fillOpacity=0),
        base.transform_filter("datum.last").mark_point(filled=True, size=110, opacity=1).encode(shape=shape),
    ).properties(height=300)


def commitment_chart(curve: pd.DataFrame, title: str) -> Layers:
    """Share of runs that keep their first prompt, over the log-SNR at which it was swapped, with 95 % intervals.

    Args:
        curve: Columns label, scheduler, progress, log_snr, value, low, high, pairs, runs.
    """
    colour, shape = looks(curve)
    base = alt.Chart(curve[curve["log_snr"].notna()]).encode(
        x=alt.X("log_snr:Q", title=LOG_SNR, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=8)),
        color=colour,
        detail="label:N",
        tooltip=[
            alt.Tooltip("label", title="Lane"),
            alt.Tooltip("progress:Q", title="Prompt swapped at", format=".0%"),
            alt.Tooltip("value:Q", title="Keep the first prompt", format=".0%"),
            alt.Tooltip("low:Q", title="95 % interval from", format=".0%"),
            alt.Tooltip("high:Q", title="to", format=".0%"),
            alt.Tooltip("runs:Q", title="Runs"),
        ],
    )
    value = _up(title, "value", ".0%")
    return alt.layer(
        base.mark_area(opacity=0.1).encode(y=_up(title, "low", ".0%"), y2="high:Q"),
        base.mark_line(strokeWidth=1.6).encode(y=value),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=value, shape=shape),
    ).properties(height=CURVE_PIXELS)


def _marked(curve: pd.DataFrame) -> pd.Series:
    """Selects points to mark: one per 1.5 units of log-SNR, offset by lane so that equal curves stay visible."""
    labels = {label: place for place, label in enumerate(dict.fromkeys(curve["label"]))}
    units = np.round(curve["log_snr"] * 4).astype(int)
    return (units - curve["label"].map(labels)) % 6 == 0


def _with_ruler(layers: list[alt.Chart], ruler: pd.DataFrame, x: alt.X, more: int = 0) -> Layers:
    """Adds the rulers of the lanes between chart and axis, where `_across` leaves room for them."""
    for place, (_, own) in enumerate(ruler.groupby("label", sort=False)):
        shown = own.assign(text=[f"{value:.0%}" for value in own["progress"]])
        colour, shape = looks(ruler)
        base = alt.Chart(shown).encode(
            x=x,
            y=alt.value({"expr": f"height + {RULER_PIXELS * (place + 0.75)}"}),
            color=colour,
            tooltip=[
                alt.Tooltip("label", title="Lane"),
                alt.Tooltip("text", title="Calls done"),
                alt.Tooltip("log_snr:Q", title="at log-SNR", format=".2f"),
            ],
        )
        layers += [
            base.mark_point(filled=True, size=26, opacity=1).encode(shape=shape),
            base.mark_text(align="left", dx=5, fontSize=9.5).encode(text="text:N"),
        ]
    # The height includes axis and rulers.
    return alt.layer(*layers).properties(height=CURVE_PIXELS + RULER_PIXELS * ruler["label"].nunique() + more)


def _across(curve: pd.DataFrame, ruler: pd.DataFrame) -> alt.X:
    """Log-SNR, with its axis below the rulers."""
    domain = [float(curve["log_snr"].min()), float(curve["log_snr"].max())]
    offset = RULER_PIXELS * ruler["label"].nunique() + 6
    return alt.X(
        "log_snr:Q",
        title=LOG_SNR,
        scale=alt.Scale(domain=domain, nice=False, padding=4),
        axis=alt.Axis(tickCount=8, offset=offset),
    )


def _up(title: str, field: str = "median", value_format: str = ".3~g") -> alt.Y:
    """The y axis, with its title above it."""
    axis = alt.Axis(
        tickCount=5,
        format=value_format,
        titleLimit=520,
        titleAngle=0,
        titleAlign="left",
        titleAnchor="end",
        titleX=0,
        titleY=-8,
        titleBaseline="bottom",
        minExtent=38,
    )
    return alt.Y(f"{field}:Q", title=title, axis=axis, scale=alt.Scale(zero=False))
