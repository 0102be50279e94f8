"""A study as a site of files: it opens from a disk, compares as the page does, and asks nobody for anything."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dashboard.static_site import write_site
from engine.cli import main
from engine.errors import LabError

PATIENCE = 20_000  # ms
URL = "https://lab.example.org/quick"


@pytest.fixture(scope="module")
def site(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    hostile = synthetic.study(prompts=(synthetic.HOSTILE, "owl"), seeds=(0,), frames={"count": 4})
    synthetic.write(folder / "cache.duckdb", hostile)
    told = main(["share", "quick", "--to", str(folder / "out"), "--url", URL, "--cache", str(folder / "cache.duckdb")])
    assert told == 0
    return folder / "out"


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("way", ["disk", "web"])
def test_every_lane_is_scrubbed_and_nothing_is_asked_of_others(
    chromium_page: Any, site: Path, served: str, way: str
) -> None:
    page, asked, errors = chromium_page, [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    base = site.as_uri() if way == "disk" else served
    page.goto(f"{base}/index.html")
    page.get_by_role("link", name="See every lane from noise to picture").click()
    pictures = page.locator(".player .tiles .lens:not(.noise) img[src]")
    pictures.nth(3).wait_for(timeout=PATIENCE)
    assert page.locator(".player .lens.noise img[src]").count() == 4
    before = pictures.evaluate_all("images => images.map(image => image.src)")
    page.locator(".player input[type=range]").first.focus()
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    assert pictures.evaluate_all("images => images.map(image => image.src)") != before
    page.get_by_label("Prompt and seed").select_option(label="owl, seed 0")
    page.locator(".player .tiles img[alt*=\"'owl', seed 0\"]").first.wait_for(timeout=PATIENCE)
    assert [url for url in asked if not url.startswith((base, "data:", "blob:"))] == []
    assert [error for error in errors if "favicon" not in error and "404" not in error] == []
    assert page.evaluate("window.hurt") is None


def test_previews_of_links_get_a_picture_with_an_absolute_address(site: Path) -> None:
    for name in ("index.html", "compare.html"):
        text = (site / name).read_text()
        assert f'<meta property="og:image" content="{URL}/picture.png">' in text
    assert (site / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="https://"):
        write_site(tmp_path / "c.duckdb", "quick", tmp_path / "out", "lab.example.org")


def test_the_site_is_readable_on_a_phone_and_accessible(chromium: Any, axe: Any, served: str) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"{served}/compare.html")
    page.locator(".player .tiles img[src]").first.wait_for(timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert axe(page) == []
    context.close()
