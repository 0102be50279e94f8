"""Makes one cell and records its steps, and decodes finished cells."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from engine.measuring.clips import channels_of, energy_between, frame_axis
from engine.sampling import frames
from engine.sampling.building import Schedulers, resolved_config
from engine.sampling.calls import call_pipeline, check_finite, parked_denoisers, pipeline_arguments
from engine.sampling.idle import decoding_only_scales, row_axes, spatial_latents
from engine.sampling.joining import Axes
from engine.sampling.previews import Previews
from engine.sampling.recording import MEASURED_STEPS, Recorder, StepRecord
from engine.sampling.room import raise_if_lost
from engine.sampling.spectra import octaves, sketch
from engine.sampling.standins import family, model_config
from engine.study.cells import Cell, frame_steps
from engine.study.frame_settings import FrameSettings


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
    """The result of one cell.

    Attributes:
        cell: The cell.
        nfe: Counted denoiser calls.
        config: The scheduler's resolved configuration; None if it could not be built.
        steps: A record of every step.
        distances: (step_index, relative L2 distance of x0 to the final latents) of the measured steps.
        motion: (step_index, mean squared difference of neighbouring frames of x0) of the measured steps of a clip.
        spectra: (metric, step_index, value) of the measured steps: x0 compared with the final latents by octave.
        sketches: (step_index, sketch of x0) of the measured steps.
        latents: Final latents in the scheduler's layout with a batch axis of 1; None if the cell failed or after
            decoding.
        final: The same without the batch axis, as float32 numpy.
        pictures: Encoded frames, including the final picture; empty until encoded.
        error: Why the cell failed, or None.
        origin: The pipeline call, for decoding.
        measurable: Data that remain to be measured, or None.
        decoded: Pictures that remain to be encoded.
        max_batch: Most cells that could share its forwards when it was finished.
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
    measurable: "Measurable | None" = None
    decoded: "list[Decoded]" = field(default_factory=list)
    max_batch: int | None = None

    def fail(self, error: Exception) -> None:
        """Marks the cell as failed and drops its measurements."""
        self.error = f"{type(error).__name__}: {error}"[:2000]
        self.steps, self.distances, self.motion, self.spectra, self.sketches = [], [], [], [], []
        self.pictures, self.decoded, self.measurable = [], [], None
        self.latents = self.final = None


@dataclass(frozen=True)
class Measurable:
    """Data of a finished cell on the host, to be measured without the device.

    Attributes:
        indices: The measured steps.
        clean: x0 of these steps, (steps, ...), in the scheduler's layout.
        spatial: The same in the autoencoder's layout, up to a common factor.
        final: The final latents in the autoencoder's layout, without a batch axis.
    """

    indices: list[int]
    clean: np.ndarray
    spatial: np.ndarray
    final: np.ndarray


