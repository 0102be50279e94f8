"""The image pass: makes the pictures of many cells at once, as fast as the machine allows."""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial

import torch
from diffusers import DiffusionPipeline

from engine.sampling.batching import Hub
from engine.sampling.cell_maker import CellMaker, Picture, Sample, decode_samples
from engine.sampling.models import Model
from engine.sampling.standins import remembering_text
from engine.study.cells import Cell
from engine.study.study import FrameSettings

__all__ = ["Picture", "Sample", "default_max_batch", "run_cells", "sample_cells"]

# Latents held back for decoding together. Bounds memory whatever the number of cells.
DECODE_TOGETHER = 8


# As a decorator it holds while the generator runs, and not in the caller between two samples.
@torch.no_grad()
def sample_cells(
    model: Model,
    cells: Sequence[Cell],
    settings: FrameSettings,
    max_batch: int,
    tell: Callable[[int], None] | None = None,
) -> Generator[Sample, None, None]:
    """Runs cells through unmodified pipelines at once and yields each as it is finished and decoded.

    A cell that raises becomes a sample with an `error`; the others go on.

    Args:
        model: The loaded model.
        cells: All of this model, picture size and number format.
        settings: Which steps are kept as pictures.
        max_batch: Most cells in flight.
        tell: Told on the way how many more denoiser calls are done.
    """
    finished: list[Sample] = []
    pipe = remembering_text(model.pipe)
    for sample in _run_cells(pipe, cells, settings, max_batch, tell):
        if sample.error is not None:
            yield sample
            continue
        finished.append(sample)
        if len(finished) >= DECODE_TOGETHER:
            yield from decode_samples(pipe, finished, settings)
            finished = []
    yield from decode_samples(pipe, finished, settings)


def run_cells(
    model: Model,
    cells: Sequence[Cell],
    settings: FrameSettings,
    max_batch: int,
    tell: Callable[[int], None] | None = None,
) -> Iterator[Sample]:
    """Like `sample_cells`, but stops at the final latents. Call it under `torch.no_grad()`."""
    yield from _run_cells(remembering_text(model.pipe), cells, settings, max_batch, tell)


def _run_cells(
    pipe: DiffusionPipeline,
    cells: Sequence[Cell],
    settings: FrameSettings,
    max_batch: int,
    tell: Callable[[int], None] | None,
) -> Iterator[Sample]:
    if not cells:
        return
    maker = CellMaker(pipe, cells[0], settings)
    yield from Hub(max_batch, tell).run(partial(maker.make, cell) for cell in cells)


def default_max_batch(device: str, width: int, height: int) -> int:
    """Cells in flight that suit a device: bounded by memory for large pictures, by gain for small ones."""
    pixels = width * height
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        # A cautious guess, not a measurement: a forward that runs out of memory is halved and goes on.
        return max(1, min(64, int(0.4 * total / (pixels * 10_000))))
    return max(2, min(32, 2**20 // pixels))
