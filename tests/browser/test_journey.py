"""The way of a visitor through the pages: look, compare, price, then start a small run and see it appear."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dashboard.jobs.queue import Queue

StartDashboard = Callable[..., str]
VIEWS = Path(__file__).resolve().parents[2] / "dashboard" / "views"
LANES = 4
PATIENCE = 30_000  # ms
RUN_PATIENCE = 180_000  # ms: the engine imports torch, and the machine may be busy


@pytest.fixture(scope="module")
def cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished study that the journey begins with."""
    path = tmp_path_factory.mktemp("journey") / "cache.duckdb"
    synthetic.write(path)
    return path


def no_traceback(page: Any) -> bool:
    return page.locator("[data-testid=stException]").count() == 0 and "Traceback" not in page.inner_text("body")


def open_by_name(page: Any, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()


def test_from_the_overview_to_a_run_that_appears(
    chromium_page: Any, start_dashboard: StartDashboard, cache: Path
) -> None:
    page = chromium_page
    page.goto(start_dashboard(cache, "--allow-runs"))
    page.get_by_text("24 of 24").wait_for(timeout=PATIENCE)
    page.locator(".lab-pictures img").first.wait_for(timeout=PATIENCE)

    open_by_name(page, "Compare")
    page.locator(".player .tiles img").nth(LANES - 1).wait_for(timeout=PATIENCE)
    before = page.locator(".player .tiles .lens:not(.noise) img").evaluate_all(
        "images => images.map(image => image.src)"
    )
    page.locator(".player input[type=range]").first.focus()
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    after = page.locator(".player .tiles .lens:not(.noise) img").evaluate_all(
        "images => images.map(image => image.src)"
    )
    assert all(one != other for one, other in zip(before, after, strict=True))

    if (VIEWS / "phases.py").exists():
        open_by_name(page, "Phases")
        page.wait_for_url("**/phases**", timeout=PATIENCE)
        page.locator(".lab").nth(1).wait_for(timeout=PATIENCE)
        assert no_traceback(page)

    open_by_name(page, "Cost")
    figure = page.locator(".lab-figures .value").first
    figure.wait_for(timeout=PATIENCE)
    page.wait_for_url("**price=**", timeout=PATIENCE)
    first = figure.inner_text()
    price = page.get_by_role("spinbutton", name=re.compile("Price per GPU hour"))
    price.fill("7.5")
    price.press("Enter")
    page.wait_for_url("**price=7.5**", timeout=PATIENCE)
    page.locator(".lab-figures .value", has_not_text=first).first.wait_for(timeout=PATIENCE)
    assert figure.inner_text() != first

    open_by_name(page, "Runs")
    fill_in_small_study(page)
    page.get_by_role("button", name="Check and plan").click()
    page.get_by_text("small: 2 lanes x 1 prompts x 1 seeds").wait_for(timeout=RUN_PATIENCE)
    page.get_by_role("button", name="Start this run").click()
    page.get_by_text(re.compile("Run 1, small: ")).first.wait_for(timeout=PATIENCE)
    page.get_by_text(re.compile("done: 2 cells made")).wait_for(timeout=RUN_PATIENCE)
    assert no_traceback(page)
    (job,) = Queue(cache).jobs()
    assert (job.study, job.state) == ("small", "done")

    open_by_name(page, "Overview")
    page.locator(".lab-cards").wait_for(timeout=PATIENCE)  # else the picker of the page before is opened, and goes
    choose_study(page, "small")
    page.get_by_text("2 of 2").first.wait_for(timeout=PATIENCE)
    page.locator(".lab-pictures img").first.wait_for(timeout=PATIENCE)
    assert no_traceback(page)


def choose_study(page: Any, name: str) -> None:
    """Opens the picker once more if the page was drawn anew under it, as it is when a run has just ended."""
    option = page.get_by_role("option", name=name)
    for _ in range(5):
        page.get_by_label("Study", exact=True).first.click()
        try:
            option.click(timeout=4000)
        except Exception as error:
            if type(error).__name__ != "TimeoutError":
                raise
            page.keyboard.press("Escape")
        else:
            return
    option.click(timeout=PATIENCE)


def fill_in_small_study(page: Any) -> None:
    """Two lanes of the model that needs no weights."""
    page.get_by_text("Start a study").wait_for(timeout=PATIENCE)
    own = page.get_by_role("radio", name="My own").first
    try:  # the form is open, or opens, where nothing ran yet
        own.click(timeout=8000)
    except Exception as error:
        if type(error).__name__ != "TimeoutError":
            raise
        page.get_by_text("Start a study").click()
        own.click(timeout=PATIENCE)
    name = page.get_by_label("Name", exact=True)
    name.wait_for(timeout=PATIENCE)
    name.fill("small")
    name.press("Enter")
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name="gaussian").click()
    for label, value in (("DDIM: steps", "4"), ("DPM++ 2M: steps", "3"), ("Timing samples of each lane", "1")):
        field = page.get_by_label(label, exact=True)
        field.fill(value)
        field.press("Enter")
    prompts = page.get_by_label("Prompts, one per line")
    prompts.fill("disc")
    prompts.press("Control+Enter")
    page.wait_for_timeout(1500)  # the last value is on its way


def test_a_run_is_cancelled_and_what_is_waiting_goes_on(
    chromium_page: Any, start_dashboard: StartDashboard, cache: Path
) -> None:
    long = 'name = "long"\nmodel = "gaussian"\nprompts = ["disc"]\nseeds = [5, 6, 7, 8, 9]\n'
    long += 'lanes = ["ddpm:500", "ddim:500"]\n[timing]\nrepeats = 500\n'
    queue = Queue(cache)
    queue.submit("long", long, "", "")
    quick = 'name = "quick-run"\nmodel = "gaussian"\nprompts = ["disc"]\nlanes = ["ddim:3"]\n[timing]\nrepeats = 0\n'
    queue.submit("quick-run", quick, "", "")
    page = chromium_page
    page.goto(start_dashboard(cache, "--allow-runs") + "/runs")
    page.get_by_text(re.compile(r"long: (Images|Times): \d")).wait_for(timeout=RUN_PATIENCE)
    page.get_by_role("button", name="Cancel").last.wait_for(timeout=PATIENCE)
    page.get_by_role("button", name="Cancel").first.click()
    page.get_by_text(re.compile("^cancelled")).first.wait_for(timeout=RUN_PATIENCE)
    page.get_by_text(re.compile("done: 1 cells made")).wait_for(timeout=RUN_PATIENCE)
    states = {job.study: job.state for job in queue.jobs()}
    assert (states["long"], states["quick-run"]) == ("cancelled", "done")
