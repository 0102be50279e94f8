"""The image pass: makes the pictures of many cells at once, as fast as the machine allows.

The device works sequentially: texts, forwards, decoding. Threads meanwhile measure finished cells and encode pictures,
never more than a few samples behind.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DiffusionPipeline

from engine.environment import cores
from engine.sampling.batching import Hub
from engine.sampling.calls import pipeline_arguments
from engine.sampling.cell_maker import CellMaker, Decoders, Picture, Sample, decode_samples, encode_sample
from engine.sampling.equipping import from_folder
from engine.sampling.idle import encode_texts
from engine.sampling.models import Model
from engine.sampling.previews import Previews
from engine.sampling.room import default_max_batch, exact_float32
from engine.sampling.standins import remembering_text, with_parts
from engine.study.cells import Cell, frame_steps
from engine.study.frame_settings import FrameSettings
from engine.study.model_parts import PartFile

__all__ = ["Picture", "Sample", "default_max_batch", "run_cells", "sample_cells"]

# Most cells whose latents are collected for decoding together, and most decoded samples that wait to be measured and
# encoded; beyond that the device waits for the host. Bounds memory whatever the number of cells.
MOST_WAITING = 8
# The same in bytes of decoded pictures: with step frames a clip of 81 frames of 832 x 480 takes 2.4 GB.
WAITING_BYTES = 2 * 2**30
MOST_THREADS = 4


# As a decorator it applies while the generator runs, but not in the caller between two samples.
@torch.no_grad()
def sample_cells(
    model: Model,
    cells: Sequence[Cell],
    settings: FrameSettings,
    max_batch: int,
    tell: Callable[[int], None] | None = None,
    previews: Previews | None = None,
) -> Generator[Sample, None, None]:
    """Runs cells through unmodified pipelines at once and yields each when it is decoded and encoded.

    A cell that raises becomes a sample with an `error`; the others continue.

    Args:
        model: The loaded model.
        cells: Cells of this model, with the same picture size and number format.
        settings: Which steps are stored as pictures.
        max_batch: Most cells in flight.
        tell: Called with the number of further denoiser calls done.
        previews: Shows the running cells.
    """
    if not cells:
        return
    pipe = remembering_text(model.pipe, model.turn_to_texts)
    maker = CellMaker(pipe, cells[0], settings, previews)
    decoders = Decoders(pipe, _with_tiny(pipe, settings.tiny) if settings.tiny else pipe, max_batch == 1)
    encode_first(model, pipe, cells)
    most = _most_waiting(model, cells[0], settings)
    behind: deque[Future[Sample]] = deque()
    finished: list[Sample] = []
    threads = ThreadPoolExecutor(min(MOST_THREADS, cores()), "finishing")
    random_state = torch.get_rng_state()

    def told(count: int) -> None:
        if tell is not None:
            tell(count)
        if previews is not None and not model.offloaded:
            previews.look(pipe)

    def decoded() -> Iterator[Future[Sample]]:
        for each in _decode(model, decoders, finished, settings, previews):
            yield threads.submit(_finish, maker, each)

    try:
        with exact_float32():
            hub = Hub(max_batch, told)
            for sample in hub.run(partial(maker.make, cell) for cell in cells):
                sample.max_batch = hub.max_batch
                if sample.error is not None:
                    yield sample
                    continue
                finished.append(sample)
                if len(finished) >= most:
                    behind += decoded()
                    finished = []
                while behind and (len(behind) > most or behind[0].done()):
                    yield behind.popleft().result()
            behind += decoded()
        while behind:
            yield behind.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
        torch.set_rng_state(random_state)


def _most_waiting(model: Model, cell: Cell, settings: FrameSettings) -> int:
    """How many cells like this one may wait at a time."""
    pictures = 1 + len(frame_steps(settings, cell.lane.steps)) * len(settings.kinds)
    clip = cell.pipeline.clip_frames(model.source.family.frames)
    return max(1, min(MOST_WAITING, WAITING_BYTES // (3 * cell.width * cell.height * clip * pictures)))


def run_cells(
    model: Model,
    cells: Sequence[Cell],
    settings: FrameSettings,
    max_batch: int,
    tell: Callable[[int], None] | None = None,
) -> Iterator[Sample]:
    """Like `sample_cells`, but stops at the final latents. Call it under `torch.no_grad()`."""
    if not cells:
        return
    maker = CellMaker(remembering_text(model.pipe, model.turn_to_texts), cells[0], settings)
    for sample in Hub(max_batch, tell).run(partial(maker.make, cell) for cell in cells):
        yield _measured(maker, sample)


def _decode(
    model: Model, decoders: Decoders, samples: list[Sample], settings: FrameSettings, previews: Previews | None
) -> list[Sample]:
    encode_first(model, decoders.final, [sample.cell for sample in samples])
    decoded = decode_samples(decoders, samples, settings, previews)
    model.take_turns()
    return decoded


def _with_tiny(pipe: DiffusionPipeline, tiny: PartFile) -> DiffusionPipeline:
    """A copy of a pipeline with a small autoencoder, whose configuration tells its last lines how to scale latents."""
    own: Any = pipe
    small = from_folder(AutoencoderTiny, Path(tiny.path), own.vae.dtype)
    return with_parts(pipe, vae=small.to(own._execution_device).eval())


def encode_first(model: Model, pipe: DiffusionPipeline, cells: Sequence[Cell]) -> None:
    """Encodes all texts before other work where parts take turns on the device, which then is free for it."""
    if not model.offloaded:
        return
    for cell in {(cell.prompt, cell.negative_prompt): cell for cell in cells}.values():
        encode_texts(pipe, pipeline_arguments(pipe, cell))
    model.take_turns()


def _finish(maker: CellMaker, sample: Sample) -> Sample:
    """Does the work on a decoded sample that needs no device."""
    if _measured(maker, sample).error is None:
        try:
            encode_sample(sample)
        except Exception as error:
            sample.fail(error)
    return sample


def _measured(maker: CellMaker, sample: Sample) -> Sample:
    try:
        maker.measure(sample)
    except Exception as error:
        sample.fail(error)
    return sample
