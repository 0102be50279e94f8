"""The report in a real browser: from disk, without network, with and without scripts, on paper."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from engine.cache.connection import reading
from engine.sharing.report import read_report, render
from engine.sharing.report.printing import print_pdf

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DRAWN = ".chart .live svg"
MESSAGES: dict[int, list[str]] = {}


@pytest.fixture(scope="module")
def file(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on disk, of a scored study with a prompt that is an attack."""
    folder = tmp_path_factory.mktemp("report")
    prompts = [*synthetic.SIX[:5], synthetic.HOSTILE]
    synthetic.write_scored(folder / "c.duckdb", prompts=prompts, description=synthetic.HOSTILE)
    with reading(folder / "c.duckdb") as db:
        report = read_report(db, "quick")
    (folder / "report.html").write_text(render(report), encoding="utf-8")
    (folder / "headline.txt").write_text(report.headline.sentence, encoding="utf-8")
    return folder / "report.html"


def opened(browser: "Browser", file: Path, width: int = 1440, height: int = 900, *, scripts: bool = True) -> "Page":
    context = browser.new_context(
        viewport={"width": width, "height": height}, offline=True, java_script_enabled=scripts
    )
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("request", lambda request: heard.append(request.url) if request.url.startswith("http") else None)
    MESSAGES[id(page)] = heard
    page.goto(file.as_uri())
    if scripts:
        # As functions: the page forbids the evaluation of strings.
        page.wait_for_function(f"() => document.querySelectorAll('{DRAWN}').length === 4")
    return page


@pytest.fixture(scope="module")
def page(chromium: "Browser", file: Path) -> Iterator["Page"]:
    """The report on a laptop; tests leave it as they found it."""
    found = opened(chromium, file)
    yield found
    found.context.close()


def test_it_opens_from_disk_without_network_and_without_a_word_on_the_console(page: "Page") -> None:
    assert MESSAGES[id(page)] == []
    assert page.locator(".chart > img").count() == 0  # live charts stand in place of the static ones
    assert page.evaluate("window.hurt") is None


def test_axe_finds_no_serious_violation(page: "Page", axe: Callable[["Page"], list[str]]) -> None:
    assert axe(page) == []


def test_the_scrubber_moves_all_lanes_and_comes_back_to_the_final_pictures(page: "Page") -> None:
    strips = page.locator(".strip")
    assert strips.count() == 4 * 6
    assert not strips.first.is_visible()
    places = {}
    for percent in (10, 60):
        page.locator("#moment").fill(str(percent))
        assert strips.evaluate_all("all => all.every(image => !image.hidden)")
        places[percent] = strips.evaluate_all("all => all.map(image => image.getBoundingClientRect().left)")
        assert page.locator("#position").inner_text() == f"after {percent} % of the denoiser calls"
    assert all(early > late for early, late in zip(places[10], places[60], strict=True))
    page.locator("#moment").fill("100")
    assert strips.evaluate_all("all => all.every(image => image.hidden)")
    assert page.locator("#position").inner_text() == "final pictures"


def test_what_the_strip_shows_is_the_last_step_made_by_then(page: "Page") -> None:
    page.locator("#moment").fill("50")
    shown = page.locator(".strip").evaluate_all(
        "all => all.map(image => { const at = image.dataset.at.split(',').map(Number);"
        "const place = Math.round((image.parentElement.getBoundingClientRect().left"
        " - image.getBoundingClientRect().left) / (image.getBoundingClientRect().width / at.length));"
        "return [place, at]; })"
    )
    for place, at in shown:
        made = [step for step, progress in enumerate(at) if progress <= 0.5 + 1e-6]
        assert place == (made[-1] if made else 0)
    page.locator("#moment").fill("100")


def test_play_runs_to_the_end_and_stops(page: "Page") -> None:
    page.locator("#play").click()
    page.wait_for_function("() => Number(document.getElementById('moment').value) > 20")
    page.wait_for_function("() => document.getElementById('play').textContent === 'Play'")
    assert page.locator("#moment").input_value() == "100"


def test_without_scripts_it_tells_the_story(chromium: "Browser", file: Path) -> None:
    page = opened(chromium, file, scripts=False)
    assert file.with_name("headline.txt").read_text(encoding="utf-8") in page.locator("header").inner_text()
    assert page.locator("img.final").count() == 4 * 6
    assert page.locator("img.final").first.is_visible()
    stills = page.locator(".chart > img")
    assert stills.count() == 4
    for number in range(4):
        box = stills.nth(number).bounding_box()
        assert box is not None
        assert box["width"] > 300
        assert box["height"] > 80
    assert not page.locator("#scrubber").is_visible()
    assert not page.locator(".strip").first.is_visible()
    assert page.get_by_role("heading", name="Reproduce it").is_visible()
    page.context.close()


def test_on_a_phone_only_tables_scroll_sideways(chromium: "Browser", file: Path) -> None:
    page = opened(chromium, file, 390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert MESSAGES[id(page)] == []
    page.context.close()


def test_it_prints_to_a_pdf_of_a_few_pages(chromium: "Browser", file: Path, tmp_path: Path) -> None:
    print_pdf(file.read_text(encoding="utf-8"), tmp_path / "report.pdf")
    data = (tmp_path / "report.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 12
    assert len(data) < 5_000_000
