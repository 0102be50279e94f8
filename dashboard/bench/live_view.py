"""Benches of the live view: how soon `make demo` shows something, and what watching a run costs the engine."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dashboard.bench.server import BenchError, Server, running, running_as_demo
from dashboard.bench.viewer import session
from dashboard.jobs.queue import Queue
from engine.paths import ROOT

# Limits on two idle cores.
PICTURE_SECONDS, MOST_COST = 20.0, 0.05
PATIENCE_SECONDS = 300.0
COST_STUDY, COST_SEEDS = "quickstart", 40
# The first calls of a run; after a page came or went; of a window in which calls are counted.
WARM_SECONDS, SETTLE_SECONDS, WINDOW_SECONDS = 10.0, 8.0, 12.0


def first_picture(repeats: int) -> dict[str, Any]:
    """Starts what `make demo` starts, each time on an empty cache, and watches its page without a browser.

    Returns:
        Seconds, in the order of the repeats, until the pages answer, and until the page is sent the first small
        picture of a running cell and the first finished one.

    Raises:
        BenchError: No picture came.
    """
    starts = [_demo() for _ in range(repeats)]
    seconds = {name: [start[name] for start in starts] for name in starts[0]}
    holds = statistics.median(seconds["first picture"]) <= PICTURE_SECONDS
    return {"seconds": seconds, "holds": holds}


def _demo() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        queue = Queue(Path(folder) / "cache.duckdb")
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dashboard.jobs.demo", str(queue.cache)], cwd=ROOT, check=True)
        try:
            with running_as_demo(queue.cache) as server:
                found = {"pages answer": time.perf_counter() - began}
                for tile in _tiles(server):
                    found.setdefault("first picture", time.perf_counter() - began)
                    if tile["finished"]:
                        return found | {"first finished picture": time.perf_counter() - began}
        finally:
            _stop(queue)
    raise BenchError(f"The page was sent no finished picture within {PATIENCE_SECONDS:.0f} s.")


def _tiles(server: Server) -> Iterator[dict[str, Any]]:
    """The tiles with a picture that the Overview is sent, as they come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with session(server.url) as viewer:
        for answer in viewer.watch():
            element = answer.delta.new_element
            if element.WhichOneof("type") == "bidi_component" and "lab_live" in element.bidi_component.component_name:
                shown = element.bidi_component
                yield from (tile for tile in json.loads(shown.json or shown.mixed.json)["tiles"] if tile.get("x0"))
            if time.monotonic() > deadline:
                return


def _stop(queue: Queue) -> None:
    for job in queue.active():
        queue.cancel(job.number, "bench")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (queue.is_held("runner") or queue.is_held("engine")) and time.monotonic() < deadline:
        time.sleep(0.1)


def watching_cost(pairs: int) -> dict[str, Any]:
    """Lets one run go on while a client, without a browser, opens the Overview and closes it again and again.

    The client polls as a page does. While it is there the engine draws small pictures for it, and a server on the same
    cores serves them. Windows with and without it alternate, so that a machine that becomes slower does so for both.

    Returns:
        Denoiser calls a second in each window, the CPU seconds of the server in a watched one, and the share of the
        throughput that watching costs: of each pair, and their median.

    Raises:
        BenchError: The run ended too early.
    """
    calls: dict[str, list[float]] = {"unwatched": [], "watched": []}
    served: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        _running_engine(cache := Path(folder) / "cache.duckdb") as told,
        running(cache) as server,
    ):
        told.wait(WARM_SECONDS)
        for number in range(pairs):
            for way in ("unwatched", "watched") if number % 2 == 0 else ("watched", "unwatched"):
                with _watching(server) if way == "watched" else contextlib.nullcontext():
                    told.wait(SETTLE_SECONDS)
                    before = server.processor_seconds()
                    calls[way].append(told.pace())
                    if way == "watched":
                        served.append(server.processor_seconds() - before)
    costs = [1 - watched / without for without, watched in zip(calls["unwatched"], calls["watched"], strict=True)]
    cost = statistics.median(costs)
    return {
        "calls_per_second": calls,
        "server": served,
        "costs": costs,
        "window_seconds": WINDOW_SECONDS,
        "cost": cost,
        "holds": cost <= MOST_COST,
    }


@contextlib.contextmanager
def _watching(server: Server) -> Iterator[None]:
    """One client that keeps the Overview open."""
    over = threading.Event()

    def watch() -> None:
        with session(server.url) as viewer:
            for _ in viewer.watch():
                if over.is_set():
                    return

    client = threading.Thread(target=watch, daemon=True)
    client.start()
    try:
        yield
    finally:
        over.set()
        client.join(PATIENCE_SECONDS)


class _Calls:
    """The denoiser calls of a run, as it tells of them."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)

    def wait(self, seconds: float) -> None:
        """Listens for so long."""
        self._heard(seconds)

    def pace(self) -> float:
        """Calls a second from now on, in one window."""
        heard = self._heard(WINDOW_SECONDS)
        return (heard[-1][1] - heard[0][1]) / (heard[-1][0] - heard[0][0])

    def _heard(self, seconds: float) -> list[tuple[float, int]]:
        heard: list[tuple[float, int]] = []
        for line in self._lines:
            event = json.loads(line)
            if event["event"] == "calls":
                heard.append((time.monotonic(), event["done"]))
                if heard[-1][0] >= heard[0][0] + seconds:
                    return heard
        raise BenchError("The run ended before everything was measured; ask for fewer repeats.")


@contextlib.contextmanager
def _running_engine(cache: Path) -> Iterator[_Calls]:
    """A run on a new cache."""
    command = [sys.executable, "-m", "engine", "run", COST_STUDY, "--cache", str(cache), "--progress", "json"]
    command += ["--set", f"seeds={list(range(COST_SEEDS))}", "--set", "timing.repeats=0"]
    command += ["--set", "frames.count=0"]  # decoding comes in bursts, in which no call is made
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as engine:
        assert engine.stdout is not None
        try:
            yield _Calls(engine.stdout)
        finally:
            engine.terminate()


def describe_first_picture(result: dict[str, Any]) -> list[str]:
    """Formats the figures of `first_picture` as lines."""
    lines = [f"{name:<24}{_spread(values, 's')}" for name, values in result["seconds"].items()]
    return [*lines, f"Limit on two idle cores (first picture {PICTURE_SECONDS:g} s): {_verdict(result)}."]


def describe_cost(result: dict[str, Any]) -> list[str]:
    """Formats the figures of `watching_cost` as lines."""
    lines = [f"{name:<24}{_spread(values, 'calls/s')}" for name, values in result["calls_per_second"].items()]
    lines.append(f"{'CPU time of the server':<24}{_spread(result['server'], 's')}, in {result['window_seconds']:g} s")
    low, high = min(result["costs"]), max(result["costs"])
    lines.append(f"watching costs {result['cost']:.1%} of the throughput (pairs {low:.1%} to {high:.1%})")
    return [*lines, f"Limit on two idle cores ({MOST_COST:.0%}): {_verdict(result)}."]


def _spread(values: list[float], unit: str) -> str:
    few, most = min(values), max(values)
    return f"{statistics.median(values):6.1f} {unit}   ({few:.1f} to {most:.1f} {unit}, n = {len(values)})"


def _verdict(result: dict[str, Any]) -> str:
    return "holds" if result["holds"] else "DOES NOT HOLD"
