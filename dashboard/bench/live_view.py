"""Benches of the live view: how soon `make demo` shows something, and what watching a run costs the engine."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dashboard.bench.server import BenchError, Server, running, running_as_demo
from dashboard.bench.viewer import session
from dashboard.jobs.queue import Queue
from engine.cache.live_state import LiveFile
from engine.paths import ROOT
from engine.study.study import load_study

# Limits on two idle cores.
PICTURE_SECONDS, MOST_COST = 20.0, 0.05
PATIENCE_SECONDS = 300.0
COST_STUDY, COST_PROMPTS = "quickstart", 1


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


def watching_cost(repeats: int) -> dict[str, Any]:
    """Makes the same pictures unwatched and watched, interleaved, each time in a process of its own.

    Unwatched, the engine shows nothing and no page is served; watched, it writes its small pictures, a dashboard serves
    them from the same cores, and a client polls the Overview as a browser would.

    Returns:
        Seconds of the pass that makes the pictures, either way, and the share of the throughput that watching costs.
    """
    seconds: dict[str, list[float]] = {"unwatched": [], "watched": []}
    pictures = 0
    for number in range(repeats):
        for way in ("unwatched", "watched") if number % 2 == 0 else ("watched", "unwatched"):
            with tempfile.TemporaryDirectory() as folder:
                cache = Path(folder) / "cache.duckdb"
                with _watched(cache) if way == "watched" else LiveFile(cache):
                    taken, pictures = _images_pass(cache)
            seconds[way].append(taken)
    cost = 1 - statistics.median(seconds["unwatched"]) / statistics.median(seconds["watched"])
    return {"seconds": seconds, "pictures": pictures, "cost": cost, "holds": cost <= MOST_COST}


@contextlib.contextmanager
def _watched(cache: Path) -> Iterator[None]:
    """A dashboard on a cache, and one client that keeps its Overview open."""
    over = threading.Event()

    def watch(server: Server) -> None:
        with session(server.url) as viewer:
            for _ in viewer.watch():
                if over.is_set():
                    return

    with running(cache) as server:
        client = threading.Thread(target=watch, args=(server,), daemon=True)
        client.start()
        yield
        over.set()
        client.join(PATIENCE_SECONDS)


def _images_pass(cache: Path) -> tuple[float, int]:
    """Seconds in which the engine makes the pictures of a study, from its own messages, and their number."""
    prompts = json.dumps(load_study(COST_STUDY).prompts[:COST_PROMPTS])
    command = [sys.executable, "-m", "engine", "run", COST_STUDY, "--cache", str(cache), "--progress", "json"]
    command += ["--set", f"prompts={prompts}", "--set", "timing.repeats=0"]
    began, pictures = 0.0, 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as engine:
        assert engine.stdout is not None
        for line in engine.stdout:
            event = json.loads(line)
            if event["event"] == "start" and event["what"] == "images":
                began, pictures = time.perf_counter(), event["total"]
            elif event["event"] in {"start", "finished"} and began:
                engine.terminate()
                return time.perf_counter() - began, pictures
    raise BenchError(f"The engine made no pictures: it ended with code {engine.returncode}.")


def describe_first_picture(result: dict[str, Any]) -> list[str]:
    """Formats the figures of `first_picture` as lines."""
    lines = [f"{name:<24}{_spread(values)}" for name, values in result["seconds"].items()]
    return [*lines, f"Limit on two idle cores (first picture {PICTURE_SECONDS:g} s): {_verdict(result)}."]


def describe_cost(result: dict[str, Any]) -> list[str]:
    """Formats the figures of `watching_cost` as lines."""
    lines = [f"{name:<24}{_spread(values)}" for name, values in result["seconds"].items()]
    lines.append(f"{result['pictures']} pictures; watching costs {result['cost']:.1%} of the throughput")
    return [*lines, f"Limit on two idle cores ({MOST_COST:.0%}): {_verdict(result)}."]


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):6.1f} s   ({min(values):.1f} to {max(values):.1f} s, n = {len(values)})"


def _verdict(result: dict[str, Any]) -> str:
    return "holds" if result["holds"] else "DOES NOT HOLD"
