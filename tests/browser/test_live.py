"""The first five minutes in a real browser: an empty lab, a run that is watched, a link that works once."""

import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dashboard.jobs.queue import Queue

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30_000  # ms
RUN_PATIENCE = 240_000  # ms: the engine imports torch, and the machine may be busy

# Few steps and loose margins: decided within seconds.
SEARCH = """
name = "search"
model = "bundled"
prompts = ["owl"]
guidance_scale = 2.0
baseline = "ddim:10"
lanes = ["ddim:10", "dpmpp_2m_karras:5", "ddim:1"]

[frames]
count = 0

[timing]
repeats = 5
warmup = 0

[decide]
calibration_prompts = 12
reach = 4.0
other_share = 0.5
seed_noise_share = 1.0
control_share = 0.5
guards = ["clip_score"]
pool = "prompts/bundled_96.txt"
"""


def tiles(page: Any) -> Any:
    return page.locator(".live .frame.x0 img")


def is_error(message: Any) -> bool:
    """Whether a console message is an error; below a page's address Streamlit looks for its own files in vain."""
    return message.type == "error" and "_stcore" not in message.location["url"]


def test_from_an_empty_lab_to_a_run_that_is_watched_and_stopped(
    chromium: Any, chromium_page: Any, start_dashboard: Callable[..., str], tmp_path: Path
) -> None:
    cache, page, errors = tmp_path / "cache.duckdb", chromium_page, []
    page.on("console", lambda message: errors.append(message.text) if is_error(message) else None)
    url = start_dashboard(cache, "--allow-runs")
    page.goto(url)
    page.locator(".lab-welcome img").wait_for(timeout=PATIENCE)
    page.get_by_role("button", name="Measure it here").click()
    page.get_by_text("Running: quickstart").wait_for(timeout=PATIENCE)
    tiles(page).first.wait_for(timeout=RUN_PATIENCE)
    (job,) = Queue(cache).jobs()
    assert job.state == "running", "pictures are there long before the run has ended"
    assert "after calibration" in page.locator(".live").inner_text()
    first = tiles(page).first.get_attribute("src")
    page.wait_for_function(
        "before => document.querySelector('.live .frame.x0 img')?.src !== before", arg=first, timeout=RUN_PATIENCE
    )
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    other = context.new_page()
    other.goto(url)
    tiles(other).first.wait_for(timeout=PATIENCE)
    assert other.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
    page.get_by_role("button", name="Stop", exact=True).last.click()
    page.get_by_text("Running: quickstart").wait_for(state="detached", timeout=RUN_PATIENCE)
    assert Queue(cache).jobs()[0].state == "cancelled"
    assert page.locator("[data-testid=stException]").count() == 0
    assert errors == []


def test_a_page_that_stays_open_shows_the_decision_of_a_run_from_the_command_line_without_a_reload(
    chromium_page: Any, start_dashboard: Callable[..., str], tmp_path: Path
) -> None:
    cache, study, page = tmp_path / "cache.duckdb", tmp_path / "search.toml", chromium_page
    study.write_text(SEARCH)
    page.goto(start_dashboard(cache))
    page.locator(".lab-welcome img").wait_for(timeout=PATIENCE)
    page.evaluate("() => { window.neverLeft = true; }")
    command = [sys.executable, "-m", "engine", "decide", str(study), "--cache", str(cache), "--progress", "none"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as engine:
        running = page.get_by_text("Running: search")
        while running.count() == 0 and engine.poll() is None:
            page.wait_for_timeout(200)
        seen = running.count()
        told, _ = engine.communicate()
    assert engine.returncode == 0
    assert seen, "the run was over and had not been shown"
    assert "Use dpmpp_2m_karras:5" in told
    recommended = page.locator(".lab-cards > div").first
    recommended.locator(".value", has_text="DPM++ 2M Karras 5").wait_for(timeout=PATIENCE)
    page.get_by_text("Running: search").wait_for(state="detached", timeout=PATIENCE)
    assert "cheapest lane known to be as good as DDIM 10" in recommended.inner_text()
    assert page.evaluate("window.neverLeft"), "the page was loaded anew"


def test_an_empty_lab_shows_results_that_come_without_a_run(
    chromium_page: Any, start_dashboard: Callable[..., str], synthetic: Any, tmp_path: Path
) -> None:
    cache, page = tmp_path / "cache.duckdb", chromium_page
    page.goto(start_dashboard(cache))
    page.get_by_text("Open a colleague's file").wait_for(timeout=PATIENCE)
    synthetic.write(cache, synthetic.study("arrived"))
    page.get_by_text("arrived").first.wait_for(timeout=RUN_PATIENCE)
    assert page.locator(".lab-welcome img").count() == 0


def test_the_printed_link_allows_runs_for_the_first_browser_that_opens_it(
    chromium: Any, chromium_page: Any, dashboard_server: Callable[..., Any], tmp_path: Path
) -> None:
    page, log = chromium_page, tmp_path / "log"
    with dashboard_server(tmp_path / "cache.duckdb", (), log) as url:
        page.goto(url)
        page.get_by_text("the link that stands in the server's terminal").wait_for(timeout=PATIENCE)
        token = re.search(r"allow=([\w-]+)", log.read_text())
        assert token is not None
        assert token[1] not in page.content()
        urllib.request.urlopen(f"{url}/?allow={token[1]}").read()  # whoever only fetches the address takes nothing
        page.goto(f"{url}/?allow={token[1]}")
        page.get_by_role("button", name="Measure it here").wait_for(timeout=PATIENCE)
        assert "allow" not in page.url
        page.goto(url)  # a new session of the same browser
        page.get_by_role("button", name="Measure it here").wait_for(timeout=PATIENCE)
        context = chromium.new_context()
        other = context.new_page()
        other.goto(f"{url}/?allow={token[1]}")
        other.get_by_text("the link that stands in the server's terminal").wait_for(timeout=PATIENCE)
        assert other.get_by_role("button", name="Measure it here").count() == 0
        context.close()
