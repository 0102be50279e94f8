"""In a real browser: the report of the button opens offline; those who may can import a cache."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.cache.connection import reading
from engine.cache.queries import studies

PATIENCE = 30_000  # ms
StartDashboard = Callable[..., str]


def names(cache: Path) -> set[str]:
    with reading(cache, 30) as db:
        return set(studies(db)["name"])


def test_the_report_is_made_when_asked_for_and_opens_offline(
    chromium_page: Any, start_dashboard: StartDashboard, synthetic: ModuleType, tmp_path: Path
) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, synthetic.study("quick.look", prompts=("owl",), seeds=(0,)))
    page = chromium_page
    page.goto(start_dashboard(cache, "--read-only"))
    with page.expect_download(timeout=2 * PATIENCE) as download:
        page.get_by_role("button", name="Download the report").click(timeout=PATIENCE)
    assert download.value.suggested_filename == "quick-look.html"
    report = tmp_path / "report.html"
    download.value.save_as(report)
    page.context.set_offline(True)
    page.goto(report.as_uri())
    assert "quick.look" in page.inner_text("h1")
    assert page.locator("img[alt*='owl']").count() > 0


def test_a_dropped_cache_is_taken_over_by_who_may(
    chromium_page: Any, start_dashboard: StartDashboard, synthetic: ModuleType, tmp_path: Path
) -> None:
    cache, other = tmp_path / "cache.duckdb", tmp_path / "theirs.duckdb"
    synthetic.write(cache, synthetic.study("mine", prompts=("owl",), seeds=(0,)))
    synthetic.write(other, synthetic.study("theirs", prompts=("rocket",), seeds=(0,)))
    page = chromium_page
    page.goto(f"{start_dashboard(cache)}/runs")
    page.get_by_text("This dashboard is for reading").wait_for(timeout=PATIENCE)
    assert page.get_by_text("Import a colleague's results").count() == 0

    page.goto(f"{start_dashboard(cache, '--allow-runs')}/runs")
    page.get_by_text("Import a colleague's results").click(timeout=PATIENCE)
    bad = tmp_path / "bad.duckdb"
    bad.write_bytes(b"hello" * 999)
    for file, said in ((bad, "Nothing was imported"), (other, "Imported")):
        page.locator("input[type=file]").set_input_files(file)
        page.get_by_text(file.name).first.wait_for(timeout=PATIENCE)
        page.get_by_role("button", name="Import", exact=True).click()
        page.get_by_role("heading", name=said, exact=True).wait_for(timeout=PATIENCE)
    assert names(cache) == {"mine", "theirs"}
    assert str(tmp_path) not in page.inner_text("body")
