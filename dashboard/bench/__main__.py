"""`python -m dashboard.bench [--first-picture | --watching]`: times to render, to start, and memory; the live view."""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dashboard.bench.browser import chromium, first_picture_seconds
from dashboard.bench.large_cache import write_large_cache
from dashboard.bench.live_view import describe_cost, describe_first_picture, first_picture, watching_cost
from dashboard.bench.server import BenchError, Server, running
from dashboard.bench.viewer import session
from engine.errors import LabError
from engine.paths import ROOT

VIEWS = ROOT / "dashboard" / "views"
WITH_PICTURES = ("overview", "compare", "learn")
# Limits on two idle cores.
MEDIAN_MS, WORST_MS, PICTURE_SECONDS, MEMORY_MB, START_SECONDS = 300, 1000, 2.0, 500, 3.0


@dataclass(frozen=True)
class PageFigures:
    """Measurements of a page.

    Attributes:
        first_ms: Render time of the first view, with cold caches.
        cpu_ms: CPU time of the server per view, which does not depend on the load of the machine.
        first_picture_s: Time until a picture is drawn in Chromium; None if the page has none, or without Chromium.
    """

    page: str
    first_ms: float
    median_ms: float
    worst_ms: float
    cpu_ms: float
    kilobytes: float
    views: int
    first_picture_s: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table; returns 0 if all limits hold, 1 if not, 2 if it could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m dashboard.bench", description=__doc__)
    parser.add_argument("--cache", type=Path, help="measure with this cache (default: a large synthetic one)")
    parser.add_argument("--views", type=int, default=200, metavar="N", help="page views in total (default 200)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="of what is not a page view (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    live = parser.add_mutually_exclusive_group()
    live.add_argument("--first-picture", action="store_true", help="how soon `make demo` shows something, instead")
    live.add_argument("--watching", action="store_true", help="what watching a run costs the engine, instead")
    given = parser.parse_args(arguments)
    try:
        result, lines = _measured(given)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if result["holds"] else 1


def _measured(given: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The figures asked for, and how they are printed."""
    where = environment()
    if given.first_picture:
        result = first_picture(given.repeats)
        return {"environment": where, **result}, [_place(where), *describe_first_picture(result)]
    if given.watching:
        result = watching_cost(given.repeats)
        return {"environment": where, **result}, [_place(where), *describe_cost(result)]
    with tempfile.TemporaryDirectory() as folder:
        result = measure(given.cache or make_cache(Path(folder) / "large.duckdb"), given.views, given.repeats)
    return result, describe(result)


def make_cache(path: Path) -> Path:
    """Creates a synthetic cache of 100,000 frames and 1,000,000 step metrics.

    Raises:
        CacheError: It cannot be written.
    """
    print("Creating a cache of 100,000 frames and 1,000,000 step metrics ...", file=sys.stderr)
    write_large_cache(path)
    return path


def measure(cache: Path, views: int, repeats: int) -> dict[str, object]:
    """Measures everything; returns plain data."""
    if not cache.is_file():
        raise BenchError(f"There is no cache at {cache}.")
    names = sorted(file.stem for file in VIEWS.glob("*.py") if file.stem != "__init__")
    starts, used = [], []
    for _ in range(max(1, repeats)):
        with running(cache) as server:
            before = server.started_seconds
            with session(server.url) as viewer:
                starts.append(before + viewer.view().seconds)
            used.append(server.processor_seconds())
    with running(cache) as server, chromium() as browser:
        idle = server.memory_mb()
        pages = [_page(server, name, max(2, views // len(names))) for name in names]
        memory = server.memory_mb()
        shown = {
            name: first_picture_seconds(browser, f"{server.url}/{_address(name)}", repeats)
            for name in names
            if browser is not None and name in WITH_PICTURES
        }
    pages = [PageFigures(**{**asdict(page), "first_picture_s": shown.get(page.page)}) for page in pages]
    result: dict[str, object] = {
        "environment": environment(),
        "cache_mb": cache.stat().st_size / 1e6,
        "pages": [asdict(page) for page in pages],
        "views": sum(page.views for page in pages),
        "start_s": statistics.median(starts),
        "start_cpu_s": statistics.median(used),
        "memory_idle_mb": idle,
        "memory_mb": memory,
    }
    return result | {"holds": _holds(pages, memory, statistics.median(starts))}


def _page(server: Server, name: str, views: int) -> PageFigures:
    """Measures views of a page, each in a new session."""
    seconds, sizes = [], []
    used = 0.0
    for number in range(views):
        before = server.processor_seconds()
        with session(server.url) as viewer:
            view = viewer.view(_address(name))
        if view.errors:
            raise BenchError(f"The page '{name}' shows an error: {view.errors[0]}")
        if number > 0:
            used += server.processor_seconds() - before
        seconds.append(view.seconds)
        sizes.append(view.bytes)
    warm = [1000 * value for value in seconds[1:]]
    return PageFigures(
        page=name,
        first_ms=1000 * seconds[0],
        median_ms=statistics.median(warm),
        worst_ms=max(warm),
        cpu_ms=1000 * used / len(warm),
        kilobytes=statistics.median(sizes) / 1000,
        views=views,
    )


def _address(name: str) -> str:
    return "" if name == "overview" else name


def _holds(pages: Sequence[PageFigures], memory: float, start: float) -> bool:
    quick = all(page.median_ms <= MEDIAN_MS and page.worst_ms <= WORST_MS for page in pages)
    shown = all(page.first_picture_s is None or page.first_picture_s <= PICTURE_SECONDS for page in pages)
    return quick and shown and memory < MEMORY_MB and start < START_SECONDS


def environment() -> dict[str, object]:
    """Description of the machine, its current load, and versions."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_1_minute": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "streamlit": version("streamlit"),
        "duckdb": version("duckdb"),
    }


def _place(where: Mapping[str, object]) -> str:
    return (
        f"{where['system']}, {where['cores']} cores, load {where['load_1_minute']:.1f}; Python {where['python']}, "
        f"Streamlit {where['streamlit']}, DuckDB {where['duckdb']}"
    )


def describe(result: dict[str, object]) -> list[str]:
    """Formats the result as lines of a table."""
    where = result["environment"]
    assert isinstance(where, dict)
    lines = [
        f"{_place(where)}; cache of {result['cache_mb']:.0f} MB",
        f"{'page':<12}{'first':>9}{'median':>9}{'worst':>9}{'CPU':>9}{'size':>11}{'views':>7}{'first picture':>15}",
    ]
    pages = result["pages"]
    assert isinstance(pages, list)
    for page in pages:
        shown = page["first_picture_s"]
        picture = "-" if shown is None else f"{shown:.2f} s"
        lines.append(
            f"{page['page']:<12}{page['first_ms']:>6.0f} ms{page['median_ms']:>6.0f} ms{page['worst_ms']:>6.0f} ms"
            f"{page['cpu_ms']:>6.0f} ms{page['kilobytes']:>8.0f} kB{page['views']:>7}{picture:>15}"
        )
    verdict = "holds" if result["holds"] else "DOES NOT HOLD"
    lines.append(
        f"start to first page {result['start_s']:.2f} s ({result['start_cpu_s']:.2f} s CPU time); "
        f"memory {result['memory_idle_mb']:.0f} MB at the start, "
        f"{result['memory_mb']:.0f} MB after {result['views']} views"
    )
    limits = f"median {MEDIAN_MS} ms, worst {WORST_MS} ms, picture {PICTURE_SECONDS:g} s, memory {MEMORY_MB} MB"
    limits += f", start {START_SECONDS:g} s"
    return [*lines, f"Limits on two idle cores ({limits}): {verdict}."]


if __name__ == "__main__":
    sys.exit(main())
