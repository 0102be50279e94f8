"""Charts of a report, the same as in the dashboard: as static images, and as data for the interactive version."""

import functools
import json
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert as vlc

from engine.display.cost_charts import cost_chart
from engine.display.formats import batch_of
from engine.display.html import inline_image
from engine.display.speed_charts import trade_off_chart
from engine.display.timing_charts import stage_chart, time_chart
from engine.sharing.report.contents import Report

WIDTH = 620
CONFIG: dict[str, Any] = {
    "background": "white",
    "font": "Helvetica, Arial, sans-serif",
    "axis": {
        "labelColor": "#22303a",
        "titleColor": "#22303a",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": "#e3e8eb",
        "domainColor": "#9aa7af",
        "tickColor": "#9aa7af",
        "aria": False,
    },
    "view": {"stroke": None},
    "mark": {"aria": False},  # the figure as a whole carries the text
}


@dataclass(frozen=True)
class ReportChart:
    """A chart of the report.

    Attributes:
        key: Key of its position in the page.
        chart: The Altair chart.
        alt: Alternative text.
    """

    key: str
    chart: alt.LayerChart | alt.FacetChart | alt.Chart
    alt: str

    @functools.cached_property
    def plain(self) -> dict[str, Any]:
        """Its Vega-Lite specification, in the style of the report."""
        found: dict[str, Any] = self.chart.properties(width=WIDTH).to_dict()
        return found | {"config": found.get("config", {}) | CONFIG}


def charts(report: Report) -> list[ReportChart]:
    """The charts for which the study has data."""
    results, times, priced = report.results, report.results.times, report.priced
    rows = results.standings
    rows = rows[rows["metric"] == results.deciding].dropna(subset=["difference", "median_ms"])
    found = []
    if len(times):
        found.append(ReportChart("time", time_chart(times), "Median time of each lane, as in the table below"))
        found.append(ReportChart("stages", stage_chart(times), "Median time of each stage, stacked for each lane"))
    if len(rows):
        chart = trade_off_chart(rows, "ms", batch_of(float(rows["batch_size"].max())))
        found.append(ReportChart("trade", chart, "Difference in quality over time, as in the tables below"))
    if len(priced):
        bars = cost_chart(priced, "usd_month", "Paid by use (US dollars a month)")
        found.append(ReportChart("cost", bars, "Cost of each lane per month, as in the table below"))
    return found


def spec(chart: ReportChart, width: int | str = WIDTH) -> dict[str, Any]:
    """The Vega-Lite specification of a chart at a width (px, or "container")."""
    return chart.plain | {"width": width}


def svg(chart: ReportChart) -> str:
    """The chart as SVG."""
    return str(vlc.vegalite_to_svg(spec(chart)))


def png(chart: ReportChart, width: int) -> bytes:
    """The chart as PNG."""
    return bytes(vlc.vegalite_to_png(spec(chart, width)))


def address(chart: ReportChart) -> str:
    """The chart as a static image (data URL), which scripts replace by the interactive version."""
    return inline_image("svg+xml", svg(chart).encode())


def specs_json(drawn: list[ReportChart]) -> str:
    """The interactive charts as JSON that is safe inside a script element."""
    plain = {chart.key: spec(chart, "container") for chart in drawn}
    return safe_json(plain)


def safe_json(value: Any) -> str:
    """JSON that cannot end a script element or start a comment."""
    text = json.dumps(value, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@functools.cache
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, bundled by vl-convert.

    Raises:
        ValueError: It contains a sequence that would end the script element.
    """
    script = str(vlc.javascript_bundle())  # type: ignore[call-arg]  # its types forget that all arguments are optional
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("The Vega bundle cannot be embedded in a page.")
    return script
