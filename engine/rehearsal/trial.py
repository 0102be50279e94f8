"""A model in its real size with random weights: how fast this machine makes pictures, and how many at once."""

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil
import torch

from engine.environment import describe, resolve_device
from engine.errors import LabError, did_you_mean
from engine.measuring.lane_timing import synchronise
from engine.rehearsal.configurations import REHEARSED, Rehearsed
from engine.rehearsal.known_work import OnPaper
from engine.rehearsal.on_paper import built, rehearse_on_paper
from engine.sampling.models import check_device
from engine.sampling.room import is_out_of_memory, release_unused

GIB = 2**30
# Side of the square matrices whose product tells the peak; large enough to keep a device busy, small enough for a CPU.
PEAK_SIDES = {"cuda": 8192, "mps": 4096, "cpu": 1024}
BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Trial:
    """Pictures made at once by one batched loop and one decoding.

    Attributes:
        batch: Pictures at once.
        seconds: Of the whole loop, decoding included.
        denoiser_seconds: Inside the denoiser.
        decode_seconds: Inside the decoder, picture by picture.
        peak_bytes: On CUDA, of the allocator; 0 where nothing tells.
        error: Why it was not run, or empty.
    """

    batch: int
    seconds: float = 0.0
    denoiser_seconds: float = 0.0
    decode_seconds: float = 0.0
    peak_bytes: int = 0
    error: str = ""


@dataclass(frozen=True)
class Rehearsal:
    """What is known of a model on this machine.

    Attributes:
        name: Key of the table of configurations.
        device: "cuda", "mps" or "cpu".
        dtype: Number format.
        steps: Of each trial.
        paper: By calculation.
        too_small: Why nothing was tried, or empty.
        peak_flops: Operations a second of a large matrix product here; 0 if nothing was tried.
        trials: By batch size.
    """

    name: str
    device: str
    dtype: str
    steps: int
    paper: OnPaper
    too_small: str = ""
    peak_flops: float = 0.0
    trials: tuple[Trial, ...] = ()

    def plain(self) -> dict[str, Any]:
        """All of it, with the environment, as plain data."""
        return {**asdict(self), "environment": asdict(describe(self.device))}


def rehearse(name: str, steps: int, device: str, dtype: str, batches: Sequence[int] = BATCHES) -> Rehearsal:
    """Counts a model on paper, and tries it if its weights and one picture fit into the memory that is free.

    Raises:
        LabError: There is no such configuration, or no such device.
    """
    if name not in REHEARSED:
        known = ", ".join(REHEARSED)
        raise LabError(f"No configuration '{name}' to rehearse; one of {known}.{did_you_mean(name, REHEARSED)}")
    model, device = REHEARSED[name], resolve_device(device)
    dtype = ("float16" if device == "cuda" else "float32") if dtype == "auto" else dtype
    check_device(device, dtype)
    number_format: torch.dtype = getattr(torch, dtype)
    paper = rehearse_on_paper(model, number_format)
    known_so_far = Rehearsal(name, device, dtype, steps, paper)
    needed, free = needed_bytes(paper, number_format), free_bytes(device)
    if needed > free:
        text = f"it takes {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free, so this is by calculation alone"
        return replace(known_so_far, too_small=text)
    peak = matrix_peak(device, number_format)
    trials = tuple(_trials(model, steps, device, number_format, batches))
    return replace(known_so_far, peak_flops=peak, trials=trials)


def needed_bytes(paper: OnPaper, dtype: torch.dtype) -> int:
    """Weights of denoiser and autoencoder, and activations of one picture: the least a trial takes."""
    weights = (paper.denoiser_parameters + paper.autoencoder_parameters) * dtype.itemsize
    return int(weights + max(paper.call.peak_bytes, paper.decode.peak_bytes))


def free_bytes(device: str) -> int:
    """Memory that is free for weights and activations."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else int(psutil.virtual_memory().available)


@torch.no_grad()
def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of several products of two large matrices: the roof over every forward."""
    side = PEAK_SIDES[device]
    one, other = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    times = [_timed(device, lambda: one @ other)[0] for _ in range(8)]
    return 2 * side**3 / min(times)


def _trials(model: Rehearsed, steps: int, device: str, dtype: torch.dtype, batches: Sequence[int]) -> Sequence[Trial]:
    denoiser, autoencoder = (built(part, device, dtype) for part in (model.denoiser, model.autoencoder))
    found: list[Trial] = []
    for batch in sorted(batches):  # beyond the first that does not fit, none does
        try:
            run = Loop(model, denoiser, autoencoder, steps, device, dtype)
            run(batch, 1)  # warm-up
            found.append(run(batch, steps))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            found.append(Trial(batch, error="it does not fit"))
            break
        finally:
            release_unused()
    return found


@dataclass(frozen=True)
class Loop:
    """The loop of a pipeline, bare: denoiser, scheduler, decoder."""

    model: Rehearsed
    denoiser: Any
    autoencoder: Any
    steps: int
    device: str
    dtype: torch.dtype

    @torch.no_grad()
    def __call__(self, batch: int, steps: int) -> Trial:
        """Makes so many pictures at once."""
        kind = getattr(importlib.import_module("diffusers"), self.model.scheduler)
        scheduler = kind(**self.model.scheduler_config)
        scheduler.set_timesteps(steps, device=self.device)
        inputs = self.model.inputs(batch * self.model.rows, self._random)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        inside = decoding = 0.0
        synchronise(self.device)
        start = time.perf_counter()
        for timestep in scheduler.timesteps:
            took, answer = _timed(self.device, lambda: self.denoiser(**inputs, return_dict=False)[0])
            inside += took
            name = next(iter(inputs))
            stepped = scheduler.step(answer[:, : inputs[name].shape[1]], timestep, inputs[name], return_dict=False)[0]
            inputs[name] = stepped.to(self.dtype)
        for _ in range(batch):
            latents = self._random(1, *self.model.latents)
            took, _ = _timed(self.device, lambda: self.autoencoder.decode(latents, return_dict=False))  # noqa: B023
            decoding += took
        total = time.perf_counter() - start
        peak = int(torch.cuda.max_memory_allocated()) if self.device == "cuda" else 0
        return Trial(batch, total, inside, decoding, peak)

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, device=self.device, dtype=torch.float32).to(self.dtype)


def _timed(device: str, work: Callable[[], Any]) -> tuple[float, Any]:
    synchronise(device)
    start = time.perf_counter()
    answer = work()
    synchronise(device)
    return time.perf_counter() - start, answer
