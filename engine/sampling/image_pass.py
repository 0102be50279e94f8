"""The image pass: makes the pictures of many cells at once, as fast as the machine allows."""

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from engine.sampling import frames
from engine.sampling.batching import Hub, Parking
from engine.sampling.building import build_scheduler, resolved_config
from engine.sampling.models import Model
from engine.sampling.recording import MEASURED_STEPS, Recorder, StepRecord
from engine.sampling.spectra import octaves, sketch
from engine.sampling.standins import denoiser_name, family, remembering_text, with_parts
from engine.study.plan import Cell, frame_steps
from engine.study.study import FrameSettings

# Latents held back for decoding together. Bounds memory whatever the number of cells.
DECODE_TOGETHER = 8


@dataclass(frozen=True)
class Picture:
    """One encoded frame of a trajectory."""

    kind: str
    step_index: int
    progress: float
    timestep: float | None
    log_snr: float | None
    width: int
    height: int
    format: str
    data: bytes
    video_frame: int = 0


@dataclass
class Sample:
    """What became of one cell.

    Attributes:
        cell: The cell.
        nfe: Denoiser calls, counted.
        config: The scheduler's resolved configuration; None if it could not be built.
        steps: A record of every step.
        distances: (step_index, relative L2 distance of x0 to the final latents) of the measured steps.
        spectra: (metric, step_index, value) of the measured steps: octave by octave, how far x0 is the final one.
        sketches: (step_index, sketch of x0) of the measured steps.
        latents: Final latents, (1, C, H, W) or (1, C, F, H, W); None if the cell failed or was decoded.
        final: The same without the batch axis, as float32 numpy; None until decoded.
        pictures: Encoded frames, the final picture among them; empty until decoded.
        error: Why the cell failed, or None.
    """

    cell: Cell
    nfe: int
    config: dict[str, Any] | None = None
    steps: list[StepRecord] = field(default_factory=list)
    distances: list[tuple[int, float]] = field(default_factory=list)
    spectra: list[tuple[str, int, float]] = field(default_factory=list)
    sketches: list[tuple[int, np.ndarray]] = field(default_factory=list)
    latents: torch.Tensor | None = None
    final: np.ndarray | None = None
    pictures: list[Picture] = field(default_factory=list)
    error: str | None = None


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
    for sample in run_cells(model, cells, settings, max_batch, tell):
        if sample.error is not None:
            yield sample
            continue
        finished.append(sample)
        if len(finished) >= DECODE_TOGETHER:
            yield from _decoded(model.pipe, finished, settings)
            finished = []
    yield from _decoded(model.pipe, finished, settings)


def run_cells(
    model: Model,
    cells: Iterable[Cell],
    settings: FrameSettings,
    max_batch: int,
    tell: Callable[[int], None] | None = None,
) -> Iterator[Sample]:
    """Like `sample_cells`, but stops at the final latents. Call it under `torch.no_grad()`."""
    pipe = remembering_text(model.pipe)
    hub = Hub(model.denoiser, max_batch, tell)
    yield from hub.run(partial(_run_cell, pipe, cell, settings) for cell in cells)


