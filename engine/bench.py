"""Speed and memory of the engine compared with plain diffusers: the same cells, interleaved in one run."""

import contextlib
import datetime
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
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
from engine.study.source import find_model
from engine.study.study import FrameSettings, Study, parse_study

LANES = ("ddim:50", "dpmpp_2m:20", "dpmpp_2m_karras:20", "euler:30", "euler_a:30", "pndm:35", "heun:15", "unipc:10")
NO_FRAMES = FrameSettings(count=0)


@dataclass
class BenchSamples:
    """Raw samples of one way to generate the pictures."""

    seconds: list[float] = field(default_factory=list)
    denoiser_seconds: list[float] = field(default_factory=list)
    decoder_seconds: list[float] = field(default_factory=list)
    peak_memory_mb: list[float] = field(default_factory=list)


def run_bench(
    name: str, device: str, repeats: int, max_batch: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Generates the same 32 pictures (8 lanes, 2 prompts, 2 seeds) in three ways, interleaved, several times.

    "loop" calls the pipeline once per cell; "batched" calls it once per lane with all its prompts and seeds, the best
    plain diffusers offers; "engine" is the image pass. All three decode every final picture.

    Returns:
        Plain data: raw samples, medians, and ratios; a ratio is the median over the interleaved repeats.
    """
    source = fetch(find_model(name))
    device = resolve_device(device)
    study = _study(name)
    every = cells(study, source, device)
    model = load(source, device, every[0].dtype)
    together = max_batch or default_max_batch(device, every[0].width, every[0].height)
    ways: dict[str, Callable[[], None]] = {
        "loop": lambda: _loop(model, every),
        "batched": lambda: _batched(model, every, study),
        "engine": lambda: _engine(model, every, together),
    }
    results, busy = {way: BenchSamples() for way in ways}, psutil.getloadavg()[0]
    say(f"{len(every)} pictures, {len(LANES)} lanes, {repeats} repeats after one warm-up; {device}, {every[0].dtype}")
    for repeat in range(-1, repeats):
        for way, make in ways.items():
            seconds, denoising, decoding, memory = _measure(model, make)
            say(f"  {'warm-up' if repeat < 0 else f'repeat {repeat + 1}'}: {way:<8} {seconds:7.2f} s")
            if repeat >= 0:
                results[way].seconds.append(seconds)
                results[way].denoiser_seconds.append(denoising)
                results[way].decoder_seconds.append(decoding)
                results[way].peak_memory_mb.append(memory)
    return _report(results, every, source.name, together, asdict(describe(device)), study) | {
        "load_average": busy,
        "peak_memory_by_cells_mb": _memory_by_cells(),
    }


def describe_bench(result: dict[str, Any]) -> str:
    """Formats the result as text."""
    lines = [f"{'':<10}{'images/s':>10}{'median s':>10}{'outside denoiser':>18}{'and decoder':>13}{'peak memory':>14}"]
    for way in ("loop", "batched", "engine"):
        row = result[way]
        lines.append(
            f"{way:<10}{row['images_per_second']:>10.2f}{row['median_seconds']:>10.2f}"
            f"{row['share_outside_denoiser']:>17.1%} {row['share_outside_denoiser_and_decoder']:>12.1%}"
            f"{row['peak_memory_mb']:>11.0f} MB"
        )
    for other in ("loop", "batched"):
        ratio = result[f"engine_over_{other}"]
        low, high = result[f"engine_over_{other}_range"]
        lines.append(f"engine over {other}: {ratio:.2f} times the speed (repeats {low:.2f} to {high:.2f})")
    memory = ", ".join(f"{count} cells {peak:.0f} MB" for count, peak in result["peak_memory_by_cells_mb"].items())
    lines.append(f"peak memory of a whole run, by number of cells: {memory}")
    details = result["environment"]["details"]
    lines.append(
        f"threads: OMP_NUM_THREADS={details['threads']}, {details['waiting']}; {details['cores']} cores; load average "
        f"{result['load_average']:.1f} at the start"
    )
    return "\n".join(lines)


def _study(model: str) -> Study:
    return parse_study(
        {
            "name": "bench",
            "model": model,
            "prompts": ["red apple", "owl"],
            "seeds": [0, 1],
            "guidance_scale": 2.0,
            "lanes": list(LANES),
        }
    )


def _loop(model: Model, every: list[Cell]) -> None:
    for cell in every:
        pipe = with_parts(model.pipe, scheduler=build_scheduler(cell.lane, model.pipe.scheduler.config, cell.seed))
        pipe(**pipeline_arguments(pipe, cell), generator=torch.Generator("cpu").manual_seed(cell.seed))


def _batched(model: Model, every: list[Cell], study: Study) -> None:
    for lane in study.lanes:
        mine = [cell for cell in every if cell.lane == lane]
        pipe = with_parts(model.pipe, scheduler=build_scheduler(lane, model.pipe.scheduler.config))
        arguments = pipeline_arguments(pipe, mine[0]) | {"prompt": [cell.prompt for cell in mine]}
        pipe(**arguments, generator=[torch.Generator("cpu").manual_seed(cell.seed) for cell in mine])


def _engine(model: Model, every: list[Cell], max_batch: int) -> None:
    for sample in sample_cells(model, every, NO_FRAMES, max_batch):
        if sample.error is not None:
            raise RuntimeError(f"{sample.cell.lane.key} failed: {sample.error}")


def _measure(model: Model, make: Callable[[], None]) -> tuple[float, float, float, float]:
    """Wall seconds, seconds inside the denoiser and inside the decoder, and peak memory in MB of one way."""
    inside: list[float] = []
    decoding: list[float] = []
    decode = model.pipe.vae.decode

    def timed_decode(*args: Any, **kwargs: Any) -> Any:
        synchronise(model.device)
        start = time.perf_counter()
        answer = decode(*args, **kwargs)
        synchronise(model.device)
        decoding.append(time.perf_counter() - start)
        return answer

    def before(*_: Any) -> None:
        synchronise(model.device)
        inside.append(-time.perf_counter())

    def after(*_: Any) -> None:
        synchronise(model.device)
        inside[-1] += time.perf_counter()

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
    return seconds, sum(inside), sum(decoding), peak[0]


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
    results: dict[str, BenchSamples],
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
    for way, measured in results.items():
        median = statistics.median(measured.seconds)
        parts = list(zip(measured.denoiser_seconds, measured.decoder_seconds, measured.seconds, strict=True))
        shares = [1 - inside / total for inside, _, total in parts]
        neither = [1 - (inside + decoding) / total for inside, decoding, total in parts]
        report[way] = {
            "images_per_second": len(every) / median,
            "median_seconds": median,
            "seconds": measured.seconds,
            "share_outside_denoiser": statistics.median(shares),
            "share_outside_denoiser_and_decoder": statistics.median(neither),
            "peak_memory_mb": max(measured.peak_memory_mb),
        }
    for other in ("loop", "batched"):
        ratios = [a / b for a, b in zip(results[other].seconds, results["engine"].seconds, strict=True)]
        report[f"engine_over_{other}"] = statistics.median(ratios)
        report[f"engine_over_{other}_range"] = [min(ratios), max(ratios)]
    return report
