"""Charts of what lanes cost, from rows of `engine.analysis.cost.price_lanes`."""

import altair as alt
import pandas as pd

from engine.display.charts import lane_marks
from engine.display.formats import money, money_range, percent

MARKS = "Mark: at the median time. Thick bar: at the ends of its interval. Dashed: baseline."


def cost_chart(table: pd.DataFrame, figure: str, title: str) -> alt.LayerChart | alt.FacetChart:
    """Dollars per month and lane with their interval; a dashed line marks the baseline.

    Args:
        table: Rows of `engine.analysis.cost.price_lanes`.
        figure: Column to draw, "usd_month" or "fleet_usd".
        title: Title of the axis, with the unit.
    """
    low, high = f"{figure}_low", f"{figure}_high"
    shown = table.assign(
        cost=[money(value) for value in table[figure]],
        interval=[money_range(*ends) for ends in zip(table[low], table[high], strict=True)],
        saving=[percent(value) for value in table["saving_share"]],
    )
    tooltip = [
        alt.Tooltip("label", title="Lane"),
        alt.Tooltip("cost", title="A month"),
        alt.Tooltip("interval", title="95 % interval"),
        alt.Tooltip("saving", title="Saved by use"),
        alt.Tooltip("seconds:Q", title="Seconds per image", format=".3~g"),
        alt.Tooltip("gpus:Q", title="Whole GPUs"),
    ]
    return lane_marks(shown, title, (figure, low, high), tooltip)
