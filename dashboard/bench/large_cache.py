"""Creates a large synthetic cache of 100,000 frames and 1,000,000 step metrics, to measure the pages with.

Rows are written by the engine's own writers, in groups, as in a run.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dashboard.bench.made_up_rows import LAPTOP, MODEL, finished_cell, timing_rows
from engine.cache.records import LatentsRow, StepRow, TrajectoryRow
from engine.cache.score_tables import MetricRow, ScoreRow, record, write_scores
from engine.cache.writer import CacheWriter
from engine.study.cells import Cell, cells
from engine.study.study import Study, parse_study

# 250 denoiser calls in total; times 8 metrics, 50 prompts and 10 seeds: 1,000,000 values.
LANES = ("ddim:50", "ddpm:50", "lms:40", "euler:30", "euler_a:30", "dpmpp_2m:20", "unipc:18", "deis:12")
STEP_METRICS = ("x0_change", "x0_distance", "guidance_energy")
OCTAVES = 5
PROMPTS, SEEDS, FRAMES = 50, 10, 12
CELLS_AT_ONCE = 400
NAME = "large"
METRICS = tuple(
    MetricRow("picture", key, "1", label, unit, better, 8, None, zero, span, margin, True, False, "made up")
    for key, label, unit, better, zero, span, margin in (
        ("latent_error", "Latent error", "relative L2", "lower", True, None, None),
        ("psnr", "PSNR to reference", "dB", "higher", False, None, None),
        ("ssim", "SSIM to reference", "", "higher", False, 2.0, 0.02),
        ("clip_score", "CLIP score", "100 cos", "higher", False, 200.0, 0.5),
    )
)


def write_large_cache(path: Path, share: float = 1.0) -> None:
    """Writes the cache, with a share of the prompts for a quick test."""
    study = _study(max(1, round(PROMPTS * share)))
    every = cells(study, MODEL, "cpu")
    writer = CacheWriter(path)
    writer.begin(study, every, MODEL, LAPTOP)
    generator = np.random.default_rng(0)
    for first in range(0, len(every), CELLS_AT_ONCE):
        group = every[first : first + CELLS_AT_ONCE]
        writer.trajectories([_trajectory(cell, study, generator) for cell in group], MODEL, LAPTOP)
        write_scores(path, [row for cell in group for row in _scores(cell)])
    record(path, NAME, METRICS, [])
    lanes = {cell.lane.key: cell for cell in every}
    writer.timings([row for cell in lanes.values() for row in timing_rows(cell, study, LAPTOP)], MODEL, LAPTOP)


def _study(prompts: int) -> Study:
    return parse_study(
        {
            "name": NAME,
            "lanes": list(LANES),
            "prompts": [f"made-up prompt {number}" for number in range(prompts)],
            "seeds": list(range(SEEDS)),
            "timing": {"repeats": 20},
            "frames": {"count": FRAMES},
            "description": "Synthetic data to measure the pages with.",
        }
    )


def _trajectory(cell: Cell, study: Study, generator: np.random.Generator) -> TrajectoryRow:
    latents = np.random.default_rng(cell.seed).standard_normal((4, 8, 8)).astype("<f4")
    return replace(
        finished_cell(cell, study.frames),
        latents=LatentsRow("4x8x8", latents.tobytes()),
        measured=tuple(_steps(cell.lane.steps, generator)),
    )


def _steps(steps: int, generator: np.random.Generator) -> Iterator[StepRow]:
    progress = (np.arange(steps) + 1) / steps
    # (steps, metrics): those of x0, then one per octave.
    values = (1 - progress[:, None]) ** 2 + 0.1 * generator.random((steps, len(STEP_METRICS) + OCTAVES))
    for index, (share, numbers) in enumerate(zip(progress.tolist(), values.tolist(), strict=True)):
        of_x0, octaves = numbers[: len(STEP_METRICS)], numbers[len(STEP_METRICS) :]
        named = dict(zip(STEP_METRICS, of_x0, strict=True))
        yield StepRow(index, share, 12 * share - 6, **named, power=tuple(octaves))


def _scores(cell: Cell) -> Iterator[ScoreRow]:
    generator = np.random.default_rng([cell.seed, cell.lane.steps, len(cell.prompt)])
    for metric, middle in zip(METRICS, (2.0 / cell.lane.steps, 30.0, 0.9, 25.0), strict=True):
        value = middle * float(generator.normal(1, 0.05))
        yield ScoreRow("picture", metric.metric, metric.metric_version, value, trajectory_id=cell.trajectory_id)
