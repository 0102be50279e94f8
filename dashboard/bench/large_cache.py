"""Makes up a large cache, 100,000 frames and 1,000,000 step metrics, to see whether pages stay quick.

The rows go through the engine's own writers, in groups, as a run commits them.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dashboard.bench.made_up_rows import LAPTOP, MODEL, finished_cell, timing_rows
from engine.cache.quality import MetricRow, QualityWriter, ScoreRow, StudyMetricRow
from engine.cache.records import LatentsRow, StepMetricRow, TrajectoryRow
from engine.cache.writer import CacheWriter
from engine.study.cells import Cell, cells
from engine.study.study import Study, parse_study

# 250 denoiser calls together; times 8 metrics, 50 prompts and 10 seeds: 1,000,000 rows.
LANES = ("ddim:50", "ddpm:50", "lms:40", "euler:30", "euler_a:30", "dpmpp_2m:20", "unipc:18", "deis:12")
STEP_METRICS = ("x0_change", "x0_distance", "guidance_energy", *(f"spectrum_{band}" for band in range(5)))
PROMPTS, SEEDS, FRAMES = 50, 10, 12
CELLS_AT_ONCE = 400
NAME = "large"
METRICS = (
    MetricRow("latent_error", "1@made-up", "Latent error", "relative L2", "lower", 8, True, None, None, "made up"),
    MetricRow("psnr", "1@made-up", "PSNR to reference", "dB", "higher", 8, False, None, None, "made up"),
    MetricRow("ssim", "1@made-up", "SSIM to reference", "", "higher", 8, False, 2.0, 0.02, "made up"),
    MetricRow("clip_score", "1", "CLIP score", "100 cos", "higher", 8, False, 200.0, 0.5, "made up"),
)


def write_large_cache(path: Path, share: float = 1.0) -> None:
    """Writes the cache; `share` of the prompts, for a quick try."""
    study = _study(max(1, round(PROMPTS * share)))
    every = cells(study, MODEL, "cpu")
    writer, scores = CacheWriter(path), QualityWriter(path)
    writer.begin(study, every, MODEL, LAPTOP)
    generator = np.random.default_rng(0)
    for first in range(0, len(every), CELLS_AT_ONCE):
        group = every[first : first + CELLS_AT_ONCE]
        writer.trajectories([_trajectory(cell, study, generator) for cell in group], MODEL, LAPTOP)
        scores.scores([row for cell in group for row in _scores(cell)], [])
    scores.study(NAME, METRICS, [StudyMetricRow(row.metric, row.metric_version) for row in METRICS], [])
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
            "description": "Made up to see whether pages stay quick.",
        }
    )


def _trajectory(cell: Cell, study: Study, generator: np.random.Generator) -> TrajectoryRow:
    latents = np.random.default_rng(cell.seed).standard_normal((4, 8, 8)).astype("<f4")
    return replace(
        finished_cell(cell, study.frames),
        latents=LatentsRow("4x8x8", latents.tobytes()),
        step_metrics=tuple(_step_metrics(cell.lane.steps, generator)),
    )


def _step_metrics(steps: int, generator: np.random.Generator) -> Iterator[StepMetricRow]:
    progress = (np.arange(steps) + 1) / steps
    for metric in STEP_METRICS:
        values = (1 - progress) ** 2 + 0.1 * generator.random(steps)
        for index, (share, value) in enumerate(zip(progress.tolist(), values.tolist(), strict=True)):
            yield StepMetricRow(index, share, 12 * share - 6, metric, value)


def _scores(cell: Cell) -> Iterator[ScoreRow]:
    generator = np.random.default_rng([cell.seed, cell.lane.steps, len(cell.prompt)])
    for metric, middle in zip(METRICS, (2.0 / cell.lane.steps, 30.0, 0.9, 25.0), strict=True):
        value = middle * float(generator.normal(1, 0.05))
        yield ScoreRow(cell.trajectory_id, metric.metric, metric.metric_version, value)