class CellMaker:
    """Makes cells of one pipeline, whose properties are learnt once for all cells.

    Args:
        pipe: The pipeline, shared by all cells.
        first: One of the cells; the others may differ in lane, prompt and seed.
        settings: Which steps are stored as pictures.
        previews: Shows the running cells.
    """

    def __init__(
        self, pipe: DiffusionPipeline, first: Cell, settings: FrameSettings, previews: Previews | None = None
    ) -> None:
        self._pipe, self._first, self._settings, self._previews = pipe, first, settings, previews
        self._style = family(pipe).style
        self._schedulers = Schedulers(model_config(pipe))
        self._only_scales: bool | None = None
        self._channels = channels_of(getattr(getattr(pipe, "vae", None), "config", None))

    @cached_property
    def _axes(self) -> Axes | None:
        return row_axes(self._pipe, pipeline_arguments(self._pipe, self._first))

    def make(self, cell: Cell) -> Sample:
        """Makes a cell up to its final latents, inside a greenlet of the hub."""
        sample, parked = Sample(cell, nfe=0), {}
        try:
            scheduler = self._schedulers.fresh(cell.lane, cell.seed)
            sample.config = resolved_config(scheduler)
            generator = torch.Generator("cpu").manual_seed(cell.seed)
            recorder = Recorder(
                scheduler, partial(_kept, self._settings), self._style, generator, partial(_noisy, self._settings)
            )
            parked = parked_denoisers(self._pipe, self._axes, recorder)
            arguments = pipeline_arguments(self._pipe, cell)
            if self._previews is not None:
                self._previews.enter(cell, recorder, frames.Origin(arguments, cell.seed))
            sample.latents = call_pipeline(self._pipe, arguments, recorder, parked, generator)
            sample.origin = frames.Origin(arguments, cell.seed, generator.get_state())
            recorder.detach()
            sample.measurable = self._on_host(sample, recorder)
            sample.distances = recorder.distances(sample.latents)
            sample.steps = recorder.steps
        except Exception as error:
            raise_if_lost(error)
            sample.fail(error)
        finally:
            if self._previews is not None:
                self._previews.leave(cell)
        sample.nfe = sum(denoiser.calls for denoiser in parked.values())
        return sample

    def measure(self, sample: Sample) -> None:
        """Measures the steps of a finished cell from data on the host; may run in any thread."""
        left, sample.measurable = sample.measurable, None
        if left is None:
            return
        sample.motion = list(zip(left.indices, self._motion(left), strict=False))
        found = octaves(left.spatial, left.final)
        sample.spectra = [(metric, left.indices[place], value) for metric, place, value in found]
        sample.sketches = list(zip(left.indices, sketch(left.clean), strict=True))

    def _on_host(self, sample: Sample, recorder: Recorder) -> Measurable:
        """Copies the steps and the final latents from the device in one transfer.

        Raises:
            FloatingPointError: The final latents are not finite.
        """
        assert sample.latents is not None  # called for finished samples only
        indices, clean = recorder.measured()
        both = torch.cat([clean, sample.latents.float()]).cpu()
        check_finite(both[-1])
        sample.final = both[-1].numpy()
        spatial, final = self._spatial(clean, sample) or (both[:-1].numpy(), both[-1].numpy())
        return Measurable(indices, both[:-1].numpy(), spatial, final)

    def _motion(self, left: Measurable) -> list[float]:
        """Motion energy of x0 at each step, unpacked if necessary; empty for pictures."""
        rows = left.clean if left.clean.ndim == 5 else left.spatial
        axis = frame_axis(rows.shape[1:], self._channels)
        if axis is None or rows.shape[1:][axis] < 2:
            return []
        return [energy_between(row, axis) for row in rows]

    def _spatial(self, clean: torch.Tensor, sample: Sample) -> tuple[np.ndarray, np.ndarray] | None:
        """x0 of all steps and the final latents in the autoencoder's layout; None if decoding only scales them."""
        final, origin = sample.latents, sample.origin
        assert final is not None  # as in _on_host
        assert origin is not None
        try:
            if self._only_scales is None:
                self._only_scales = decoding_only_scales(self._pipe, final, origin.arguments, origin.seed)
            if self._only_scales:
                return None
            size = frames.together(self._pipe, final, origin.arguments)
            unpack = partial(spatial_latents, self._pipe, arguments=origin.arguments, seed=origin.seed)
            unpacked = torch.cat([unpack(rows).float() for rows in (*clean.to(final).split(size), final)]).cpu().numpy()
        except ValueError:  # the pipeline decodes in another way: measure the latents as they are
            self._only_scales = True
            return None
        return unpacked[:-1], unpacked[-1]


@dataclass(frozen=True)
class Decoders:
    """Two copies of a pipeline, one to decode final pictures and one for steps; they may be the same.

    Attributes:
        alone: Whether latents are decoded one by one, with the bits of a plain call.
    """

    final: DiffusionPipeline
    steps: DiffusionPipeline
    alone: bool

    def of(self, kind: str) -> DiffusionPipeline:
        """The one for a kind of picture."""
        return self.final if kind == "final" else self.steps


