"""Where schedules put their calls, and what says so: a mark a call, and the curves of local error and gain below."""

import altair as alt
import pandas as pd

from engine.display import theme
from engine.display.charts import AXIS

ROW_PIXELS, CURVE_PIXELS = 26, 110
_SNR = "Log-SNR (signal to noise power)"


def placement_chart(levels: pd.DataFrame, curves: pd.DataFrame) -> alt.VConcatChart:
    """Calls of each schedule over log-SNR, with what an error costs there.

    Args:
        levels: Columns schedule, log_snr, chosen.
        curves: Columns curve, log_snr, value; empty if nothing was recorded.
    """
    domain = alt.Scale(domain=[float(levels["log_snr"].min()) - 0.3, float(levels["log_snr"].max()) + 0.3])
    x = alt.X("log_snr:Q", title=_SNR, axis=AXIS, scale=domain)
    colour = alt.condition("datum.chosen", alt.value(theme.ACCENT), alt.value(theme.NEUTRAL))
    marks = (
        alt.Chart(levels)
        .mark_tick(thickness=3, size=16)
        .encode(
            x=x,
            y=alt.Y("schedule:N", title=None, sort=None),
            color=colour,
            tooltip=[
                alt.Tooltip("schedule", title="Schedule"),
                alt.Tooltip("log_snr:Q", title="Log-SNR", format=".2f"),
            ],
        )
        .properties(height=ROW_PIXELS * levels["schedule"].nunique())
    )
    if curves.empty:
        return alt.vconcat(marks)
    lines = (
        alt.Chart(curves)
        .mark_line(color=theme.ACCENT)
        .encode(x=x, y=alt.Y("value:Q", title=None, scale=alt.Scale(type="log"), axis=AXIS))
        .properties(height=CURVE_PIXELS)
    )
    rows = [lines.transform_filter(alt.datum.curve == name).properties(title=name) for name in curves["curve"].unique()]
    return alt.vconcat(marks, *rows)
