"""Records that the engine hands to the cache writer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["done", "failed"]


@dataclass(frozen=True)
class FrameRow:
    """A picture of one step, or the final picture; see the table `frames`."""

    kind: str
    step_index: int
    progress: float
    timestep: float | None
    log_snr: float | None
    width: int
    height: int
    format: str
    image: bytes
    video_frame: int = 0


@dataclass(frozen=True)
class StepRow:
    """Measurements at one denoiser call; see the table `steps`.

    Attributes:
        power: By octave; None where the final latents have no power.
        coherence: By octave; None likewise.
        sketch: x0 as 128 x float16.
    """

    step_index: int
    progress: float
    log_snr: float | None
    x0_change: float | None = None
    x0_distance: float | None = None
    motion_energy: float | None = None
    guidance_energy: float | None = None
    power: tuple[float | None, ...] | None = None
    coherence: tuple[float | None, ...] | None = None
    sketch: bytes | None = field(default=None, repr=False)


def step_rows(
    measured: Iterable[tuple[str, int, float]], sketches: Mapping[int, bytes], levels: Sequence[float | None]
) -> tuple[StepRow, ...]:
    """Collects the measurements of a run by step; steps without any are left out.

    Args:
        measured: (metric, step_index, value); the metric of an octave is `power_OCTAVE` or `coherence_OCTAVE`.
        sketches: By step_index.
        levels: log-SNR of each call.
    """
    numbers: dict[int, dict[str, Any]] = {index: {"sketch": sketch} for index, sketch in sketches.items()}
    for metric, index, value in measured:
        step, (name, _, octave) = numbers.setdefault(index, {}), metric.partition("_")
        if name in ("power", "coherence"):
            # Octaves are 0, 1, 2, 4, 8, ...
            place, known = int(octave).bit_length(), step.get(name, ())
            padded = list(known) + [None] * (place + 1 - len(known))
            step[name] = (*padded[:place], value, *padded[place + 1 :])
        else:
            step[metric] = value
    return tuple(
        StepRow(index, (index + 1) / max(len(levels), 1), levels[index], **step)
        for index, step in sorted(numbers.items())
    )


@dataclass(frozen=True)
class LatentsRow:
    """Final latents: float32 bytes in C order, and their shape such as "4x64x64"."""

    shape: str
    data: bytes


@dataclass(frozen=True)
class TrajectoryRow:
    """A cell with its outcome, frames and step measurements; see the table `trajectories`."""

    trajectory_id: str
    scheduler: str
    scheduler_label: str
    steps: int
    lane: str
    config_id: str
    scheduler_config: dict[str, Any] | None
    prompt: str
    negative_prompt: str
    seed: int
    guidance_scale: float
    width: int
    height: int
    dtype: str
    status: Status
    nfe: int | None = None
    error: str | None = None
    frame_count: int = 0
    frame_kinds: str = ""
    reading: str | None = None
    max_batch: int | None = None
    max_batch_by: str | None = None
    frame_decoder: str | None = None
    latents: LatentsRow | None = field(default=None, repr=False)
    frames: tuple[FrameRow, ...] = field(default=(), repr=False)
    measured: tuple[StepRow, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class TimingRow:
    """Duration of one stage in one repeat, with the load by other processes and the energy; see the table `timings`."""

    scheduler: str
    steps: int
    lane: str
    config_id: str
    width: int
    height: int
    dtype: str
    guided: bool
    arguments: str
    batch_size: int
    repeat: int
    stage: str
    seconds: float
    nfe: int
    other_load: float | None = None
    joules: float | None = None
    energy: str | None = None
