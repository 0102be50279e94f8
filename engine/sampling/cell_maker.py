"""Making one cell, with a note of its steps, and decoding what finished cells left."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from engine.measuring.clips import channels_of, energy_between, frame_axis
from engine.sampling import frames
from engine.sampling.building import build_scheduler, resolved_config
from engine.sampling.calls import call_pipeline, parked_denoisers, pipeline_arguments
from engine.sampling.idle import decoding_only_scales, row_axes, spatial_latents
from engine.sampling.joining import Axes
from engine.sampling.recording import MEASURED_STEPS, Recorder, StepRecord
from engine.sampling.spectra import octaves, sketch
from engine.sampling.standins import family, model_config
from engine.study.cells import Cell, frame_steps
from engine.study.study import FrameSettings


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
        motion: (step_index, mean squared difference of neighbouring frames of x0) of the measured steps of a clip.
        spectra: (metric, step_index, value) of the measured steps: octave by octave, how far x0 is the final one.
        sketches: (step_index, sketch of x0) of the measured steps.
        latents: Final latents with a batch axis of 1, as the scheduler knows them; None if the cell failed or was
            decoded.
        final: The same without the batch axis, as float32 numpy; None until decoded.
        pictures: Encoded frames, the final picture among them; empty until decoded.
        error: Why the cell failed, or None.
        origin: The pipeline call, for decoding.
    """

    cell: Cell
    nfe: int
    config: dict[str, Any] | None = None
    steps: list[StepRecord] = field(default_factory=list)
    distances: list[tuple[int, float]] = field(default_factory=list)
    motion: list[tuple[int, float]] = field(default_factory=list)
    spectra: list[tuple[str, int, float]] = field(default_factory=list)
    sketches: list[tuple[int, np.ndarray]] = field(default_factory=list)
    latents: torch.Tensor | None = None
    final: np.ndarray | None = None
    pictures: list[Picture] = field(default_factory=list)
    error: str | None = None
    origin: frames.Origin | None = None

    def fail(self, error: Exception) -> None:
        """Turns it into one that failed: nothing measured is kept."""
        self.error = f"{type(error).__name__}: {error}"[:2000]
        self.steps, self.distances, self.motion, self.spectra, self.sketches = [], [], [], [], []
        self.pictures = []
        self.latents = self.final = None


