"""`python -m tests.hostile.bench [--only KIND] [--json FILE]`: what costly files cost pages and commands, in full size.

Every page and every command that takes a stranger's cache has to refuse it or answer within 10 seconds, with at most
1 GB of memory more than for an empty one. What takes longer than 30 seconds, or 8 GB, is stopped and said so.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from dashboard.bench.__main__ import VIEWS, environment
from dashboard.bench.server import Server, running
from dashboard.bench.viewer import session
from engine.cache.connection import migrate
from engine.errors import LabError
from engine.paths import ROOT
from tests.hostile.costly import COSTLY, STUDY

MOST_SECONDS, MOST_MB = 10.0, 1000.0
GIVEN_UP_SECONDS, GIVEN_UP_MB = 30.0, 8000.0
PAGES = sorted(file.stem for file in VIEWS.glob("*.py") if file.stem != "__init__")


@dataclass(frozen=True)
class Figure:
    """What one page or command took.

    Attributes:
        megabytes: Peak of the process's resident memory (MB), sampled 50 times a second.
        outcome: In words; "error: ..." where it neither answered nor refused.
    """

    what: str
    seconds: float
    megabytes: float
    outcome: str


class Watched:
    """Samples the memory of a process in a thread, and kills it at `GIVEN_UP_MB`."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._done = threading.Event()
        self.peak_mb = 0.0

    def __enter__(self) -> "Watched":
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        with contextlib.suppress(psutil.Error):
            while not self._done.wait(0.02):
                self.peak_mb = max(self.peak_mb, self._process.memory_info().rss / 1e6)
                if self.peak_mb > GIVEN_UP_MB:
                    self._process.kill()


def pages(cache: Path) -> Iterator[Figure]:
    """Every page of a read-only dashboard, each opened once; the server starts anew after one that didn't answer."""
    left = list(PAGES)
    while left:
        with running(cache, "--read-only") as server:
            answered = True
            while left and answered:
                figure, answered = _page(server, left.pop(0))
                yield figure


def _page(server: Server, name: str) -> tuple[Figure, bool]:
    start = time.perf_counter()
    with Watched(server.process) as watched:
        try:
            with session(server.url, patience=GIVEN_UP_SECONDS) as viewer:
                view = viewer.view("" if name == "overview" else name)
        except Exception as error:
            answered, outcome = False, f"error: {type(error).__name__}"
        else:
            answered, outcome = True, f"error: {view.errors[0]}" if view.errors else "a page"
        seconds = time.perf_counter() - start
        time.sleep(0.05)
    return Figure(name, seconds, watched.peak_mb, outcome), answered


def commands(cache: Path, folder: Path) -> Iterator[Figure]:
    """Commands that take a stranger's file."""
    at = ["--cache", str(cache)]
    yield _command("import", ["import", str(cache), "--cache", str(folder / "mine.duckdb")])
    yield _command("claims", ["claims", STUDY, *at])
    yield _command("phases", ["phases", STUDY, *at])
    yield _command("report", ["report", STUDY, "-o", str(folder / "r.html"), *at])
    yield _command("csv", ["export", STUDY, "-o", str(folder / "e.csv"), *at])
    yield _command("png", ["export", STUDY, "--format", "png", "-o", str(folder / "sheets"), *at])


def _command(name: str, words: Sequence[str]) -> Figure:
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = psutil.Popen(
            [sys.executable, "-m", "engine", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        with Watched(child) as watched:
            try:
                outcome = f"exit code {child.wait(GIVEN_UP_SECONDS)}"
            except psutil.TimeoutExpired:
                child.kill()
                child.wait()
                outcome = "error: gave no answer"
        seconds = time.perf_counter() - start
        said.seek(0)
        if b"Traceback" in said.read():
            outcome = "error: traceback"
    return Figure(name, seconds, watched.peak_mb, "error: killed" if outcome == "exit code -9" else outcome)


def measured(cache: Path, folder: Path, say: Callable[[Figure], None]) -> list[Figure]:
    """What every page and command takes on a cache; what the commands write goes into a folder that is removed."""
    found = []
    with tempfile.TemporaryDirectory(dir=folder) as own:
        for figures in (pages(cache), commands(cache, Path(own))):
            for figure in figures:
                say(figure)
                found.append(figure)
    return found


def compare(kinds: Sequence[str], write: Callable[[dict[str, Any]], None]) -> bool:
    """Measures every kind of file; returns whether all limits hold.

    Args:
        kinds: Keys of `COSTLY`.
        write: Takes the result so far, as plain data, after every file.
    """
    result: dict[str, Any] = {"environment": environment(), "holds": True, "files": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty, cache = folder / "empty.duckdb", folder / "costly.duckdb"
        migrate(empty)
        print("empty", flush=True)
        usual = {figure.what: figure.megabytes for figure in measured(empty, folder, lambda figure: _row(figure, 0.0))}
        result["empty_mb"] = usual
        for kind in kinds:
            start = time.perf_counter()
            COSTLY[kind].make(cache, COSTLY[kind].full)
            size = cache.stat().st_size / 1e6
            print(f"{kind}: {size:.1f} MB, written in {time.perf_counter() - start:.0f} s", flush=True)
            figures = measured(cache, folder, lambda figure: _row(figure, usual[figure.what]))
            result["holds"] &= all(_holds(figure, usual[figure.what]) for figure in figures)
            result["files"].append({"kind": kind, "mb": size, "figures": [asdict(figure) for figure in figures]})
            write(result)
            cache.unlink()
    return bool(result["holds"])


def _holds(figure: Figure, usual_mb: float) -> bool:
    within = figure.seconds <= MOST_SECONDS and figure.megabytes - usual_mb <= MOST_MB
    return within and not figure.outcome.startswith("error")


def _row(figure: Figure, usual_mb: float) -> None:
    mark = "" if _holds(figure, usual_mb) else "  <-- DOES NOT HOLD"
    more = f"{figure.seconds:>7.1f} s{figure.megabytes - usual_mb:>8.0f} MB more"
    print(f"  {figure.what:<10}{more}  {figure.outcome[:100]}{mark}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table; 0 if all limits hold, 1 if not, 2 if it could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.bench", description=__doc__)
    parser.add_argument("--only", choices=COSTLY, action="append", help="one kind of file; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file, after every kind")
    given = parser.parse_args(arguments)

    def write(result: dict[str, Any]) -> None:
        if given.json:
            given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    try:
        holds = compare(given.only or list(COSTLY), write)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"At most {MOST_SECONDS:g} s and {MOST_MB:g} MB more than empty: {'holds' if holds else 'DOES NOT HOLD'}.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
