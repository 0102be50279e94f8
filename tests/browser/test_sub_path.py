"""A team's server behind a path of its own: pages, pictures and links work there."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

PATIENCE = 30_000  # ms


def test_pages_pictures_and_links_work_under_a_path(
    chromium_page: Any, dashboard_server: Callable[..., Any], synthetic: ModuleType, tmp_path: Path
) -> None:
    page, cache = chromium_page, tmp_path / "cache.duckdb"
    synthetic.write(cache)
    with dashboard_server(cache, ("--read-only",), tmp_path / "log", "team/lab") as url:
        page.goto(f"{url}/")
        page.locator(".lab-pictures img").first.click()
        page.wait_for_url(f"{url}/compare?**", timeout=PATIENCE)
        page.locator(".player .tiles img[src]").first.wait_for(timeout=PATIENCE)
        page.get_by_role("link", name="Cost", exact=True).click()
        page.wait_for_url(f"{url}/cost?**", timeout=PATIENCE)
        page.goto(f"{url}/compare?prompt=owl&seed=1")
        page.locator(".player .tiles img[alt*=\"'owl', seed 1\"]").first.wait_for(timeout=PATIENCE)
        assert page.locator("[data-testid=stException]").count() == 0
