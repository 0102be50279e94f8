"""In a real browser: a blind vote by keyboard and by mouse, one row each, and the results when asked for."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.cache.connection import reading
from engine.cache.vote_table import votes

PATIENCE = 30_000  # ms
StartDashboard = Callable[..., str]
LANES = ("ddim:50", "dpmpp_2m:20", "euler:3")


def test_votes_by_keyboard_and_mouse_are_written_once_each(
    chromium_page: Any, start_dashboard: StartDashboard, synthetic: ModuleType, tmp_path: Path
) -> None:
    cache = tmp_path / "cache.duckdb"
    prompts = (synthetic.HOSTILE, *(f"thing {number}" for number in range(7)))
    synthetic.write(cache, synthetic.study(lanes=LANES, prompts=prompts, seeds=(0,), frames={"count": 0}))
    page = chromium_page
    mistakes: list[str] = []
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.goto(f"{start_dashboard(cache)}/vote")
    for number, answer in enumerate(("ArrowLeft", "ArrowDown", "ArrowRight", "click", "button"), start=1):
        page.get_by_text(f"Pair {number} of").wait_for(timeout=PATIENCE)
        page.locator(".ballot:not(.sent) img").nth(1).wait_for(timeout=PATIENCE)
        assert not any(word in page.locator(".ballot").inner_text().lower() for word in ("ddim", "dpm", "euler"))
        if answer == "click":
            page.locator(".ballot img").first.click()
        elif answer == "button":
            page.get_by_role("button", name="No difference").click()
        else:
            page.keyboard.press(answer)
            page.keyboard.press(answer)  # a nervous finger
    page.get_by_text("Pair 6 of").wait_for(timeout=PATIENCE)
    page.wait_for_url("**one=ddim%3A50&two=dpmpp_2m%3A20**", timeout=PATIENCE)

    page.reload()  # the browser keeps its made-up name, so the voter goes on
    page.get_by_text("Pair 6 of").wait_for(timeout=PATIENCE)
    with reading(cache, 30) as db:
        table = votes(db, "quick")
    assert table["choice"].tolist() == ["left", "same", "right", "left", "same"]
    assert table["voter"].nunique() == 1
    assert table["vote_id"].nunique() == 5
    assert (table["seconds"] > 0).all()

    assert page.get_by_text("Votes still needed").count() == 0
    page.get_by_text("Show the results so far").click()
    page.get_by_text("Votes still needed").wait_for(timeout=PATIENCE)
    page.get_by_text("n = 5 votes").wait_for(timeout=PATIENCE)
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.evaluate("window.hurt") is None
    assert mistakes == []
