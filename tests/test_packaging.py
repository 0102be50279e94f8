"""The lab outside a checkout: what a wheel holds, where results go, and pages started by a command."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.paths import DEFAULT_CACHE, ROOT, default_cache

PATIENCE_SECONDS = 120
RECIPES = ("data/bundled/recipe/", "data/video/recipe/", "data/scenes/")
LIST_FILES = """
import json
from setuptools import Distribution

distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files(["pyproject.toml"])
build = distribution.get_command_obj("build_py")
build.ensure_finalized()
root = build.build_lib.rstrip("/") + "/"
print(json.dumps([file.removeprefix(root) for file in build.get_outputs(include_bytecode=False)]))
"""
QUICK = ["--set", 'prompts=["owl"]', "--set", 'lanes=["ddim:2","euler:2"]', "--set", "baseline=ddim:2"]
QUICK += ["--set", "seeds=[0]", "--set", "timing.repeats=1", "--set", "timing.warmup=0", "--set", "frames.count=2"]
QUICK += ["--set", "reference.enabled=false", "--device", "cpu", "--progress", "none"]


@pytest.fixture(scope="module")
def packaged() -> set[str]:
    """The files that a wheel would hold, as setuptools lists them."""
    pytest.importorskip("setuptools")
    done = subprocess.run([sys.executable, "-c", LIST_FILES], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def tracked_files(*folders: str) -> set[str]:
    """Files of the checkout, as paths from its root; skips the test elsewhere."""
    command = ["git", "ls-files", "-z", *folders]
    listing = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    names = {os.fsdecode(name) for name in listing.stdout.split(b"\0") if name}
    return {name for name in names if (ROOT / name).is_file()}


def test_a_wheel_holds_every_file_of_the_packages_but_the_recipe(packaged: set[str]) -> None:
    tracked = tracked_files("engine", "dashboard", "data")
    assert len(tracked) > 150
    assert {name for name in tracked if not name.startswith(RECIPES)} - packaged == set()
    assert packaged - tracked == {"diffusion_scheduler_visualizer.py"}
    assert not any(name.startswith((*RECIPES, "tests/")) for name in packaged)


@pytest.mark.parametrize(
    "file",
    [
        "dashboard/.streamlit/config.toml",
        "data/bundled/clip/model.safetensors",
        "data/bundled/model_index.json",
        "data/bundled/tokenizer/tokenizer.json",
        "data/bundled/vae/diffusion_pytorch_model.safetensors",
        "data/bundled/vocabulary.txt",
        "data/claims.toml",
        "data/gpu_prices.toml",
        "data/prompts/bundled_24.txt",
        "data/studies/quickstart.toml",
        "engine/display/templates/parts.html",
        "engine/display/templates/report.html",
        "engine/sharing/report/report.css",
    ],
)
def test_a_wheel_holds_what_the_lab_runs_with(packaged: set[str], file: str) -> None:
    assert file in packaged


def test_a_checkout_keeps_its_cache_and_an_installed_package_uses_the_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    site_packages, checkout = tmp_path / "site-packages", tmp_path / "checkout"
    for folder in (site_packages, checkout):
        folder.mkdir()
    (checkout / "pyproject.toml").touch()
    assert DEFAULT_CACHE == ROOT / "data" / "cache.duckdb"
    assert default_cache(checkout) == checkout / "data" / "cache.duckdb"
    installed = default_cache(site_packages)
    assert installed.name == "cache.duckdb"
    assert installed.parent.name == "scheduler-lab"
    assert site_packages not in installed.parents
    if sys.platform == "linux":
        assert installed == tmp_path / "home" / "scheduler-lab" / "cache.duckdb"


@contextmanager
def dashboard(folder: Path, packages: Path, *arguments: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The address and process of `python -m engine dashboard`, started in a folder, with packages from another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "engine", "dashboard", "--port", str(port), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(packages), "STREAMLIT_SERVER_HEADLESS": "true"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        wait_until_up(f"http://localhost:{port}", process)
        yield f"http://localhost:{port}", process
    finally:
        process.kill()
        process.wait()


def wait_until_up(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended with {process.returncode}"
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5) as answer:
                if answer.read() == b"ok":
                    return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the dashboard did not start")


def shown(url: str) -> list[str]:
    """Texts of the first page."""
    from dashboard.bench.viewer import session

    with session(url) as viewer:
        view = viewer.view()
    assert view.errors == []
    return view.texts


def test_the_command_dashboard_shows_the_cache_it_is_given_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    with dashboard(tmp_path, ROOT, "--cache", "mine.duckdb", "--read-only") as (url, process):
        assert any(str(tmp_path / "mine.duckdb") in text for text in shown(url))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_wheel_measures_and_shows_a_study_outside_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    sources, packages, elsewhere = tmp_path / "sources", tmp_path / "site-packages", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in tracked_files():  # a copy, since building leaves files beside the sources
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, sources / name)
    build = ["wheel", str(sources), "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*pip, *build], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    [wheel] = tmp_path.glob("*.whl")
    install = ["install", str(wheel), "--no-deps", "--no-index", "--target", str(packages)]
    subprocess.run([*pip, *install], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)

    environment = {**os.environ, "PYTHONPATH": str(packages), "XDG_DATA_HOME": str(tmp_path / "home")}
    run = [sys.executable, "-m", "engine", "run", "quickstart", *QUICK]
    done = subprocess.run(run, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cache = Path(done.stdout.splitlines()[-1].removeprefix("Cache: "))
    assert cache.is_file()
    assert ROOT not in cache.parents
    assert packages not in cache.parents
    with dashboard(elsewhere, packages, "--cache", str(cache)) as (url, _):
        assert any("quickstart" in text for text in shown(url))