def decode_samples(
    decoders: Decoders, samples: list[Sample], settings: FrameSettings, previews: Previews | None = None
) -> list[Sample]:
    """Decodes the final latents and the stored steps of several samples together; previews learn from the pictures.

    A sample whose final picture can't be decoded fails; a step that can't be decoded is left out.
    """
    if decoders.alone:
        for sample in samples:
            _decode_alone(decoders, sample, settings, previews)
        return _freed(samples)
    try:
        for sample in samples:
            sample.decoded = []
        entries = [entry for sample in samples for entry in _wanted(sample, settings)]
        for pipe in dict.fromkeys((decoders.final, decoders.steps)):
            _decode(pipe, [entry for entry in entries if decoders.of(entry.kind) is pipe], previews)
    except Exception as error:
        raise_if_lost(error)
        for sample in samples:
            _decode_alone(decoders, sample, settings)
    return _freed(samples)


def _freed(samples: list[Sample]) -> list[Sample]:
    for sample in samples:
        if sample.latents is not None and sample.latents.device.type != "cpu":  # room for others
            sample.steps = [replace(step, x_t=None, x0=None) for step in sample.steps]
        sample.latents = sample.origin = None
    return samples


def encode_sample(sample: Sample) -> None:
    """Encodes a sample's decoded pictures; may run in any thread."""
    decoded, sample.decoded = sample.decoded, []
    sample.pictures = [_picture(each, sample) for each in decoded]


@dataclass(frozen=True)
class Decoded:
    """A picture, (height, width, 3) bytes: the final one, or that of a step."""

    kind: str
    step: StepRecord | None
    video_frame: int
    picture: np.ndarray


@dataclass(frozen=True)
class _Entry:
    """Latents to decode: the final ones, or those of a step."""

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


def _decode(pipe: DiffusionPipeline, entries: list[_Entry], previews: Previews | None = None) -> None:
    if not entries:
        return
    stacked = torch.cat([entry.latents.to(entries[0].latents) for entry in entries])
    origins = [entry.sample.origin for entry in entries if entry.sample.origin is not None]
    for entry, pictures in zip(entries, frames.decode(pipe, stacked, origins), strict=True):
        found = [Decoded(entry.kind, entry.step, number, picture) for number, picture in enumerate(pictures)]
        entry.sample.decoded += found
        if previews is not None and entry.kind != "xt" and len(pictures) == 1:
            previews.learn(entry.latents, pictures[0])


def _decode_alone(
    decoders: Decoders, sample: Sample, settings: FrameSettings, previews: Previews | None = None
) -> None:
    sample.decoded = []
    try:
        for entry in _wanted(sample, settings):
            try:
                _decode(decoders.of(entry.kind), [entry], previews)
            except FloatingPointError:
                if entry.kind == "final":
                    raise
    except Exception as error:
        raise_if_lost(error)
        sample.fail(error)


def _picture(decoded: Decoded, sample: Sample) -> Picture:
    format: frames.Format = "png" if decoded.kind == "final" else "webp"
    step, picture = decoded.step, decoded.picture
    at = step or sample.steps[-1]
    return Picture(
        kind=decoded.kind,
        step_index=at.step_index,
        progress=(at.step_index + 1) / len(sample.steps),
        timestep=step.timestep if step else None,
        log_snr=step.log_snr if step else None,
        width=picture.shape[1],
        height=picture.shape[0],
        format=format,
        data=frames.encode(picture, format),
        video_frame=decoded.video_frame,
    )


def _kept(settings: FrameSettings, calls: int) -> set[int]:
    """Steps whose x0 is kept until the end of the run: stored frames and measured steps."""
    measured = FrameSettings(count=MEASURED_STEPS)
    return {*frame_steps(settings, calls), *frame_steps(measured, calls)}


def _noisy(settings: FrameSettings, calls: int) -> set[int]:
    """Steps whose noisy latents are stored as frames."""
    return set(frame_steps(settings, calls)) if "xt" in settings.kinds else set()
