"""Measures when the first picture of a page is visible in Chromium."""

import contextlib
import shutil
import statistics
import time
from collections.abc import Iterator
from typing import Any

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
SIZE = {"width": 1440, "height": 900}
PATIENCE_MS = 60_000
_DRAWN = "image => image.complete && image.naturalWidth > 0"


@contextlib.contextmanager
def chromium() -> Iterator[Any | None]:
    """Starts a headless Chromium; None if it or playwright is not installed."""
    executable = next((path for path in map(shutil.which, CHROMIUM_NAMES) if path), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        executable = None
    if executable is None:
        yield None
        return
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, headless=True, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def first_picture_seconds(browser: Any, url: str, repeats: int) -> float | None:
    """Median seconds from opening a URL until a picture of the page is drawn; None if it has none."""
    taken = []
    for _ in range(repeats):
        context = browser.new_context(viewport=SIZE)
        page = context.new_page()
        started = time.perf_counter()
        try:
            page.goto(url, wait_until="commit")
            picture = page.locator("[data-testid=stMain] img").first  # also inside components
            picture.wait_for(state="visible", timeout=PATIENCE_MS)
            while not picture.evaluate(_DRAWN):
                page.wait_for_timeout(10)
        except Exception as error:
            if type(error).__name__ != "TimeoutError":
                raise
            return None
        finally:
            context.close()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
