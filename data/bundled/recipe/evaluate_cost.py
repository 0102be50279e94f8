"""Time and memory of one picture in a process of its own; part of stage 5.

`python -m data.bundled.recipe.evaluate_cost FOLDER STEPS GUIDANCE REPEATS` prints them as JSON.
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from data.bundled.recipe.judge import draw, load_pipeline

THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def peak_megabytes() -> float:
    """Return the most memory this process has held, in MB; Linux' own count where there is one."""
    status = Path("/proc/self/status")  # getrusage would count the parent's memory before exec too
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))):
        return int(found[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(folder: Path, steps: int, guidance: float, repeats: int) -> dict[str, Any]:
    """Return seconds a picture at batch 1 (after one to warm up), threads, and this process's peak memory."""
    pipeline = load_pipeline(folder, torch.device("cpu"))
    draw(pipeline, ["owl"], guidance, steps, 0)
    seconds = []
    for seed in range(repeats):
        start = time.perf_counter()
        draw(pipeline, ["owl"], guidance, steps, seed)
        seconds.append(time.perf_counter() - start)
    spread = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
    return {"n": repeats, "seconds": spread, "threads": torch.get_num_threads(), "peak_mb": peak_megabytes()}


def measure_apart(folder: Path, steps: int, guidance: float, repeats: int, threads: int = 0) -> dict[str, Any]:
    """Return what `measure` says in a fresh process with `threads` threads; 0 for torch's own number."""
    settings = {key: value for key, value in os.environ.items() if key not in THREAD_SETTINGS}
    if threads:
        settings |= dict.fromkeys(THREAD_SETTINGS, str(threads))
    command = [sys.executable, "-m", "data.bundled.recipe.evaluate_cost", folder, steps, guidance, repeats]
    done = subprocess.run([str(x) for x in command], check=True, stdout=subprocess.PIPE, text=True, env=settings)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


if __name__ == "__main__":
    given = sys.argv[1:]
    print(json.dumps(measure(Path(given[0]), int(given[1]), float(given[2]), int(given[3]))))