class CellMaker:
    """Makes cells of one pipeline; what it learns of the pipeline first serves all of them.

    Args:
        pipe: The pipeline, shared by all cells.
        first: One of the cells; the others differ in lane, prompt and seed.
        settings: Which steps are kept as pictures.
    """

    def __init__(self, pipe: DiffusionPipeline, first: Cell, settings: FrameSettings) -> None:
        self._pipe, self._first, self._settings = pipe, first, settings
        self._style = family(pipe).style
        self._only_scales: bool | None = None

    @cached_property
    def _axes(self) -> Axes | None:
        return row_axes(self._pipe, pipeline_arguments(self._pipe, self._first))

    def make(self, cell: Cell) -> Sample:
        """Makes a cell, inside a greenlet of the hub, up to its final latents."""
        sample, parked = Sample(cell, nfe=0), {}
        try:
            scheduler = build_scheduler(cell.lane, model_config(self._pipe), cell.seed)
            sample.config = resolved_config(scheduler)
            generator = torch.Generator("cpu").manual_seed(cell.seed)
            recorder = Recorder(scheduler, partial(_kept, self._settings), self._style, generator)
            parked = parked_denoisers(self._pipe, self._axes, recorder)
            sample.steps = recorder.steps
            arguments = pipeline_arguments(self._pipe, cell)
            sample.latents = call_pipeline(self._pipe, arguments, recorder, parked, generator)
            sample.origin = frames.Origin(arguments, cell.seed, generator.get_state())
            recorder.detach()
            self._measure(sample, recorder)
        except Exception as error:
            sample.fail(error)
        sample.nfe = sum(denoiser.calls for denoiser in parked.values())
        return sample

    def _measure(self, sample: Sample, recorder: Recorder) -> None:
        """Sets what is known of the steps once the final latents are."""
        assert sample.latents is not None  # called for finished samples only
        sample.distances = list(recorder.distances(sample.latents))
        indices, clean = recorder.measured()
        spatial, final = self._spatial(clean, sample)
        sample.motion = list(zip(indices, self._motion(clean, spatial), strict=False))
        found = octaves(spatial, final)
        sample.spectra = [(metric, indices[place], value) for metric, place, value in found]
        sample.sketches = list(zip(indices, sketch(clean.cpu().numpy()), strict=True))

    def _motion(self, clean: torch.Tensor, spatial: np.ndarray) -> list[float]:
        """Motion energy of x0 of each step as the scheduler knows it, or unpacked if it is packed; none of pictures."""
        rows = clean.float().cpu().numpy() if clean.ndim == 5 else spatial
        autoencoder = getattr(self._pipe, "vae", None)
        axis = frame_axis(rows.shape[1:], channels_of(getattr(autoencoder, "config", None)))
        if axis is None or rows.shape[1:][axis] < 2:
            return []
        return [energy_between(row, axis) for row in rows]

    def _spatial(self, clean: torch.Tensor, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """x0 of all steps and the final latents as the autoencoder receives them, but for a common factor."""
        final, origin = sample.latents, sample.origin
        assert final is not None  # as in _measure
        assert origin is not None
        try:
            if self._only_scales is None:
                self._only_scales = decoding_only_scales(self._pipe, final, origin.arguments, origin.seed)
            if not self._only_scales:
                size = frames.together(self._pipe, final, origin.arguments)
                unpack = partial(spatial_latents, self._pipe, arguments=origin.arguments, seed=origin.seed)
                clean = torch.cat([unpack(rows) for rows in clean.to(final).split(size)])
                final = unpack(final)
        except ValueError:  # a pipeline that decodes otherwise: latents are looked at as they are
            self._only_scales = True
        return clean.float().cpu().numpy(), final.float().cpu().numpy()[0]


def decode_samples(pipe: DiffusionPipeline, samples: list[Sample], settings: FrameSettings) -> Iterator[Sample]:
    """Decodes the final latents and the kept steps of several samples together.

    A sample whose final picture cannot be decoded has failed; a step that cannot be is left out.
    """
    try:
        for sample in samples:
            sample.pictures = []
        _decode(pipe, [entry for sample in samples for entry in _wanted(sample, settings)])
    except Exception:
        for sample in samples:
            _decode_alone(pipe, sample, settings)
    for sample in samples:
        if sample.latents is not None:
            sample.final = sample.latents[0].float().cpu().numpy()
        sample.latents = sample.origin = None
        yield sample


@dataclass(frozen=True)
class _Entry:
    """Latents to be shown: the final ones, or those of a step."""

    sample: Sample
    kind: str
    step: StepRecord | None
    latents: torch.Tensor


def _wanted(sample: Sample, settings: FrameSettings) -> Iterator[_Entry]:
    assert sample.latents is not None  # holds for every sample without an error
    yield _Entry(sample, "final", None, sample.latents)
    shown = set(frame_steps(settings, len(sample.steps)))
    for step in sample.steps:
        kept = {"x0": step.x0, "xt": step.x_t}
        for kind in settings.kinds if step.step_index in shown else ():
            latents = kept[kind]
            if latents is not None:
                yield _Entry(sample, kind, step, latents)


def _decode(pipe: DiffusionPipeline, entries: list[_Entry]) -> None:
    if not entries:
        return
    stacked = torch.cat([entry.latents.to(entries[0].latents) for entry in entries])
    origins = [entry.sample.origin for entry in entries if entry.sample.origin is not None]
    for entry, pictures in zip(entries, frames.decode(pipe, stacked, origins), strict=True):
        entry.sample.pictures += [_picture(entry, picture, number) for number, picture in enumerate(pictures)]


def _decode_alone(pipe: DiffusionPipeline, sample: Sample, settings: FrameSettings) -> None:
    sample.pictures = []
    try:
        for entry in _wanted(sample, settings):
            try:
                _decode(pipe, [entry])
            except FloatingPointError:
                if entry.kind == "final":
                    raise
    except Exception as error:
        sample.fail(error)


def _picture(entry: _Entry, picture: np.ndarray, video_frame: int) -> Picture:
    format: frames.Format = "png" if entry.kind == "final" else "webp"
    step = entry.step
    at = step or entry.sample.steps[-1]
    return Picture(
        kind=entry.kind,
        step_index=at.step_index,
        progress=(at.step_index + 1) / len(entry.sample.steps),
        timestep=step.timestep if step else None,
        log_snr=step.log_snr if step else None,
        width=picture.shape[1],
        height=picture.shape[0],
        format=format,
        data=frames.encode(picture, format),
        video_frame=video_frame,
    )


def _kept(settings: FrameSettings, calls: int) -> set[int]:
    """Steps whose latents are kept until the end: the frames, and those where distances are measured."""
    measured = FrameSettings(count=MEASURED_STEPS)
    return {*frame_steps(settings, calls), *frame_steps(measured, calls)}
