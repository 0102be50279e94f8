"""What a cell costs in a large study beside one in a small one: forwards, commits, bytes, CPU seconds, peak memory.

Each study runs in a process of its own on the exact `gaussian` model, whose own work is next to nothing: what counts is
the lab's.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

MAX_BATCH = 8


@dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
        cells: Made.
        forwards: Of the denoiser.
        commits: Of groups of cells.
        cpu_seconds: Of all threads, from the plan to the last score; imports are done before.
        peak_bytes: Of the process.
        file_bytes: Of the cache.
        fresh_bytes: Of a fresh copy of the cache.
    """

    cells: int
    forwards: int
    commits: int
    cpu_seconds: float
    peak_bytes: int
    file_bytes: int
    fresh_bytes: int


def compare_growth(few: int, many: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs a study of few cells and one of many.

    Returns:
        Plain data: both costs, and the cost of a cell in the large study over that of one in the small one.
    """
    with tempfile.TemporaryDirectory() as folder:
        costs = []
        for cells in (few, many):
            costs.append(_in_a_process(cells, Path(folder)))
            say(f"  {cells} cells: {asdict(costs[-1])}")
    small, large = costs
    ratios = {
        name: getattr(large, name) / large.cells / (getattr(small, name) / small.cells)
        for name in ("forwards", "commits", "cpu_seconds", "file_bytes")
    }
    ratios["peak_memory"] = large.peak_bytes / small.peak_bytes
    ratios["file_over_fresh_copy"] = large.file_bytes / large.fresh_bytes
    return {"few": asdict(small), "many": asdict(large), "a cell of many over a cell of few": ratios}


def describe_growth(result: dict[str, Any]) -> str:
    """The ratios as text."""
    ratios = result["a cell of many over a cell of few"]
    few, many = result["few"]["cells"], result["many"]["cells"]
    lines = [f"A cell of {many} over a cell of {few}:"]
    return "\n".join([*lines, *(f"  {name.replace('_', ' '):<24}{ratio:.3f}" for name, ratio in ratios.items())])


def cost_of_run(cells: int, folder: Path) -> Cost:
    """Makes a study of so many cells in this process."""
    from engine.cache.exchange import export_cache
    from engine.cache.writer import CacheWriter
    from engine.passes.run import run_study
    from engine.sampling.batching import Hub
    from engine.study.study import parse_study

    counts = {"forwards": 0, "commits": 0}
    count, commit = Hub._count, CacheWriter.trajectories

    def counted_forward(self: Hub, calls: int) -> None:
        counts["forwards"] += 1
        count(self, calls)

    def counted_commit(self: CacheWriter, *args: Any) -> Any:
        counts["commits"] += 1
        return commit(self, *args)

    study = parse_study(
        {
            "name": "growth",
            "model": "gaussian",
            "prompts": ["disc"],
            "seeds": list(range(cells // 2)),
            "lanes": ["ddim:10", "euler:10"],
            "guidance_scale": 2.0,
            "timing": {"repeats": 0},
        }
    )
    cache = folder / f"{cells}.duckdb"
    before = _cpu_seconds()
    with (
        mock.patch.object(Hub, "_count", counted_forward),
        mock.patch.object(CacheWriter, "trajectories", counted_commit),
    ):
        outcome = run_study(study, cache, device="cpu", max_batch=MAX_BATCH)
    spent = _cpu_seconds() - before
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    fresh = folder / f"{cells}-fresh.duckdb"
    export_cache(cache, fresh)
    sizes = cache.stat().st_size, fresh.stat().st_size
    return Cost(outcome.done, counts["forwards"], counts["commits"], spent, peak, *sizes)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _in_a_process(cells: int, folder: Path) -> Cost:
    command: Sequence[str] = [sys.executable, "-m", "engine.growth", str(cells), str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"A run of {cells} cells ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    print(json.dumps(asdict(cost_of_run(int(sys.argv[1]), Path(sys.argv[2])))))
