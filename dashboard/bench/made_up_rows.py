"""Synthetic results of cells, as the records that the engine writes; used by the bench and by tests of the pages."""

import functools
import io

import numpy as np
from PIL import Image, ImageDraw

from engine.cache.records import FrameRow, TimingRow, TrajectoryRow
from engine.environment import Environment
from engine.study.cells import Cell, frame_steps
from engine.study.frame_settings import FrameSettings
from engine.study.source import ModelSource
from engine.study.study import Study

MODEL = ModelSource(
    name="bundled",
    kind="folder",
    folder=None,
    revision="",
    fingerprint="f" * 64,
    pipeline="StableDiffusionPipeline",
    size=(64, 64),
    scheduler_config={"num_train_timesteps": 1000},
)
LAPTOP = Environment("cpu", "Example CPU, 2 cores", "standard", "2.13.0", "0.42.1", {"cores": 2})
SERVER = Environment("cuda", "Example GPU", "standard", "2.13.0", "0.42.1", {})
CALL_SECONDS = {LAPTOP.device_name: 0.016, SERVER.device_name: 0.002}
SIDE = 64


def finished_cell(cell: Cell, settings: FrameSettings, *, pictures: bool = True) -> TrajectoryRow:
    """The record of a finished cell."""
    calls = cell.lane.scheduler.expected_calls(cell.lane.steps)
    return TrajectoryRow(
        trajectory_id=cell.trajectory_id,
        scheduler=cell.lane.scheduler.key,
        scheduler_label=cell.lane.scheduler.label,
        steps=cell.lane.steps,
        lane=cell.lane.key,
        config_id=cell.config_id,
        scheduler_config={},
        prompt=cell.prompt,
        negative_prompt="",
        seed=cell.seed,
        guidance_scale=cell.guidance_scale,
        width=cell.width,
        height=cell.height,
        dtype=cell.dtype,
        status="done",
        nfe=calls,
        frames=frame_rows(cell, settings, calls) if pictures else (),
        frame_count=settings.count,
        frame_kinds=",".join(settings.kinds),
    )


def frame_rows(cell: Cell, settings: FrameSettings, calls: int) -> tuple[FrameRow, ...]:
    """Step frames that become clear from noise, and the final picture."""
    rows = []
    for step in frame_steps(settings, calls):
        progress = (step + 1) / calls
        for kind in settings.kinds:
            image = drawing(_hue(cell.prompt), cell.seed, kind, round(progress, 1))
            rows.append(_row(kind, step, progress, image, "webp"))
    return (*rows, _row("final", calls - 1, 1.0, drawing(_hue(cell.prompt), cell.seed, "final", 1.0), "png"))


@functools.cache
def drawing(hue: int, seed: int, kind: str, progress: float) -> bytes:
    """A disc of the given hue, at a position that depends on the seed, emerging from grey (x0) or noise (xt)."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    left = 8 + 4 * (seed % 4)
    ImageDraw.Draw(image).ellipse((left, 12, left + 40, 52), fill=f"hsl({hue},70%,50%)")
    noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3))
    clear = progress ** (2.0 if kind == "xt" else 0.5)
    mixed = clear * np.asarray(image, dtype=np.float64) + (1 - clear) * (noise if kind == "xt" else 128)
    stream = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8)).save(stream, "PNG" if kind == "final" else "WEBP")
    return stream.getvalue()


def timing_rows(cell: Cell, study: Study, environment: Environment) -> list[TimingRow]:
    """Timing samples of a lane: proportional to its calls, with a little noise."""
    generator = np.random.default_rng(cell.lane.steps)
    calls = cell.lane.scheduler.expected_calls(cell.lane.steps)
    rows = []
    for batch in study.timing.batch_sizes:
        for repeat in range(study.timing.repeats):
            denoiser = calls * batch**0.8 * CALL_SECONDS[environment.device_name] * generator.normal(1, 0.02)
            stages = {"text": 0.006, "denoiser": denoiser, "scheduler": calls * 0.0004, "decode": 0.02, "other": 0.004}
            stages["total"] = sum(stages.values())
            rows += [
                TimingRow(
                    scheduler=cell.lane.scheduler.key,
                    steps=cell.lane.steps,
                    lane=cell.lane.key,
                    config_id=cell.config_id,
                    width=cell.width,
                    height=cell.height,
                    dtype=cell.dtype,
                    guided=cell.guidance_scale > 1,
                    arguments="",
                    batch_size=batch,
                    repeat=repeat,
                    stage=stage,
                    seconds=seconds,
                    nfe=calls,
                )
                for stage, seconds in stages.items()
            ]
    return rows


def _hue(prompt: str) -> int:
    return sum(prompt.encode()[:50]) % 360


def _row(kind: str, step: int, progress: float, image: bytes, image_format: str) -> FrameRow:
    return FrameRow(kind, step, progress, 1000 * (1 - progress), 12 * progress - 6, SIDE, SIDE, image_format, image)
