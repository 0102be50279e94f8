"""Dry runs: each lane once with its real scheduler and a denoiser that returns zeros, to find errors of its cells."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from engine.errors import StudyError, did_you_mean
from engine.patience import patience
from engine.sampling.building import build_scheduler
from engine.sampling.calls import pipeline_arguments
from engine.sampling.hollow import ContentsAsked
from engine.sampling.idle import idle_call, parameters
from engine.sampling.standins import model_config
from engine.study.cells import Cell


@dataclass(frozen=True)
class DryRun:
    """The result for a lane.

    Attributes:
        lane: Its key.
        calls: Denoiser calls per cell.
        error: Why its cells would fail, or None.
        handed: What the pipeline passes to `set_timesteps`: a shift for the picture size (`mu`), levels (`sigmas`).
        lasting: Whether the error would recur wherever the same releases are installed.
        untold: Whether the outcome of the call depends on the weights.
    """

    lane: str
    calls: int
    error: str | None
    handed: Mapping[str, Any] = field(default_factory=dict)
    lasting: bool = True
    untold: bool = False


@torch.no_grad()
def dry_run(pipe: DiffusionPipeline, cells: Iterable[Cell]) -> list[DryRun]:
    """One idle call for each lane, with the first of its cells.

    Args:
        pipe: The pipeline, with its real scheduler, text encoders and autoencoder; its denoisers are not called.
        cells: The cells to be made, including references.
    """
    first = {cell.config_id: cell for cell in reversed(list(cells))}
    return [_tried(pipe, cell) for cell in reversed(first.values())]


def check_arguments(pipe: DiffusionPipeline, cells: Iterable[Cell]) -> None:
    """Checks the `[pipeline]` table against the signature of the pipeline call.

    Raises:
        StudyError: The pipeline doesn't take a key; the message names the nearest one.
    """
    known = parameters(pipe)
    for cell in cells:
        for name in (*cell.pipeline.arguments, *cell.pipeline.pictures):
            if name not in known:
                raise StudyError(
                    f"[pipeline]: {type(pipe).__name__} takes no '{name}'.{did_you_mean(name, list(known))}"
                )


def _tried(pipe: DiffusionPipeline, cell: Cell) -> DryRun:
    calls: list[dict[str, object]] = []
    handed: dict[str, Any] = {}
    try:
        scheduler = build_scheduler(cell.lane, model_config(pipe), cell.seed)
        # Plug-in classes are tried for one step only: later steps may fail on the zeros of the denoiser.
        foreign = not cell.lane.scheduler.target.startswith("diffusers:")
        _note(scheduler, handed)
        with patience("in a call without a denoiser"):
            idle_call(pipe, pipeline_arguments(pipe, cell), scheduler, cell.seed, calls, first_step=foreign)
        if not calls:
            raise StudyError("the call takes no step at all; give more steps, or a larger strength in [pipeline]")
    except StudyError as error:
        return DryRun(cell.lane.key, len(calls), str(error), handed, _lasting(error.__cause__))
    except Exception as error:  # any error of a pipeline or scheduler
        text = f"{type(error).__name__}: {error}"[:500]
        return DryRun(cell.lane.key, len(calls), text, handed, _lasting(error), _asks_contents(error))
    return DryRun(cell.lane.key, len(calls), None, handed)


def _lasting(error: BaseException | None) -> bool:
    """Whether the error would recur; missing packages, files and memory may be available next time."""
    return not isinstance(error, ImportError | OSError | MemoryError)


def _asks_contents(error: BaseException | None) -> bool:
    """Whether an error was caused by a part without weights, directly or through other errors."""
    while error is not None and not isinstance(error, ContentsAsked):
        error = error.__cause__ or error.__context__
    return error is not None


def _note(scheduler: Any, handed: dict[str, Any]) -> None:
    """Wraps a scheduler's `set_timesteps` to record its arguments besides the number of steps."""
    real = scheduler.set_timesteps

    @functools.wraps(real)
    def noted(*args: Any, **kwargs: Any) -> Any:
        for name in ("mu", "sigmas", "timesteps"):
            if kwargs.get(name) is not None:
                handed[name] = np.asarray(kwargs[name], dtype=float).tolist()
        return real(*args, **kwargs)

    scheduler.set_timesteps = noted
