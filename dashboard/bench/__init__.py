"""How quick the dashboard is on a large cache: `python -m dashboard.bench`."""
