"""Writes a large synthetic cache: 100,000 frames and 1,000,000 step metrics, to see whether pages stay quick.

    python tests/dashboard/big_cache.py PATH [--share 1.0]

The rows are made up, but written to the tables that the engine writes, in groups as the engine commits them.
"""

import argparse
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from engine.cache.connection import writing
from engine.cache.records import TrajectoryRow
from engine.cache.rows import put
from engine.cache.score_tables import MetricRow, record
from engine.cache.writer import CacheWriter
from engine.study.plan import Cell

# 250 denoiser calls together; times 8 metrics, 50 prompts and 10 seeds: 1,000,000 rows.
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


def write(path: Path, share: float = 1.0) -> None:
    """Writes the cache; `share` of the prompts, for a quick try."""
    synthetic = _synthetic()
    prompts = [f"made-up prompt {number}" for number in range(max(1, round(PROMPTS * share)))]
    study = synthetic.study(
        NAME, lanes=LANES, prompts=prompts, seeds=range(SEEDS), repeats=20, frames={"count": FRAMES}
    )
    writer = CacheWriter(path)
    cells = synthetic.begin(writer, study)
    for first in range(0, len(cells), CELLS_AT_ONCE):
        group = cells[first : first + CELLS_AT_ONCE]
        with writing(path) as db:
            for table, rows in (
                ("trajectories", pa.Table.from_pylist([_trajectory(cell, study, synthetic) for cell in group])),
                ("frames", pa.Table.from_pylist([row for cell in group for row in _frames(cell, study, synthetic)])),
                ("latents", pa.Table.from_pylist([_latents(cell) for cell in group])),
                ("steps", _steps(group)),
                ("scores", pa.Table.from_pylist([row for cell in group for row in _scores(cell)])),
            ):
                put(db, table, rows)
    record(path, NAME, METRICS, [])
    lanes = {cell.lane.key: cell for cell in cells}
    rows = [row for cell in lanes.values() for row in synthetic.timing_rows(cell, study, synthetic.LAPTOP)]
    writer.timings(rows, synthetic.MODEL, synthetic.LAPTOP)


def _trajectory(cell: Cell, study: Any, synthetic: ModuleType) -> dict[str, Any]:
    row = synthetic.outcome(cell, study.frames, pictures=False)
    plain = {field.name: getattr(row, field.name) for field in fields(TrajectoryRow)}
    plain = {name: value for name, value in plain.items() if not isinstance(value, tuple) and name != "latents"}
    return plain | {
        "scheduler_config": json.dumps({}),
        "model_id": synthetic.MODEL.model_id,
        "environment_id": synthetic.LAPTOP.environment_id,
        "created_at": np.datetime64("2026-11-01T12:00:00", "us").item(),
    }


def _frames(cell: Cell, study: Any, synthetic: ModuleType) -> Iterator[dict[str, Any]]:
    calls = cell.lane.scheduler.expected_calls(cell.lane.steps)
    for frame in synthetic.frames_of(cell, study.frames, calls):
        yield {"trajectory_id": cell.trajectory_id, **vars(frame)}


def _latents(cell: Cell) -> dict[str, Any]:
    values = np.random.default_rng(cell.seed).standard_normal((4, 8, 8)).astype("<f4")
    return {"trajectory_id": cell.trajectory_id, "shape": "4x8x8", "data": values.tobytes()}


def _steps(cells: Sequence[Cell]) -> pa.Table:
    generator = np.random.default_rng(0)
    rows = []
    for cell in cells:
        steps = cell.lane.steps
        progress = (np.arange(steps) + 1) / steps
        # (steps, metrics): those of x0, and one an octave.
        values = (1 - progress[:, None]) ** 2 + 0.1 * generator.random((steps, len(STEP_METRICS) + OCTAVES))
        for step, (share, numbers) in enumerate(zip(progress.tolist(), values.tolist(), strict=True)):
            rows.append(
                {
                    "trajectory_id": cell.trajectory_id,
                    "step_index": step,
                    "progress": share,
                    "log_snr": 12 * share - 6,
                    **dict(zip(STEP_METRICS, numbers, strict=False)),
                    "power": numbers[len(STEP_METRICS) :],
                }
            )
    return pa.Table.from_pylist(rows)


def _scores(cell: Cell) -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng([cell.seed, cell.lane.steps, len(cell.prompt)])
    for metric, middle in zip(METRICS, (2.0 / cell.lane.steps, 30.0, 0.9, 25.0), strict=True):
        value = middle * float(generator.normal(1, 0.05))
        yield {
            "scope": "picture",
            "trajectory_id": cell.trajectory_id,
            "metric": metric.metric,
            "metric_version": metric.metric_version,
            "value": value,
        }


def _synthetic() -> ModuleType:
    spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    write(given.path, given.share)
