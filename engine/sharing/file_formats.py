"""Formats of exports and reports, and the default assumptions of a report."""

SUFFIXES = {".duckdb": "duckdb", ".csv": "csv", ".png": "png", ".gif": "gif", ".mp4": "mp4"}
FORMATS = ("duckdb", "parquet", "csv", "png", "gif", "mp4")
REPORT_FORMATS = ("html", "pdf", "md", "png")

IMAGES_PER_MONTH = 1_000_000
UTILISATION = 0.3
