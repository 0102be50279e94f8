"""The charts of a report: the dashboard's, once as a picture for everybody, once as data for those with scripts."""

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
        key: Its place in the page.
        chart: As Altair made it.
        alt: What it shows, for screen readers.
    """

    key: str
    chart: alt.LayerChart | alt.FacetChart | alt.Chart
    alt: str


def charts(report: Report) -> list[ReportChart]:
    """The charts that the study has figures for."""
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
        found.append(ReportChart("cost", bars, "Cost of each lane a month, as in the table below"))
    return found


def spec(chart: ReportChart, width: int | str = WIDTH) -> dict[str, Any]:
    """The chart as plain data, in the report's own look."""
    found: dict[str, Any] = chart.chart.properties(width=width).to_dict()
    found["config"] = found.get("config", {}) | CONFIG
    return found


def svg(chart: ReportChart) -> str:
    """The chart as a picture of lines."""
    return str(vlc.vegalite_to_svg(spec(chart)))


def png(chart: ReportChart, width: int, scale: float = 1.0) -> bytes:
    """The chart as a picture of pixels."""
    return bytes(vlc.vegalite_to_png(spec(chart, width), scale=scale))


def address(chart: ReportChart) -> str:
    """The chart as a static picture, which scripts put a live one in place of."""
    return inline_image("svg+xml", svg(chart).encode())


def specs_json(drawn: list[ReportChart]) -> str:
    """The live charts as JSON that is safe inside a script element."""
    plain = {chart.key: spec(chart, "container") for chart in drawn}
    return safe_json(plain)


def safe_json(value: Any) -> str:
    """JSON that cannot end a script element or begin a comment."""
    text = json.dumps(value, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@functools.cache
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the package; the same for all charts.

    Raises:
        ValueError: It could end the script element it stands in.
    """
    script = str(vlc.javascript_bundle())  # type: ignore[call-arg]  # its types forget that all arguments are optional
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("The bundle of Vega cannot be put into a page.")
    return script