def default_max_batch(device: str, width: int, height: int) -> int:
    """Cells in flight that suit a device: bounded by memory for large pictures, by gain for small ones."""
    pixels = width * height
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        # A cautious guess, not a measurement: a forward that runs out of memory is halved and goes on.
        return max(1, min(64, int(0.4 * total / (pixels * 10_000))))
    return max(2, min(32, 2**20 // pixels))


def pipeline_arguments(pipe: DiffusionPipeline, cell: Cell) -> dict[str, Any]:
    """The arguments of the pipeline call of a cell, without those its class doesn't take."""
    known = inspect.signature(type(pipe).__call__).parameters
    arguments = {
        "prompt": cell.prompt,
        # None and "" differ for some families; a plain pipe(prompt) passes None.
        "negative_prompt": cell.negative_prompt or None,
        "num_inference_steps": cell.lane.steps,
        family(pipe).guidance: cell.guidance_scale,
        "width": cell.width,
        "height": cell.height,
    }
    return {key: value for key, value in arguments.items() if key in known}


def call_pipeline(
    shared: DiffusionPipeline, cell: Cell, scheduler: Any, denoiser: Parking, **options: Any
) -> torch.Tensor:
    """One unmodified pipeline call for a cell, inside a greenlet of the hub; returns the final latents.

    Raises:
        FloatingPointError: They are not finite.
    """
    pipe: Any = with_parts(shared, **{"scheduler": scheduler, denoiser_name(shared): denoiser})
    output = pipe(
        **pipeline_arguments(pipe, cell),
        generator=torch.Generator("cpu").manual_seed(cell.seed),
        output_type="latent",
        return_dict=False,
        **options,
    )
    latents: torch.Tensor = output[0].clone()
    if not bool(torch.isfinite(latents).all()):
        raise FloatingPointError("the final latents hold values that are not finite (the sampler diverged)")
    return latents


def _run_cell(shared: DiffusionPipeline, cell: Cell, settings: FrameSettings) -> Sample:
    """Makes a cell and takes note of its steps."""
    sample = Sample(cell, nfe=0)
    denoiser = Parking(getattr(shared, denoiser_name(shared)))
    try:
        scheduler = build_scheduler(cell.lane, shared.scheduler.config, cell.seed)
        sample.config = resolved_config(scheduler)
        recorder = Recorder(scheduler, partial(_kept, settings))
        denoiser.show_answers(recorder.answered)
        sample.steps = recorder.steps
        sample.latents = call_pipeline(shared, cell, scheduler, denoiser)
        recorder.detach()
        _measure(sample, recorder)
    except Exception as error:
        sample.error = f"{type(error).__name__}: {error}"[:2000]
        sample.steps, sample.distances, sample.spectra, sample.sketches = [], [], [], []
        sample.latents = None
    sample.nfe = denoiser.calls
    return sample


def _measure(sample: Sample, recorder: Recorder) -> None:
    """Sets what is known of the steps once the final latents are."""
    assert sample.latents is not None  # called for finished samples only
    sample.distances = list(recorder.distances(sample.latents))
    indices, clean = recorder.measured()
    x0 = clean.cpu().numpy()
    found = octaves(x0, sample.latents.float().cpu().numpy()[0])
    sample.spectra = [(metric, indices[place], value) for metric, place, value in found]
    sample.sketches = list(zip(indices, sketch(x0), strict=True))


def _kept(settings: FrameSettings, calls: int) -> set[int]:
    """Steps whose latents are kept until the end: the frames, and those where distances are measured."""
    measured = FrameSettings(count=MEASURED_STEPS)
    return {*frame_steps(settings, calls), *frame_steps(measured, calls)}


def _decoded(pipe: DiffusionPipeline, samples: list[Sample], settings: FrameSettings) -> Iterator[Sample]:
    """Decodes the final latents and the kept steps of several samples together."""
    wanted: list[tuple[Sample, str, StepRecord | None, torch.Tensor]] = []
    for sample in samples:
        assert sample.latents is not None  # holds for every sample without an error
        wanted.append((sample, "final", None, sample.latents))
        shown = set(frame_steps(settings, len(sample.steps)))
        for step in sample.steps:
            if step.step_index in shown:
                latents = {"x0": step.x0, "xt": step.x_t}
                wanted += [(sample, kind, step, latents[kind]) for kind in settings.kinds]  # type: ignore[misc]
    if not wanted:
        return
    arrays = frames.decode(pipe, torch.cat([latents.to(samples[0].latents) for *_, latents in wanted]))
    for (sample, kind, at, _), pictures in zip(wanted, arrays, strict=True):
        for number, picture in enumerate(pictures):
            sample.pictures.append(_picture(sample, kind, at, picture, number))
    for sample in samples:
        assert sample.latents is not None
        sample.final, sample.latents = sample.latents[0].float().cpu().numpy(), None
        yield sample


def _picture(sample: Sample, kind: str, step: StepRecord | None, picture: Any, video_frame: int) -> Picture:
    format: frames.Format = "png" if kind == "final" else "webp"
    at = step or sample.steps[-1]
    return Picture(
        kind=kind,
        step_index=at.step_index,
        progress=(at.step_index + 1) / len(sample.steps),
        timestep=step.timestep if step else None,
        log_snr=step.log_snr if step else None,
        width=picture.shape[1],
        height=picture.shape[0],
        format=format,
        data=frames.encode(picture, format),
        video_frame=video_frame,
    )
