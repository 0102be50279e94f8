"""Speed and memory of the engine compared with plain diffusers: the same cells, interleaved in one run."""

import contextlib
import datetime
import functools
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch

from engine.environment import describe, resolve_device
from engine.measuring.lane_timing import synchronise
from engine.sampling.building import build_scheduler
from engine.sampling.calls import pipeline_arguments
from engine.sampling.image_pass import default_max_batch, sample_cells
from engine.sampling.models import Model, fetch, load
from engine.sampling.standins import with_parts
from engine.study.cells import Cell, cells
from engine.study.frame_settings import FrameSettings
from engine.study.source import find_model
from engine.study.study import Study, parse_study
from engine.waiting import is_bounded

LANES = ("ddim:50", "dpmpp_2m:20", "dpmpp_2m_karras:20", "euler:30", "euler_a:30", "pndm:35", "heun:15", "unipc:10")
NO_FRAMES = FrameSettings(count=0)


# What OpenMP libraries do where nobody says otherwise: GNU's spins so often, LLVM's so many milliseconds.
SPINNING = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}


@dataclass(frozen=True)
class BenchSample:
    """One generation of all pictures.

    Attributes:
        denoiser_seconds: In which at least one forward ran.
        busy_seconds: In which at least one forward or the decoder ran.
        peak_memory_mb: Of the process or of CUDA's allocator.
    """

    seconds: float
    denoiser_seconds: float
    busy_seconds: float
    peak_memory_mb: float


@dataclass(frozen=True)
class Task:
    """What is generated, by whom."""

    model: str
    device: str
    lanes: tuple[str, ...]
    max_batch: int | None


@dataclass(frozen=True)
class Contestant:
    """A way to generate the pictures, in a process of its own whose threads wait in one way."""

    way: str
    spins: bool

    def start(self) -> ProcessPoolExecutor:
        """A process that torch isn't loaded in yet: only there is it free how threads will wait."""
        with mock.patch.dict(os.environ, SPINNING if self.spins else {}):
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            pool.submit(os.getpid).result()  # the process starts with the first thing it is given
        return pool


