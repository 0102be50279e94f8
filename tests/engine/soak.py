"""Hours of runs, interrupts, kills and readers on one cache, counted: nothing lost, nothing made twice, nothing grows.

`python -m tests.engine.soak MINUTES` runs until the minutes are over and prints what it did; tests run it for less.
"""

import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.cache.connection import reading
from engine.cache.exchange import export_cache
from engine.errors import CacheBusy, CacheMissing, CacheOutdated
from tests.engine.helpers import Child, ask, committed, start_engine, wait_until, write_study

LANES = ["ddim:10", "euler:7"]
SEEDS_A_ROUND = 12
# A signal that comes so many cells before the end of a run has to end it.
MARGIN = 10
ENDINGS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "kill": signal.SIGKILL}
# A file is rewritten as it grows; more than this over a fresh copy would be a leak.
MOST_OVER_FRESH_COPY = 1.6
SMALL_FILE = 8 * 2**20


@dataclass
class Soak:
    """What was done so far.

    Attributes:
        actions: How often, by kind.
        cells: In the cache.
        reads: Answers that readers got meanwhile.
        peaks: Largest memory of an engine, by round (bytes).
        wrong: What should not have been.
    """

    actions: Counter[str] = field(default_factory=Counter)
    cells: int = 0
    reads: int = 0
    peaks: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def soak(folder: Path, seconds: float, seed: int = 0, say: Callable[[str], None] = lambda _: None) -> Soak:
    """Ends after the round in which the time is over."""
    done, cache, chance = Soak(), folder / "c.duckdb", random.Random(seed)
    ends, safe, rounds = time.monotonic() + seconds, dict[str, Any](), 0
    with _reader(cache, done):
        while not done.wrong and (time.monotonic() < ends or rounds < len(ENDINGS) + 2):
            # The first rounds are one of each kind.
            kinds = ["run", "two at once", *ENDINGS]
            kind = kinds[rounds] if rounds < len(kinds) else chance.choice(kinds)
            rounds += 1
            study = write_study(folder / "a.toml", lanes=LANES, seeds=list(range(SEEDS_A_ROUND * rounds)))
            _round(kind, folder, study, cache, chance, done)
            done.actions[kind] += 1
            now = committed(cache)
            if not safe.items() <= now.items():
                done.wrong.append(
                    f"round {rounds}, {kind}: {len(safe.items() - now.items())} cells were lost or remade"
                )
            safe, done.cells = now, len(now)
            if time.monotonic() >= ends or rounds % 20 == 0:
                say(f"{rounds} rounds, {done.cells} cells, {done.reads} reads, {done.peaks[-1] / 1e6:.0f} MB")
    _finish(folder, study, cache, rounds, done)
    return done


def _round(kind: str, folder: Path, study: Path, cache: Path, chance: random.Random, done: Soak) -> None:
    """One run, or two at once, that ends in the way named."""
    for file in folder.glob("*.[oe][ur][tr]"):
        file.unlink()
    missing = len(LANES) * SEEDS_A_ROUND
    run = ("run", study, "--cache", cache, "--progress", "json", "--max-batch", 4)
    children = [start_engine(folder, *run) for _ in range(2 if kind == "two at once" else 1)]
    number = ENDINGS.get(kind)
    expected = {0}
    if number is not None:
        moment = chance.randrange(1, missing)
        wait_until(lambda: children[0].made() >= moment or not children[0].process.is_alive(), f"{moment} cells")
        time.sleep(chance.random() / 50)
        early = children[0].made() < missing - MARGIN
        with contextlib.suppress(ProcessLookupError):
            os.kill(children[0].process.pid, number)
        ended = -9 if number == signal.SIGKILL else 130
        expected = {ended} if early else {ended, 0}
    done.peaks.append(max(_peak(child) for child in children))
    codes = [child.wait() for child in children]
    if not set(codes) <= expected:
        done.wrong.append(f"{kind}: exit codes {codes}, not {expected}:\n" + children[0].err.read_text()[-2000:])


def _peak(child: Child) -> int:
    """Largest memory of a child from now to its end."""
    peak = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(child.process.pid)
        while child.process.is_alive():
            peak = max(peak, process.memory_info().rss)
            child.process.join(0.05)
    return peak


@contextlib.contextmanager
def _reader(cache: Path, done: Soak) -> Iterator[None]:
    """Reads the cache again and again, as pages do, in a thread."""
    over = threading.Event()

    def read() -> None:
        while not over.wait(0.05):
            try:
                with reading(cache) as db:
                    db.execute("SELECT count(*), sum(octet_length(image)) FROM frames").fetchall()
                done.reads += 1
            except (CacheBusy, CacheMissing, CacheOutdated):
                continue
            except Exception as error:
                done.wrong.append(f"a reader: {error!r}")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _finish(folder: Path, study: Path, cache: Path, rounds: int, done: Soak) -> None:
    """Completes the study and counts."""
    for command in (["run", study, "--progress", "none"], ["check"]):
        last = start_engine(folder, *command, "--cache", cache)
        if code := last.wait():
            done.wrong.append(f"the last {command[0]} ended with {code}:\n{last.err.read_text()[-2000:]}")
            return
    wanted = len(LANES) * SEEDS_A_ROUND * rounds
    done.cells = len(committed(cache))
    [(rows, finals)] = ask(
        cache,
        "SELECT (SELECT count(*) FROM trajectories), count(DISTINCT trajectory_id) FROM frames WHERE kind = 'final'",
    )
    if not done.cells == rows == finals == wanted:
        done.wrong.append(f"{done.cells} cells done, {rows} rows, {finals} pictures; {wanted} were asked for")
    fresh = folder / "fresh.duckdb"
    export_cache(cache, fresh)
    size, least = cache.stat().st_size, fresh.stat().st_size
    if size > max(SMALL_FILE, MOST_OVER_FRESH_COPY * least):
        done.wrong.append(f"the file has {size / 1e6:.0f} MB, a fresh copy {least / 1e6:.0f} MB")


def main(minutes: float) -> int:
    """Runs in a folder of its own and tells."""
    with tempfile.TemporaryDirectory() as folder:
        done = soak(Path(folder), 60 * minutes, seed=int(time.time()), say=print)
    print(f"{dict(done.actions)}; {done.cells} cells, {done.reads} reads, peak {max(done.peaks) / 1e6:.0f} MB")
    print("\n".join(done.wrong) or "Nothing was lost, made twice or left behind.")
    return 1 if done.wrong else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0))
