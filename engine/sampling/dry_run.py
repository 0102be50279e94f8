"""Every lane once with its real scheduler and a denoiser that says nothing: what would fail in each cell fails here."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from engine.errors import StudyError, did_you_mean
from engine.patience import patience
from engine.sampling.building import build_scheduler
from engine.sampling.calls import pipeline_arguments
from engine.sampling.idle import idle_call, parameters
from engine.sampling.standins import model_config
from engine.study.cells import Cell


@dataclass(frozen=True)
class DryRun:
    """What became of a lane.

    Attributes:
        lane: Its key.
        calls: Denoiser calls that a cell takes.
        error: Why its cells would fail, or None.
    """

    lane: str
    calls: int
    error: str | None


@torch.no_grad()
def dry_run(pipe: DiffusionPipeline, cells: Iterable[Cell]) -> list[DryRun]:
    """One idle call for each lane of the cells, by the first cell of each.

    Args:
        pipe: The pipeline, with its real scheduler, text encoders and autoencoder; its denoisers are not called.
        cells: Cells to be made, references among them.
    """
    first = {cell.config_id: cell for cell in reversed(list(cells))}
    return [_tried(pipe, cell) for cell in reversed(first.values())]


def refuse_failing(pipe: DiffusionPipeline, cells: Iterable[Cell]) -> list[DryRun]:
    """As `dry_run`, with every refusal at once.

    Raises:
        StudyError: Lanes whose cells would all fail, and an argument of `[pipeline]` that the pipeline doesn't take.
    """
    cells = list(cells)
    check_arguments(pipe, cells)
    found = dry_run(pipe, cells)
    errors = [f"Lane '{each.lane}': {type(pipe).__name__} refuses it: {each.error}" for each in found if each.error]
    if errors:
        raise StudyError("\n".join(errors))
    return found


def check_arguments(pipe: DiffusionPipeline, cells: Iterable[Cell]) -> None:
    """Compares the `[pipeline]` table with the signature of the pipeline's call.

    Raises:
        StudyError: A key that the pipeline doesn't take; the message names the nearest one.
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
    try:
        scheduler = build_scheduler(cell.lane, model_config(pipe), cell.seed)
        # Classes of a plug-in are tried for one step: in the middle they may fail for what the denoiser says.
        foreign = not cell.lane.scheduler.target.startswith("diffusers:")
        with patience("in a call without a denoiser"):
            idle_call(pipe, pipeline_arguments(pipe, cell), scheduler, cell.seed, calls, first_step=foreign)
    except StudyError as error:
        return DryRun(cell.lane.key, len(calls), str(error))
    except Exception as error:  # whatever a pipeline or scheduler raises on what it cannot do
        return DryRun(cell.lane.key, len(calls), f"{type(error).__name__}: {error}"[:500])
    return DryRun(cell.lane.key, len(calls), None)
