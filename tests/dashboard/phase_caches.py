"""Caches whose cells have recorded steps with known phases, scored frames and changes of prompt."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engine.cache.connection import writing
from engine.cache.phases import FrameMetricRow, PhasesWriter, SwapRow
from engine.cache.quality import FrameScoreRow
from engine.cache.records import SketchRow, StepMetricRow, TrajectoryRow
from engine.cache.writer import CacheWriter
from engine.study.cells import Cell
from engine.study.prompt_swaps import swaps

LANES = ("ddim:50", "dpmpp_2m:20")
PROMPTS = tuple(f"p{number}" for number in range(6))


def with_steps(row: TrajectoryRow, cell: Cell, *, older: bool = False) -> TrajectoryRow:
    """A cell whose x0 moves evenly from log-SNR -2 to 2 and not elsewhere; `older`: as earlier versions recorded it."""
    calls = row.nfe or 0
    levels = np.linspace(-5, 5, calls)
    done = np.clip((levels + 2) / 4, 0, 1)
    metrics: dict[str, Any] = {"x0_distance": 1 - done, "x0_change": np.diff(done, prepend=np.nan)}
    if not older:
        metrics["guidance_energy"] = np.exp(-levels / 5)
        for octave, start in ((0, -1.0), (1, 0.0), (2, 1.0)):
            metrics[f"coherence_{octave}"] = np.ones(calls)
            metrics[f"power_{octave}"] = np.where(levels >= start, 1.0, 4.0)
    vector = np.random.default_rng(cell.seed).normal(size=(2, 128)).astype("<f2")
    sketches = [
        SketchRow(
            i,
            (i + 1) / calls,
            float(levels[i]),
            (vector[0] * done[i] + vector[1] * done[i] ** 2).astype("<f2").tobytes(),
        )
        for i in range(calls)
    ]
    return replace(
        row,
        step_metrics=tuple(
            StepMetricRow(i, (i + 1) / calls, float(levels[i]), metric, float(values[i]))
            for metric, values in metrics.items()
            for i in range(calls)
            if np.isfinite(values[i])
        ),
        sketches=() if older else tuple(sketches),
    )


def write(path: Path, synthetic: ModuleType, *, older: bool = False, scored: bool = True, **changes: Any) -> Any:
    """A finished study with recorded steps and scored frames."""
    plan = synthetic.study(**{"lanes": LANES, "prompts": PROMPTS, "seeds": (0, 1), "repeats": 0, **changes})
    writer = CacheWriter(path)
    planned = synthetic.begin(writer, plan)
    rows = [with_steps(synthetic.outcome(cell, plan.frames), cell, older=older) for cell in planned]
    writer.trajectories(rows, synthetic.MODEL, synthetic.LAPTOP)
    if scored:
        phases = PhasesWriter(path)
        phases.frame_metrics(
            plan.name,
            [
                FrameMetricRow("ssim_to_final", "1", "SSIM", "", "structural similarity"),
                FrameMetricRow("recognised", "1", "Recognised", "share", "named by CLIP"),
                FrameMetricRow(
                    "similarity_to_final", "1", "CLIP", "cosine", "cosine", "not available: no CLIP is here"
                ),
            ],
        )
        phases.frame_scores(
            [
                FrameScoreRow(row.trajectory_id, "x0", frame.step_index, metric, "1", float(value))
                for row in rows
                for frame in row.frames
                if frame.kind == "x0"
                for metric, value in (("ssim_to_final", frame.progress), ("recognised", frame.progress > 0.5))
            ]
        )
    return plan


def write_swaps(path: Path, synthetic: ModuleType, *, failed: bool = False) -> None:
    """The same with changes of prompt: runs keep to the first prompt if they had it for half of the calls."""
    plan = write(path, synthetic, commitment={"prompts": [[f"a{n}", f"b{n}"] for n in range(5)], "at": [0.3, 0.5]})
    asked = swaps(plan, synthetic.MODEL, "cpu")
    rows = []
    for swap in asked:
        calls, keeps = swap.first.lane.steps, swap.share >= 0.5
        row = SwapRow(
            swap.swap_id,
            synthetic.LAPTOP.environment_id,
            synthetic.MODEL.model_id,
            swap.first.lane.key,
            swap.first.trajectory_id,
            swap.second.trajectory_id,
            swap.first.prompt,
            swap.second.prompt,
            swap.first.seed,
            7.5,
            swap.share,
        )
        outcome = (
            {"error": "ValueError: it broke"}
            if failed
            else {
                "calls": calls,
                "swap_call": swap.call(calls),
                "progress": swap.share,
                "first_distance": 0.1,
                "log_snr": None if swap.share == 1 else 10 * swap.share - 5,
                "second_distance": 0.9,
                "judge": "clip",
                "first_probability": 0.9 if keeps else 0.1,
                "image": synthetic.drawing(40, 0, "x0", 0.5),
            }
        )
        rows.append(replace(row, **outcome))
    writer = PhasesWriter(path)
    writer.swaps(rows)
    writer.study_swaps(plan.name, [swap.swap_id for swap in asked])


def write_three(path: Path, synthetic: ModuleType) -> None:
    for name in ("first", "second", "third"):
        write(path, synthetic, name=name, prompts=("x",), seeds=(0,))


def write_hostile(path: Path, synthetic: ModuleType) -> None:
    write(path, synthetic, prompts=(synthetic.HOSTILE, synthetic.LONG), seeds=(0,))


def write_half_run(path: Path, synthetic: ModuleType) -> None:
    """One lane done, one not begun yet."""
    plan = synthetic.study(lanes=LANES, prompts=PROMPTS, seeds=(0,), repeats=0)
    writer = CacheWriter(path)
    planned = synthetic.begin(writer, plan)
    rows = [with_steps(synthetic.outcome(c, plan.frames), c) for c in planned if c.lane.key == LANES[1]]
    writer.trajectories(rows, synthetic.MODEL, synthetic.LAPTOP)


def write_without_levels(path: Path, synthetic: ModuleType) -> None:
    write(path, synthetic)
    with writing(path) as db:
        db.execute("UPDATE step_metrics SET log_snr = NULL")
        db.execute("UPDATE frames SET log_snr = NULL")
        db.execute("UPDATE step_sketches SET log_snr = NULL")


def write_damaged(path: Path, synthetic: ModuleType) -> None:
    """Numbers that are none, and sketches that are torn: as a stranger's file may have them."""
    write_swaps(path, synthetic)
    with writing(path) as db:
        db.execute("UPDATE step_metrics SET value = 'nan' WHERE step_index = 3")
        db.execute("UPDATE step_metrics SET value = 'inf', log_snr = '-inf' WHERE step_index = 4")
        db.execute("UPDATE frame_quality SET value = 'inf' WHERE step_index = 0")
        db.execute("UPDATE step_sketches SET sketch = 'abc'::BLOB WHERE step_index = 0")
        db.execute("UPDATE step_sketches SET sketch = ? WHERE step_index = 1", [b"\xff" * 256])
        db.execute("UPDATE commitment SET progress = 'nan', log_snr = 'inf' WHERE share = 0.5")
