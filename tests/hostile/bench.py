"""`python -m tests.hostile.bench [--only NAME]`: what costly files cost pages and commands, in full size.

Every page and every command that takes a stranger's cache has to refuse it or answer within 10 seconds, with at most
1 GB of memory more than for an empty one.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from dashboard.bench.__main__ import VIEWS
from dashboard.bench.server import running
from dashboard.bench.viewer import session
from engine.cache.connection import migrate
from engine.paths import ROOT
from tests.hostile.costly import COSTLY, STUDY

MOST_SECONDS, MOST_MB = 10.0, 1000.0
GIVEN_UP = 120.0


@dataclass(frozen=True)
class Figure:
    """What one page or command took."""

    what: str
    seconds: float
    megabytes: float
    outcome: str


def pages(cache: Path) -> list[Figure]:
    """Every page of a read-only dashboard, each opened once."""
    found = []
    with running(cache, "--read-only") as server:
        for name in sorted(file.stem for file in VIEWS.glob("*.py") if file.stem != "__init__"):
            start = time.perf_counter()
            try:
                with session(server.url) as viewer:
                    view = viewer.view("" if name == "overview" else name)
                outcome = f"error: {view.errors[0]}" if view.errors else "a page"
            except Exception as error:
                outcome = f"error: {type(error).__name__}"
            found.append(Figure(name, time.perf_counter() - start, server.memory_mb(), outcome))
    return found


def commands(cache: Path, folder: Path) -> list[Figure]:
    """Commands that take a stranger's file."""
    at = ["--cache", str(cache)]
    return [
        _command("import", ["import", str(cache), "--cache", str(folder / "mine.duckdb")]),
        _command("claims", ["claims", STUDY, *at]),
        _command("phases", ["phases", STUDY, *at]),
        _command("report", ["report", STUDY, "-o", str(folder / "r.html"), *at]),
        _command("csv", ["export", STUDY, "-o", str(folder / "e.csv"), *at]),
        _command("png", ["export", STUDY, "--format", "png", "-o", str(folder / "sheets"), *at]),
    ]


def _command(name: str, words: Sequence[str]) -> Figure:
    start, peak = time.perf_counter(), 0.0
    child = psutil.Popen(
        [sys.executable, "-m", "engine", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while child.poll() is None and time.perf_counter() - start < GIVEN_UP:
        try:
            peak = max(peak, child.memory_info().rss / 1e6)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    if child.poll() is None:
        child.kill()
    said = child.communicate()[1].decode(errors="replace")
    seconds = time.perf_counter() - start
    outcome = "error: traceback" if "Traceback" in said else f"exit code {child.returncode}"
    return Figure(name, seconds, peak, outcome)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table; 0 if all limits hold, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.bench", description=__doc__)
    parser.add_argument("--only", choices=COSTLY, help="one kind of file")
    given = parser.parse_args(arguments)
    holds = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty = folder / "empty.duckdb"
        migrate(empty)
        usual = {figure.what: figure.megabytes for figure in (*pages(empty), *commands(empty, folder))}
        for kind in [given.only] if given.only else COSTLY:
            cache = folder / "costly.duckdb"
            COSTLY[kind].make(cache, COSTLY[kind].full)
            print(f"{kind}: {cache.stat().st_size / 1e6:.1f} MB")
            for figure in (*pages(cache), *commands(cache, folder)):
                more = figure.megabytes - usual[figure.what]
                bad = figure.seconds > MOST_SECONDS or more > MOST_MB or figure.outcome.startswith("error")
                holds = holds and not bad
                mark = "  <-- DOES NOT HOLD" if bad else ""
                print(
                    f"  {figure.what:<10}{figure.seconds:>7.1f} s{more:>8.0f} MB more  {figure.outcome}{mark}",
                    flush=True,
                )
            cache.unlink()
    print(f"At most {MOST_SECONDS:g} s and {MOST_MB:g} MB: {'holds' if holds else 'DOES NOT HOLD'}.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