def run_bench(
    name: str, device: str, repeats: int, max_batch: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Generates the same 32 pictures (8 lanes, 2 prompts, 2 seeds) in three ways, interleaved, several times.

    "loop" calls the pipeline once per cell; "batched" calls it once per lane with all its prompts and seeds, the best
    plain diffusers offers; "engine" is the image pass. All three decode every final picture. On CPUs plain diffusers
    runs with threads that wait as the engine's do and with threads that spin, and the faster one counts.

    Returns:
        Plain data: raw samples, medians, and ratios; a ratio is the median over the interleaved repeats.
    """
    source, device = fetch(find_model(name)), resolve_device(device)
    task = Task(name, device, LANES, max_batch)
    study = _study(task)
    every, busy = cells(study, source, device), psutil.getloadavg()[0]
    say(f"{len(every)} pictures, {len(LANES)} lanes, {repeats} repeats after one warm-up; {device}, {every[0].dtype}")
    memory = _memory_by_cells()  # first: what can't run ends the command before the long part
    samples = _compete(task, repeats, say)
    return _report(samples, every, source.name, _together(task, every), asdict(describe(device)), study) | {
        "load_average": busy,
        "peak_memory_by_cells_mb": memory,
    }


def _compete(task: Task, repeats: int, say: Callable[[str], None]) -> dict[Contestant, list[BenchSample]]:
    """Interleaved samples of all contestants, after one warm-up each."""
    both = task.device == "cpu" and is_bounded()
    contestants = [Contestant(way, False) for way in WAYS]
    contestants += [Contestant(way, True) for way in WAYS if both and way != "engine"]
    samples: dict[Contestant, list[BenchSample]] = {contestant: [] for contestant in contestants}
    with contextlib.ExitStack() as stack:
        pools = {contestant: stack.enter_context(contestant.start()) for contestant in contestants}
        for repeat in range(-1, repeats):
            for contestant, pool in pools.items():
                sample = pool.submit(generate, contestant.way, task).result()
                spins = ", spinning" if contestant.spins else ""
                label = "warm-up" if repeat < 0 else f"repeat {repeat + 1}"
                say(f"  {label}: {contestant.way + spins:<18} {sample.seconds:7.2f} s")
                if repeat >= 0:
                    samples[contestant].append(sample)
    return samples


def generate(way: str, task: Task) -> BenchSample:
    """Generates all pictures in one way, in this process."""
    model, every, study = _loaded(task)
    return _measure(model, functools.partial(WAYS[way], model, every, study, _together(task, every)))


def _together(task: Task, every: Sequence[Cell]) -> int:
    return task.max_batch or default_max_batch(task.device, every[0].width, every[0].height)


@functools.lru_cache(maxsize=1)
def _loaded(task: Task) -> tuple[Model, list[Cell], Study]:
    source, study = fetch(find_model(task.model)), _study(task)
    every = cells(study, source, task.device)
    return load(source, task.device, every[0].dtype), every, study


def describe_bench(result: dict[str, Any]) -> str:
    """Formats the result as text."""
    lines = [f"{'':<10}{'images/s':>10}{'median s':>10}{'outside denoiser':>18}{'and decoder':>13}{'peak memory':>14}"]
    for way in ("loop", "batched", "engine"):
        row = result[way]
        shown = f"{way} *" if row["threads_spin"] else way
        lines.append(
            f"{shown:<10}{row['images_per_second']:>10.2f}{row['median_seconds']:>10.2f}"
            f"{row['share_outside_denoiser']:>17.1%} {row['share_outside_denoiser_and_decoder']:>12.1%}"
            f"{row['peak_memory_mb']:>11.0f} MB"
        )
    for other in ("loop", "batched"):
        ratio = result[f"engine_over_{other}"]
        low, high = result[f"engine_over_{other}_range"]
        lines.append(f"engine over {other}: {ratio:.2f} times the speed (repeats {low:.2f} to {high:.2f})")
    memory = ", ".join(f"{count} cells {peak:.0f} MB" for count, peak in result["peak_memory_by_cells_mb"].items())
    lines.append(f"peak memory of a whole run, by number of cells: {memory}")
    if any(result[way]["threads_spin"] for way in WAYS):
        lines.append(
            "* with threads that spin while they wait, torch's default: faster here than with the engine's way"
        )
    details = result["environment"]["details"]
    lines.append(
        f"threads: OMP_NUM_THREADS={details['threads']}, {details['waiting']}; {details['cores']} cores; load average "
        f"{result['load_average']:.1f} at the start"
    )
    return "\n".join(lines)


def _study(task: Task) -> Study:
    return parse_study(
        {
            "name": "bench",
            "model": task.model,
            "prompts": ["red apple", "owl"],
            "seeds": [0, 1],
            "guidance_scale": 2.0,
            "lanes": list(task.lanes),
        }
    )


def _loop(model: Model, every: list[Cell], study: Study, max_batch: int) -> None:
    for cell in every:
        pipe = with_parts(model.pipe, scheduler=build_scheduler(cell.lane, model.pipe.scheduler.config, cell.seed))
        pipe(**pipeline_arguments(pipe, cell), generator=torch.Generator("cpu").manual_seed(cell.seed))


def _batched(model: Model, every: list[Cell], study: Study, max_batch: int) -> None:
    for lane in study.lanes:
        mine = [cell for cell in every if cell.lane == lane]
        pipe = with_parts(model.pipe, scheduler=build_scheduler(lane, model.pipe.scheduler.config))
        arguments = pipeline_arguments(pipe, mine[0]) | {"prompt": [cell.prompt for cell in mine]}
        pipe(**arguments, generator=[torch.Generator("cpu").manual_seed(cell.seed) for cell in mine])


def _engine(model: Model, every: list[Cell], study: Study, max_batch: int) -> None:
    for sample in sample_cells(model, every, NO_FRAMES, max_batch):
        if sample.error is not None:
            raise RuntimeError(f"{sample.cell.lane.key} failed: {sample.error}")


WAYS = {"loop": _loop, "batched": _batched, "engine": _engine}


def _measure(model: Model, make: Callable[[], None]) -> BenchSample:
    inside: list[tuple[float, float]] = []
    began: dict[int, float] = {}  # of each thread
    decoding: list[tuple[float, float]] = []
    decode = model.pipe.vae.decode

    def timed_decode(*args: Any, **kwargs: Any) -> Any:
        synchronise(model.device)
        start = time.perf_counter()
        answer = decode(*args, **kwargs)
        synchronise(model.device)
        decoding.append((start, time.perf_counter()))
        return answer

    def before(*_: Any) -> None:
        synchronise(model.device)
        began[threading.get_ident()] = time.perf_counter()

    def after(*_: Any) -> None:
        synchronise(model.device)
        inside.append((began[threading.get_ident()], time.perf_counter()))

    hooks = [model.denoiser.register_forward_pre_hook(before), model.denoiser.register_forward_hook(after)]
    try:
        with mock.patch.object(model.pipe.vae, "decode", timed_decode), _peak_memory(model.device) as peak:
            synchronise(model.device)
            start = time.perf_counter()
            make()
            synchronise(model.device)
            seconds = time.perf_counter() - start
    finally:
        for hook in hooks:
            hook.remove()
    return BenchSample(seconds, _covered(inside), _covered(inside + decoding), peak[0])


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds that at least one span covers."""
    total, end = 0.0, -math.inf
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


@contextlib.contextmanager
def _peak_memory(device: str) -> Iterator[list[float]]:
    """Measures peak memory (MB) within the block: of CUDA's allocator, else of the process, sampled every 20 ms."""
    peak = [0.0]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() / 1e6
        return
    process, done = psutil.Process(), threading.Event()

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], process.memory_info().rss / 1e6)
            if done.wait(0.02):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _memory_by_cells() -> dict[int, float]:
    """Peak memory (MB) of whole runs, from prompt to cache, with 50 and 500 cells of the gaussian model."""
    with tempfile.TemporaryDirectory() as folder:
        return {count: peak_memory_of_run(count, Path(folder)) for count in (50, 500)}


