"""Charts of the Learn page: error over denoiser calls, and time over denoiser calls."""

import altair as alt
import pandas as pd

from engine.display.charts import AXIS, looks

CHART_PIXELS = 280


def error_chart(scores: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Distance from the converged solution over denoiser calls on logarithmic axes; one mark per lane.

    Args:
        scores: Columns label, scheduler, nfe, n, median, low, high.
    """
    shown = scores[scores["median"] > 0]
    tooltip = [
        alt.Tooltip("label", title="Lane"),
        alt.Tooltip("nfe:Q", title="Denoiser calls"),
        alt.Tooltip("median:Q", title="Median error", format=".3g"),
        alt.Tooltip("n:Q", title="Cells"),
    ]
    bar = shown.assign(low=shown["low"].clip(lower=1e-9))
    return _marks(bar, "Latent error (relative L2)", alt.Scale(type="log"), tooltip, ("median", "low", "high"))


def calls_chart(table: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Median time over denoiser calls, from zero; one mark per lane.

    Args:
        table: Timing summaries with columns label, scheduler, nfe, n, median_ms, low_ms, high_ms.
    """
    tooltip = [
        alt.Tooltip("label", title="Lane"),
        alt.Tooltip("nfe:Q", title="Denoiser calls"),
        alt.Tooltip("median_ms:Q", title="Median (ms)", format=",.1f"),
        alt.Tooltip("n:Q", title="n"),
    ]
    return _marks(table, "Median time (ms)", alt.Scale(zero=True), tooltip, ("median_ms", "low_ms", "high_ms"))


def _marks(
    table: pd.DataFrame, title: str, scale: alt.Scale, tooltip: list[alt.Tooltip], columns: tuple[str, str, str]
) -> alt.LayerChart | alt.FacetChart:
    """A labelled mark per lane with its interval; `columns` are the value and the ends of its interval."""
    colour, shape = looks(table)
    middle, low, high = columns
    across = alt.X("nfe:Q", title="Denoiser calls (NFE)", scale=scale, axis=AXIS)
    table = table.assign(above=table["nfe"].rank(method="first") % 2 == 1)  # labels alternate above and below
    base = alt.Chart(table).encode(x=across, color=colour, tooltip=tooltip)
    up = alt.Y(f"{middle}:Q", title=title, scale=scale, axis=AXIS)
    return alt.layer(
        base.mark_rule(strokeWidth=2, opacity=0.5).encode(
            y=alt.Y(f"{low}:Q", title=title, scale=scale, axis=AXIS), y2=f"{high}:Q"
        ),
        base.mark_point(filled=True, size=90, opacity=1).encode(y=up, shape=shape),
        *(
            base.transform_filter(alt.datum.above == above)
            .mark_text(align="left", dx=6, dy=-11 if above else 12, fontSize=11, opacity=0.8)
            .encode(y=up, text="label:N")
            for above in (True, False)
        ),
    ).properties(height=CHART_PIXELS)
