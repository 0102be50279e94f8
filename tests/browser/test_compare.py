"""In a real browser: from the overview to the comparison, scrubbing without the server, and reading during a run."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LANES = 4
PATIENCE = 20_000  # ms
StartDashboard = Callable[..., str]


@pytest.fixture(scope="module")
def dashboard(start_dashboard: StartDashboard, synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a dashboard over a finished study."""
    cache = tmp_path_factory.mktemp("usual") / "cache.duckdb"
    hostile = synthetic.study("hostile", prompts=(synthetic.HOSTILE, synthetic.LONG), seeds=(0,), frames={"count": 2})
    synthetic.write(cache, hostile, failed=("euler:30",))
    synthetic.write(cache, synthetic.study("finals", prompts=("pear",), seeds=(7,), frames={"count": 0}))
    synthetic.write(cache)
    return start_dashboard(cache, "--read-only")


def tiles(page: Any) -> list[str]:
    return page.locator(".player .tiles .lens:not(.noise) img").evaluate_all("images => images.map(image => image.src)")


def no_traceback(page: Any) -> bool:
    return page.locator("[data-testid=stException]").count() == 0 and "Traceback" not in page.inner_text("body")


def test_from_the_overview_to_the_comparison(chromium_page: Any, dashboard: str) -> None:
    page = chromium_page
    page.goto(dashboard)
    page.get_by_text("24 of 24").wait_for(timeout=PATIENCE)
    page.locator("canvas, svg.marks").nth(1).wait_for(timeout=PATIENCE)
    page.wait_for_url("**study=quick**", timeout=PATIENCE)
    page.locator(".lab-pictures img[alt*=\"'owl', seed 0\"]").first.click()
    page.locator(".player .tiles img").nth(LANES - 1).wait_for(timeout=PATIENCE)
    page.wait_for_url("**/compare?study=quick&prompt=owl&seed=0&kind=both", timeout=PATIENCE)
    assert "'owl', seed 0" in page.locator(".player .tiles img").first.get_attribute("alt")
    assert no_traceback(page)


def test_one_scrubber_moves_all_lanes_without_asking_the_server(
    chromium_page: Any, dashboard: str, sent: list[object]
) -> None:
    page = chromium_page
    page.goto(f"{dashboard}/compare")
    page.locator(".player .tiles img").nth(LANES - 1).wait_for(timeout=PATIENCE)
    page.wait_for_timeout(1000)  # what the page sends while it is being drawn
    before, counted = tiles(page), len(sent)
    assert counted > 0, "the websocket is not watched"

    page.locator(".player input[type=range]").first.focus()
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    after = tiles(page)
    assert len(before) == len(after) == LANES
    assert all(one != other for one, other in zip(before, after, strict=True))

    box = page.locator(".player input[type=range]").first.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
    page.mouse.down()
    seen = set()
    for share in range(1, 20):
        page.mouse.move(box["x"] + box["width"] * share / 20, box["y"] + box["height"] / 2)
        seen.add(tuple(tiles(page)))
    page.mouse.up()
    assert len(seen) >= 8

    page.get_by_role("button", name="Noise level").click()
    assert "log-SNR" in page.locator(".player output").inner_text()
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Pause").wait_for()
    moving = page.locator(".player output").inner_text()
    page.locator(".player output", has_not_text=moving).wait_for()
    page.get_by_role("button", name="Pause").click()
    page.locator(".player td img").first.click()
    assert len(sent) == counted


def test_the_address_holds_study_prompt_seed_and_kind(chromium_page: Any, dashboard: str) -> None:
    page = chromium_page
    page.goto(f"{dashboard}/compare?study=quick&prompt=rocket&seed=1&kind=xt")
    page.locator(".player .tiles img").nth(LANES - 1).wait_for(timeout=PATIENCE)
    alt = page.locator(".player .tiles img").first.get_attribute("alt")
    assert "noisy image" in alt
    assert "'rocket', seed 1" in alt
    page.get_by_text("Estimate (x0)").click()
    page.wait_for_url("**kind=x0**", timeout=PATIENCE)
    assert all(part in page.url for part in ("study=quick", "prompt=rocket", "seed=1"))
    page.locator(".player .tiles img[alt*='clean estimate']").first.wait_for(timeout=PATIENCE)
    page.get_by_role("link", name="Overview").click()
    page.locator(".lab-pictures").first.wait_for(timeout=PATIENCE)
    page.go_back()
    page.locator(".player .tiles img[alt*=\"'rocket', seed 1\"]").first.wait_for(timeout=PATIENCE)


@pytest.mark.parametrize(("path", "shown"), [("/", ".lab-pictures img"), ("/compare", ".player .lens")])
def test_hostile_text_stays_text(chromium_page: Any, dashboard: str, path: str, shown: str) -> None:
    page = chromium_page
    page.goto(f"{dashboard}{path}?study=hostile")
    page.locator(shown).nth(2).wait_for(timeout=PATIENCE)
    assert page.evaluate("window.hurt") is None
    assert page.locator("img[src=x]").count() == 0
    assert "<script>window.hurt=1</script>" in page.locator(".lab-pictures, .player").first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_reading_while_a_run_writes_never_shows_a_traceback_and_shows_its_results(
    chromium_page: Any, start_dashboard: StartDashboard, synthetic: ModuleType, tmp_path: Path
) -> None:
    cache = tmp_path / "cache.duckdb"
    url = start_dashboard(cache)
    page = chromium_page
    page.goto(url)
    page.get_by_text("There is no cache yet").wait_for(timeout=PATIENCE)

    run = threading.Thread(target=_run, args=(cache, synthetic))
    run.start()
    try:
        while run.is_alive():
            assert no_traceback(page)
            time.sleep(0.3)
    finally:
        run.join()
    page.get_by_text("16 of 16").wait_for(timeout=PATIENCE)
    assert no_traceback(page)


def _run(cache: Path, synthetic: ModuleType) -> None:
    """Writes cell by cell, as a run does."""
    plan = synthetic.study(prompts=("red apple", "owl"), frames={"count": 4}, repeats=3)
    writer = synthetic.CacheWriter(cache)
    cells = synthetic.begin(writer, plan)
    for cell in cells:
        writer.trajectories([synthetic.outcome(cell, plan.frames)], synthetic.MODEL, synthetic.LAPTOP)
        time.sleep(0.2)
    for cell in cells[: len(plan.lanes)]:
        writer.timings(synthetic.timing_rows(cell, plan, synthetic.LAPTOP), synthetic.MODEL, synthetic.LAPTOP)


def test_final_pictures_alone_are_at_the_end_of_their_steps(chromium_page: Any, dashboard: str) -> None:
    chromium_page.goto(f"{dashboard}/compare?study=finals")
    chromium_page.locator(".player .tiles img").nth(LANES - 1).wait_for(timeout=PATIENCE)
    assert chromium_page.locator(".player output").first.inner_text() == "100 % of steps"