def peak_memory_of_run(count: int, folder: Path) -> float:
    """Peak resident memory (MB) of `python -m engine run` on a study of `count` cells, in a separate process."""
    command = [
        sys.executable,
        "-m",
        "engine",
        "run",
        "quickstart",
        "--device",
        "cpu",
        "--max-batch",
        "8",
        "--progress",
        "none",
        "--cache",
        str(folder / f"{count}.duckdb"),
        "--set",
        "model=gaussian",
        "--set",
        'lanes=["ddim:10","euler:10"]',
        "--set",
        "baseline=ddim:10",
        "--set",
        'prompts=["disc"]',
        "--set",
        f"seeds={list(range(count // 2))}",
        "--set",
        "timing.repeats=0",
    ]
    child = psutil.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0.0
    while child.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, child.memory_info().rss / 1e6)
        time.sleep(0.02)
    if child.returncode:
        raise RuntimeError(f"A run of {count} cells ended with exit code {child.returncode}.")
    return peak


def _report(
    samples: dict[Contestant, list[BenchSample]],
    every: list[Cell],
    model: str,
    max_batch: int,
    environment: dict[str, Any],
    study: Study,
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "environment": environment | {"measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")},
        "model": model,
        "pictures": len(every),
        "lanes": [lane.key for lane in study.lanes],
        "dtype": every[0].dtype,
        "max_batch": max_batch,
    }
    for way in WAYS:
        rows = [_row(who, taken, len(every)) for who, taken in samples.items() if who.way == way]
        rows.sort(key=lambda row: row["median_seconds"])
        report[way] = rows[0] | {"slower": rows[1:]}
    for other in ("loop", "batched"):
        ratios = [a / b for a, b in zip(report[other]["seconds"], report["engine"]["seconds"], strict=True)]
        report[f"engine_over_{other}"] = statistics.median(ratios)
        report[f"engine_over_{other}_range"] = [min(ratios), max(ratios)]
    return report


def _row(who: Contestant, samples: Sequence[BenchSample], pictures: int) -> dict[str, Any]:
    median = statistics.median(sample.seconds for sample in samples)
    outside = [1 - sample.denoiser_seconds / sample.seconds for sample in samples]
    neither = [1 - sample.busy_seconds / sample.seconds for sample in samples]
    return {
        "threads_spin": who.spins,
        "images_per_second": pictures / median,
        "median_seconds": median,
        "seconds": [sample.seconds for sample in samples],
        "share_outside_denoiser": statistics.median(outside),
        "share_outside_denoiser_and_decoder": statistics.median(neither),
        "peak_memory_mb": max(sample.peak_memory_mb for sample in samples),
    }
