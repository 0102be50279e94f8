"""Times lanes, each running alone, by stage; returns raw samples."""

import copy
import functools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline

from engine.measuring.energy import energy_counter
from engine.measuring.machine_load import OtherLoad
from engine.sampling.building import build_scheduler
from engine.sampling.calls import pipeline_arguments
from engine.sampling.models import Model
from engine.sampling.room import raise_if_lost
from engine.sampling.standins import StandIn, denoisers, model_config, with_parts
from engine.study.cells import Cell

STAGES = ("text", "denoiser", "scheduler", "decode")


@dataclass(frozen=True)
class TimingJob:
    """A lane to be timed, represented by one of its cells, at a batch size.

    Attributes:
        first_repeat: Number of the first repeat; above 0 if there are samples already.
        repeats: Number of samples to take.
    """

    cell: Cell
    batch_size: int
    first_repeat: int
    repeats: int


@dataclass(frozen=True)
class TimingSample:
    """One timed pipeline call.

    Attributes:
        seconds: Wall seconds by stage, with "other" (the rest) and "total" (the whole call including decoding); only
            the total if components take turns on the device.
        nfe: Denoiser calls, counted.
        other_load: Processor cores that other processes kept busy meanwhile; None where that is not known.
        joules: That the device took; None where nothing counts them.
        energy: What counted the joules, or why nothing did.
    """

    job: TimingJob
    repeat: int
    seconds: dict[str, float]
    nfe: int
    error: str | None = None
    other_load: float | None = None
    joules: float | None = None
    energy: str = ""


@dataclass
class Stopwatch:
    """Adds up seconds per stage on one device.

    On CUDA, events are recorded in the stream and read at the end, so that timing does not stall it. On MPS the device
    is synchronised at each boundary. On CPUs the wall clock is read.
    """

    device: str
    _spans: list[tuple[str, Any, Any]] = field(default_factory=list)

    def watch(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function so that its time is added to a stage."""

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            try:
                return function(*args, **kwargs)
            finally:
                self._spans.append((stage, start, self._now()))

        return watched

    def seconds(self) -> dict[str, float]:
        """Seconds per stage so far."""
        synchronise(self.device)
        totals = dict.fromkeys(STAGES, 0.0)
        for stage, start, end in self._spans:
            totals[stage] += start.elapsed_time(end) / 1000 if self.device == "cuda" else end - start
        return totals

    def _now(self) -> Any:
        if self.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        synchronise(self.device)
        return time.perf_counter()


class TimedDenoiser(StandIn):
    """Stand-in for the denoiser that times and counts its calls."""

    calls: int

    def __init__(self, real: torch.nn.Module, watch: Stopwatch) -> None:
        super().__init__(real)
        self.__dict__["calls"] = 0
        self.__dict__["timed"] = watch.watch("denoiser", real.__call__)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the real denoiser."""
        self.__dict__["calls"] += 1
        return self.timed(*args, **kwargs)


class TimedDecoder(StandIn):
    """Stand-in for the autoencoder that times `decode`."""

    def __init__(self, real: Any, watch: Stopwatch) -> None:
        super().__init__(real)
        # Pipelines inspect the signature of `forward`, and convert the autoencoder to other number formats.
        self.__dict__.update(decode=watch.watch("decode", real.decode), forward=real.forward, to=real.to)


def synchronise(device: str) -> None:
    """Waits until the device has finished all queued work."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def time_lanes(model: Model, jobs: Sequence[TimingJob], warmup: int) -> Iterator[TimingSample]:
    """Times lanes in rounds, in a new order each round, so that heat and drift affect all of them equally.

    The first `warmup` rounds are discarded. A lane that raises yields one sample with an `error` and is then skipped.
    """
    rng = random.Random(0)
    active = list(jobs)
    for round_number in range(-warmup, max((job.repeats for job in jobs), default=0)):
        for job in rng.sample(active, len(active)):
            if round_number >= job.repeats:
                continue
            try:
                sample = time_once(model, job, job.first_repeat + max(round_number, 0))
            except Exception as error:
                raise_if_lost(error)
                active.remove(job)
                yield TimingSample(job, 0, {}, 0, f"{type(error).__name__}: {error}"[:2000])
                continue
            if round_number >= 0:
                yield sample


def time_once(model: Model, job: TimingJob, repeat: int) -> TimingSample:
    """One pipeline call from prompt to pictures, timed.

    If components take turns on the device, the pipeline is left unchanged and only the total is measured, since the
    time of a stage would include uploading its components.
    """
    if model.offloaded:
        return _untouched(model, job, repeat)
    cell, watch = job.cell, Stopwatch(model.device)
    pipe = timed_pipeline(model.pipe, watch, cell)
    total, around = _called(model, pipe, job)
    seconds = watch.seconds()
    seconds["other"] = max(0.0, total - sum(seconds.values()))
    calls = sum(part.calls for part in denoisers(pipe).values() if isinstance(part, TimedDenoiser))
    return TimingSample(job, repeat, {**seconds, "total": total}, calls, **around)


def _untouched(model: Model, job: TimingJob, repeat: int) -> TimingSample:
    pipe: Any = copy.copy(model.pipe)
    vars(pipe)["scheduler"] = build_scheduler(job.cell.lane, model_config(model.pipe), job.cell.seed)
    calls: list[None] = []
    hooks = [part.register_forward_hook(lambda *_: calls.append(None)) for part in denoisers(pipe).values()]
    try:
        total, around = _called(model, pipe, job)
        return TimingSample(job, repeat, {"total": total}, len(calls), **around)
    finally:
        for hook in hooks:
            hook.remove()


def _called(model: Model, pipe: Any, job: TimingJob) -> tuple[float, dict[str, Any]]:
    """Wall seconds of one call, and what else a sample says of it: load and energy."""
    cell = job.cell
    arguments = pipeline_arguments(pipe, cell)
    for name in ("prompt", "negative_prompt"):
        if name in arguments:
            arguments[name] = [arguments[name]] * job.batch_size
    generators = [torch.Generator("cpu").manual_seed(cell.seed + i) for i in range(job.batch_size)]
    synchronise(model.device)
    counter = energy_counter(model.device)
    load, spent = OtherLoad(), counter.start()
    start = time.perf_counter()
    pipe(**arguments, generator=generators if job.batch_size > 1 else generators[0], output_type="pil")
    synchronise(model.device)
    seconds = time.perf_counter() - start
    return seconds, {"joules": spent.joules(), "other_load": load.cores(), "energy": counter.source}


def timed_pipeline(shared: DiffusionPipeline, watch: Stopwatch, cell: Cell) -> DiffusionPipeline:
    """A copy of a pipeline with a fresh scheduler of the cell's lane, whose stages are watched."""
    scheduler = build_scheduler(cell.lane, model_config(shared), cell.seed)
    scheduler.step = watch.watch("scheduler", scheduler.step)
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input = watch.watch("scheduler", scheduler.scale_model_input)
    pipe = with_parts(
        shared,
        scheduler=scheduler,
        vae=TimedDecoder(shared.vae, watch),
        **{name: TimedDenoiser(real, watch) for name, real in denoisers(shared).items()},
    )
    if hasattr(pipe, "encode_prompt"):
        vars(pipe)["encode_prompt"] = watch.watch("text", pipe.encode_prompt)
    return pipe
