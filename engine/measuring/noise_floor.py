"""Arithmetic noise: runs the same cells again in ways that should not matter.

Each variation changes nothing, the number of cells per forward pass, the number format, or whether the denoiser is
compiled. The resulting differences are the noise floor of comparisons: anything smaller is arithmetic, not an effect of
the scheduler.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from engine.errors import LabError
from engine.measuring.formulas import relative_distance
from engine.sampling.compiling import compile_denoisers, restore
from engine.sampling.image_pass import Sample, sample_cells
from engine.sampling.models import Memory, Model, check_device, load
from engine.study.cells import Cell
from engine.study.frame_settings import FrameSettings

NO_FRAMES = FrameSettings(count=0)
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Distances:
    """Distances between a variation and the cells run alone.

    Attributes:
        variation: "again", "batch 8", "bfloat16", "compiled", ...
        latents: Relative L2 distance of the final latents, by trajectory id.
        pictures: Root mean square difference of the final pictures, 0..255, by trajectory id.
        reason: Why it could not be run, or what failed; empty if all cells succeeded.
    """

    variation: str
    latents: Mapping[str, float]
    pictures: Mapping[str, float]
    reason: str = ""


@dataclass(frozen=True)
class _Outcome:
    latents: np.ndarray
    picture: np.ndarray


def measure_noise(
    model: Model, cells: Sequence[Cell], batches: Sequence[int], *, compiled: bool = True, memory: Memory = "standard"
) -> Iterator[Distances]:
    """Runs cells alone, then in each variation, and yields the distances.

    Args:
        model: Loaded in the number format of the cells.
        cells: Cells of one model, picture size and number format.
        batches: Numbers of cells per forward pass to try, capped at the number of cells.
        compiled: Whether to try `torch.compile`, which can take minutes.
        memory: Memory mode in which the model was loaded.

    Raises:
        LabError: A cell fails when run alone.
    """
    alone = _run(model, cells, 1)
    failed = [sample.error for sample in alone.values() if sample.error]
    if failed:
        raise LabError(f"A cell fails when run alone, so there is nothing to compare with: {failed[0]}")
    base = {key: _outcome(sample) for key, sample in alone.items()}
    yield _compared("again", base, _run(model, cells, 1))
    for batch in sorted({min(batch, len(cells)) for batch in batches} - {1}):
        found = _run(model, cells, batch)
        held = min(sample.max_batch or batch for sample in found.values())
        if held < batch:
            yield Distances(f"batch {batch}", {}, {}, f"memory held {held} cells at once only")
        else:
            yield _compared(f"batch {batch}", base, found)
    for dtype in DTYPES:
        if dtype != cells[0].dtype:
            yield _in_format(model, cells, base, dtype, memory)
    if compiled:
        yield _when_compiled(model, cells, base)


def _in_format(
    model: Model, cells: Sequence[Cell], base: Mapping[str, _Outcome], dtype: str, memory: Memory
) -> Distances:
    """Runs the cells one by one in another number format."""
    try:
        check_device(model.device, dtype)
        other = load(model.source, model.device, dtype, memory)
        return _compared(dtype, base, _run(other, [replace(cell, dtype=dtype) for cell in cells], 1), cells)
    except LabError as reason:
        return Distances(dtype, {}, {}, str(reason))
    except (RuntimeError, NotImplementedError) as error:  # the device lacks an operation in this format
        return Distances(dtype, {}, {}, f"{type(error).__name__}: {error}"[:500])


def _when_compiled(model: Model, cells: Sequence[Cell], base: Mapping[str, _Outcome]) -> Distances:
    """Runs the cells one by one with a compiled denoiser, and restores the model."""
    try:
        compile_denoisers(model)
        return _compared("compiled", base, _run(model, cells, 1))
    except Exception as error:  # no compiler on this machine, or the model cannot be compiled
        return Distances("compiled", {}, {}, f"torch.compile: {type(error).__name__}: {error}"[:500])
    finally:
        restore(model)
        with contextlib.suppress(Exception):
            torch.compiler.reset()


def _run(model: Model, cells: Sequence[Cell], batch: int) -> dict[str, Sample]:
    return {sample.cell.trajectory_id: sample for sample in sample_cells(model, cells, NO_FRAMES, batch)}


def _compared(
    variation: str, base: Mapping[str, _Outcome], found: Mapping[str, Sample], cells: Sequence[Cell] | None = None
) -> Distances:
    """Distances between the samples and the base.

    Args:
        variation: Name of the variation.
        base: Outcomes by trajectory id.
        found: Samples by trajectory id; a cell has another id in another number format.
        cells: The cells of the base, if the ids of the samples differ from theirs.
    """
    errors = [sample.error for sample in found.values() if sample.error]
    if errors:
        return Distances(variation, {}, {}, f"{len(errors)} of {len(found)} cells failed: {errors[0]}"[:500])
    own = {(cell.config_id, cell.prompt, cell.seed): cell.trajectory_id for cell in cells or ()}
    outcomes = {own.get((s.cell.config_id, s.cell.prompt, s.cell.seed), key): _outcome(s) for key, s in found.items()}
    return Distances(
        variation,
        {key: relative_distance(outcome.latents, base[key].latents) for key, outcome in outcomes.items()},
        {key: rms(outcome.picture, base[key].picture) for key, outcome in outcomes.items()},
    )


def rms(picture: np.ndarray, other: np.ndarray) -> float:
    """Root mean square difference of two pictures, 0..255."""
    return float(np.sqrt(np.mean((picture.astype(np.float64) - other) ** 2)))


def _outcome(sample: Sample) -> _Outcome:
    assert sample.final is not None  # holds for every sample without an error
    finals = [picture.data for picture in sample.pictures if picture.kind == "final"]
    return _Outcome(sample.final, np.stack([np.asarray(Image.open(BytesIO(data)).convert("RGB")) for data in finals]))
