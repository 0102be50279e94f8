"""Runs whose prompt is swapped: unmodified pipelines get another prompt's embeddings through their own callback.

Diffusers pipelines pass the tensors of their prompt to `callback_on_step_end` and use what it returns. A run with the
second prompt alone gives those tensors; a run that starts with the first prompt returns them at the swap. Noise,
solver, guidance and number of calls stay the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from engine.sampling import frames
from engine.sampling.batching import Hub
from engine.sampling.building import build_scheduler
from engine.sampling.calls import call_pipeline, check_finite, parked_denoisers, pipeline_arguments
from engine.sampling.idle import row_axes
from engine.sampling.image_pass import encode_first
from engine.sampling.joining import Axes
from engine.sampling.models import Model
from engine.sampling.recording import Recorder
from engine.sampling.room import exact_float32, raise_if_lost
from engine.sampling.standins import model_config, remembering_text
from engine.study.cells import Cell
from engine.study.prompt_swaps import Swap

Texts = dict[str, torch.Tensor]


@dataclass
class SwapSample:
    """The result of a run whose prompt is swapped.

    Attributes:
        calls: Denoiser calls.
        swap_call: The first call with the second prompt; `calls` if there is none.
        log_snr: Log-SNR at that call.
        first_distance: Relative L2 distance of the final latents to those of the first prompt alone.
        second_distance: Relative L2 distance to those of the second prompt alone.
        picture: The final picture (frame 0 of a video), (height, width, 3) bytes.
        error: Why it failed, or None.
    """

    swap: Swap
    calls: int = 0
    swap_call: int = 0
    log_snr: float | None = None
    first_distance: float = 0.0
    second_distance: float = 0.0
    picture: np.ndarray | None = None
    error: str | None = None


@dataclass
class _Run:
    """One pipeline call: its latents, the log-SNR of each call, and the tensors of its prompt."""

    latents: torch.Tensor | None = None
    origin: frames.Origin | None = None
    levels: tuple[float, ...] = ()
    texts: Texts | None = None
    error: str | None = None


@torch.no_grad()
def run_swaps(model: Model, swaps: Sequence[Swap], max_batch: int) -> Iterator[list[SwapSample]]:
    """Runs prompt swaps, those of a pair of prompts and a seed at once, and yields them in these groups."""
    pipe = remembering_text(model.pipe, model.turn_to_texts)
    hub = Hub(max_batch)
    axes = row_axes(pipe, pipeline_arguments(pipe, swaps[0].first)) if swaps else None
    for _, group in groupby(swaps, key=lambda swap: (swap.first.prompt, swap.second.prompt, swap.first.seed)):
        with exact_float32():
            samples = _run_group(model, pipe, hub, axes, list(group))
        yield samples


def _run_group(
    model: Model, pipe: DiffusionPipeline, hub: Hub, axes: Axes | None, group: list[Swap]
) -> list[SwapSample]:
    """Runs each prompt alone first, then the runs that swap to the second prompt's embeddings."""
    cells = {cell.trajectory_id: cell for swap in group for cell in (swap.first, swap.second)}
    encode_first(model, pipe, list(cells.values()))
    alone = dict(hub.run(partial(_alone, pipe, axes, cell) for cell in cells.values()))
    changing = [swap for swap in group if 0 < swap.share < 1]
    changed = dict(hub.run(partial(_changed, pipe, axes, swap, alone[swap.second.trajectory_id]) for swap in changing))
    model.take_turns()
    samples = []
    for swap in group:
        first, second = alone[swap.first.trajectory_id], alone[swap.second.trajectory_id]
        run = changed.get(swap.swap_id) or (first if swap.share else second)
        samples.append(_sample(pipe, swap, run, first, second))
    model.take_turns()
    return samples


def _alone(pipe: DiffusionPipeline, axes: Axes | None, cell: Cell) -> tuple[str, _Run]:
    """Runs a cell with its own prompt and records the tensors of the prompt."""
    texts: Texts = {}

    def note(pipe: Any, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        texts.update(tensors)
        return {}

    run = _called(pipe, axes, cell, note)
    run.texts = texts
    return cell.trajectory_id, run


def _changed(pipe: DiffusionPipeline, axes: Axes | None, swap: Swap, second: _Run) -> tuple[str, _Run]:
    """A run that continues with another run's embeddings from the swap on."""
    if second.error or not second.texts:
        return swap.swap_id, _Run(error=f"the run with {swap.second.prompt[:80]!r} alone failed: {second.error}")
    at, texts = swap.call(len(second.levels)), second.texts

    def change(pipe: Any, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(texts) if index + 1 == at else {}

    return swap.swap_id, _called(pipe, axes, swap.first, change)


def _called(
    pipe: DiffusionPipeline, axes: Axes | None, cell: Cell, callback: Callable[..., dict[str, torch.Tensor]]
) -> _Run:
    names = [name for name in getattr(pipe, "_callback_tensor_inputs", ()) if "embeds" in name]
    try:
        if "prompt_embeds" not in names:
            raise TypeError(f"{type(pipe).__name__} does not allow changing the prompt during a run")
        scheduler = build_scheduler(cell.lane, model_config(pipe), cell.seed)
        generator = torch.Generator("cpu").manual_seed(cell.seed)
        recorder = Recorder(scheduler, lambda calls: (), generator=generator)
        arguments = pipeline_arguments(pipe, cell)
        latents = call_pipeline(
            pipe,
            arguments,
            recorder,
            parked_denoisers(pipe, axes, recorder),
            generator,
            callback_on_step_end=callback,
            callback_on_step_end_tensor_inputs=names,
        )
        check_finite(latents)
        recorder.detach()
    except Exception as error:
        raise_if_lost(error)
        return _Run(error=f"{type(error).__name__}: {error}"[:2000])
    origin = frames.Origin(arguments, cell.seed, generator.get_state())
    return _Run(latents, origin, tuple(step.log_snr for step in recorder.steps))


def _sample(pipe: DiffusionPipeline, swap: Swap, run: _Run, first: _Run, second: _Run) -> SwapSample:
    failed = next((error for error in (run.error, first.error, second.error) if error), None)
    if failed or run.latents is None or run.origin is None or first.latents is None or second.latents is None:
        return SwapSample(swap, error=failed)
    calls = len(run.levels)
    at = swap.call(calls)
    try:
        [picture] = frames.decode(pipe, run.latents, [run.origin])
    except Exception as error:
        raise_if_lost(error)
        return SwapSample(swap, error=f"{type(error).__name__}: {error}"[:2000])
    return SwapSample(
        swap,
        calls,
        at,
        run.levels[at] if at < calls else None,
        _distance(run.latents, first.latents),
        _distance(run.latents, second.latents),
        picture[0],
    )


def _distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    found, reference = found.float(), reference.float()
    return float((found - reference).norm() / reference.norm().clamp_min(1e-12))
