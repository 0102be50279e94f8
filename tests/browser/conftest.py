"""A real Chromium and a running dashboard for the browser tests."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
SYNTHETIC = ROOT / "tests" / "dashboard" / "synthetic.py"
AXE = ROOT / "tests" / "assets" / "axe-core" / "axe.min.js"  # 4.14.1 from npm, unchanged; its licence stands beside it
START_SECONDS = 60

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_PATHS = (  # where macOS keeps them, outside PATH
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
# No sandbox: as root Chromium refuses to start with one. The rest keeps it from looking for hosts on the network.
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]

StartDashboard = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks this folder's tests; one that fails is run once more, since a starved browser can miss what pages show."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.flaky(reruns=1))


def find_chromium() -> str | None:
    """Returns the path of the first Chromium that is installed, None where there is none."""
    found = (shutil.which(name) for name in (*CHROMIUM_NAMES, *CHROMIUM_PATHS))
    return next((path for path in found if path), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """A headless Chromium for the tests of a file.

    Not for longer: while its driver lives, an event loop counts as running in this thread, and no other can be run.
    """
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no Chromium found (looked for {', '.join(CHROMIUM_NAMES)})")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, headless=True, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def chromium_page(chromium: "Browser") -> Iterator["Page"]:
    """A fresh page of 1280 x 900 pixels, with cookies and storage of its own."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def axe() -> Callable[["Page"], list[str]]:
    """Call it with a page: returns what axe-core finds wrong with it, serious and critical violations only.

    The page's own rules on scripts do not matter: axe is evaluated from outside.
    """
    script = AXE.read_text(encoding="utf-8")

    def check(page: "Page") -> list[str]:
        page.evaluate(script)
        found = page.evaluate("async () => (await axe.run(document)).violations")
        return [
            f"{item['impact']}: {item['id']}: {node['html'][:200]}"
            for item in found
            if item["impact"] in {"serious", "critical"}
            for node in item["nodes"]
        ]

    return check


@pytest.fixture
def sent(chromium_page: "Page") -> list[object]:
    """What the page has sent to the server over its websocket."""
    frames: list[object] = []

    def keep(frame: object) -> None:  # playwright cannot take frames.append itself
        frames.append(frame)

    chromium_page.on("websocket", lambda socket: socket.on("framesent", keep))
    return frames


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The module that writes synthetic caches."""
    spec = importlib.util.spec_from_file_location("synthetic", SYNTHETIC)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def start_dashboard(chromium: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDashboard]:
    """Call it as `start_dashboard(cache_path, "--read-only")`: returns the URL once the server answers.

    The servers run until the module's last test, then they are ended.
    """
    with contextlib.ExitStack() as servers:

        def start(cache: Path, *arguments: str) -> str:
            log = tmp_path_factory.mktemp("dashboard") / "streamlit.log"
            return servers.enter_context(running_dashboard(cache, arguments, log))

        yield start


@pytest.fixture
def dashboard_server() -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Call it as `dashboard_server(cache, ("--read-only",), log)` for a server whose terminal the test reads."""
    return running_dashboard


@contextlib.contextmanager
def running_dashboard(cache: Path, arguments: tuple[str, ...], log: Path, base: str = "") -> Iterator[str]:
    port = free_port()
    # `python -m` rather than the script, so that the checkout is found even where it isn't installed.
    options = ["--server.address", "127.0.0.1", "--server.port", str(port), "--server.headless", "true"]
    options += ["--server.fileWatcherType", "none", "--server.baseUrlPath", base]
    command = [sys.executable, "-m", "streamlit", "run", "dashboard/app.py", *options, "--"]
    command += ["--cache", str(cache), *arguments]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}/{base}".rstrip("/")
    try:
        wait_until_healthy(url, server, log)
        yield url
    finally:
        end(server)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Returns as soon as Streamlit's health address answers "ok"; fails with the server's log if it never does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:
                if answer.read() == b"ok":
                    return
        except OSError:
            time.sleep(0.05)  # not listening yet
    state = f"ended with code {server.returncode}" if server.poll() is not None else f"silent for {START_SECONDS} s"
    pytest.fail(f"The dashboard did not start ({state}). Its last words:\n{log.read_text(errors='replace')[-3000:]}")


def end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
