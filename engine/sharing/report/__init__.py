"""The report of a study, one file that works offline: `read_report` reads the cache, `render` makes the page."""

from engine.sharing.report.contents import Report, ReportOptions, read_report
from engine.sharing.report.page import render

__all__ = ["Report", "ReportOptions", "read_report", "render"]
