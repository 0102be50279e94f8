"""Rows of the cache as plain records: what the engine hands to the writer."""

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["done", "failed"]


@dataclass(frozen=True)
class FrameRow:
    """A picture of a step, or the final one."""

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
class StepMetricRow:
    """A number measured at a step."""

    step_index: int
    progress: float
    log_snr: float | None
    metric: str
    value: float


@dataclass(frozen=True)
class SketchRow:
    """x0 of a step in few numbers: 128 x float16."""

    step_index: int
    progress: float
    log_snr: float | None
    sketch: bytes


@dataclass(frozen=True)
class LatentsRow:
    """Final latents: float32 bytes in C order, and their shape such as "4x64x64"."""

    shape: str
    data: bytes


@dataclass(frozen=True)
class TrajectoryRow:
    """A cell with its outcome, its frames and its step metrics."""

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
    latents: LatentsRow | None = field(default=None, repr=False)
    frames: tuple[FrameRow, ...] = field(default=(), repr=False)
    step_metrics: tuple[StepMetricRow, ...] = field(default=(), repr=False)
    sketches: tuple[SketchRow, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class TimingRow:
    """Seconds of one stage in one repeat."""

    scheduler: str
    steps: int
    lane: str
    config_id: str
    width: int
    height: int
    dtype: str
    guided: bool
    batch_size: int
    repeat: int
    stage: str
    seconds: float
    nfe: int
