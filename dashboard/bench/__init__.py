"""Benchmark of the dashboard on a large cache: `python -m dashboard.bench`."""
