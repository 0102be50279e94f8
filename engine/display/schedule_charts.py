"""Charts of noise schedules: log-SNR by denoiser call for each lane."""

import altair as alt
import pandas as pd

from engine.display import theme
from engine.display.charts import AXIS, looks

CHART_PIXELS = 260


def schedule_chart(levels: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Log-SNR at each denoiser call over the share of calls made; one line per lane.

    Args:
        levels: Columns lane, label, scheduler, call_index, calls, timestep, sigma, log_snr.
    """
    shown = levels.assign(progress=(levels["call_index"] + 1) / levels["calls"])
    colour, shape = looks(shown)
    base = alt.Chart(shown).encode(
        x=alt.X("progress:Q", title="Calls made (%)", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("log_snr:Q", title="Log-SNR (signal to noise power)", axis=AXIS, scale=alt.Scale(zero=False)),
        color=colour,
        detail="label:N",
        tooltip=[
            alt.Tooltip("label", title="Lane"),
            alt.Tooltip("call_index:Q", title="Call, from 0"),
            alt.Tooltip("timestep:Q", title="Timestep"),
            alt.Tooltip("sigma:Q", title="Sigma", format=".4g"),
            alt.Tooltip("log_snr:Q", title="Log-SNR", format=".2f"),
        ],
    )
    middle = alt.Chart(pd.DataFrame({"log_snr": [0.0]})).mark_rule(strokeDash=[4, 4], color=theme.NEUTRAL)
    lines = base.mark_line(strokeWidth=1.5, opacity=0.7)
    points = base.mark_point(filled=True, size=28, opacity=1).encode(shape=shape)
    return alt.layer(middle.encode(y="log_snr:Q"), lines, points).properties(height=CHART_PIXELS)
