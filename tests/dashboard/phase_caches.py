"""Caches whose cells have recorded steps with known phases, scored frames and changes of prompt."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engine.cache.connection import writing
from engine.cache.records import TrajectoryRow, step_rows
from engine.cache.score_tables import ScoreRow, record, write_scores
from engine.cache.swap_tables import SwapRow
from engine.cache.swap_tables import write_swaps as write_swap_rows
from engine.cache.writer import CacheWriter
from engine.study.cells import Cell, cells
from engine.study.prompt_swaps import swaps

LANES = ("ddim:50", "dpmpp_2m:20")
PROMPTS = tuple(f"p{number}" for number in range(6))


def with_steps(row: TrajectoryRow, cell: Cell, *, older: bool = False, clips: bool = False) -> TrajectoryRow:
    """A cell whose x0 moves evenly from log-SNR -2 to 2 and not elsewhere; `older`: as earlier versions recorded it."""
    calls = row.nfe or 0
    levels = np.linspace(-5, 5, calls)
    done = np.clip((levels + 2) / 4, 0, 1)
    metrics: dict[str, Any] = {"x0_distance": 1 - done, "x0_change": np.diff(done, prepend=np.nan)}
    if clips:
        metrics["motion_energy"] = np.where(levels < -2, 2.0, 1.0)
    if not older:
        metrics["guidance_energy"] = np.exp(-levels / 5)
        for octave, start in ((0, -1.0), (1, 0.0), (2, 1.0)):
            metrics[f"coherence_{octave}"] = np.ones(calls)
            metrics[f"power_{octave}"] = np.where(levels >= start, 1.0, 4.0)
    vector = np.random.default_rng(cell.seed).normal(size=(2, 128)).astype("<f2")
    sketches = {i: (vector[0] * done[i] + vector[1] * done[i] ** 2).astype("<f2").tobytes() for i in range(calls)}
    measured = [
        (metric, i, float(values[i]))
        for metric, values in metrics.items()
        for i in range(calls)
        if np.isfinite(values[i])
    ]
    return replace(row, measured=step_rows(measured, {} if older else sketches, levels.tolist()))


def write(
    path: Path, synthetic: ModuleType, *, older: bool = False, scored: bool = True, clips: bool = False, **changes: Any
) -> Any:
    """A finished study with recorded steps and scored frames; `clips`: motion settles at -2, appearance at 60 %."""
    plan = synthetic.study(**{"lanes": LANES, "prompts": PROMPTS, "seeds": (0, 1), "repeats": 0, **changes})
    writer = CacheWriter(path)
    planned = synthetic.begin(writer, plan)
    rows = [with_steps(synthetic.outcome(cell, plan.frames), cell, older=older, clips=clips) for cell in planned]
    writer.trajectories(rows, synthetic.MODEL, synthetic.LAPTOP)
    if scored:
        metrics = [
            synthetic.described("ssim_to_final", "SSIM", "", "neither", scope="frame"),
            synthetic.described("recognised", "Recognised", "share", "neither", scope="frame"),
            synthetic.described(
                "similarity_to_final",
                "CLIP",
                "cosine",
                "neither",
                scope="frame",
                unavailable=None if clips else "not available: no CLIP is here",
            ),
        ]
        record(path, plan.name, metrics, [])
        write_scores(
            path,
            [
                ScoreRow(
                    "frame",
                    metric,
                    "1",
                    float(value),
                    trajectory_id=row.trajectory_id,
                    kind="x0",
                    step_index=frame.step_index,
                )
                for row in rows
                for frame in row.frames
                if frame.kind == "x0"
                for metric, value in (
                    ("ssim_to_final", frame.progress),
                    ("recognised", frame.progress > 0.5),
                    *([("similarity_to_final", 1.0 if frame.progress > 0.6 else 0.5)] if clips else []),
                )
            ],
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
    write_swap_rows(path, rows)
    shown = cells(plan, synthetic.MODEL, "cpu"), synthetic.MODEL, synthetic.LAPTOP
    CacheWriter(path).begin(plan, *shown, [swap.swap_id for swap in asked])


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
        db.execute("UPDATE steps SET log_snr = NULL")
        db.execute("UPDATE frames SET log_snr = NULL")


def write_damaged(path: Path, synthetic: ModuleType) -> None:
    """Numbers that are none, and sketches that are torn: as a stranger's file may have them."""
    write_swaps(path, synthetic)
    with writing(path) as db:
        db.execute("UPDATE steps SET x0_change = 'nan', power = ['nan'::DOUBLE, 1] WHERE step_index = 3")
        db.execute("UPDATE steps SET x0_change = 'inf', power = ['inf'::DOUBLE], log_snr = '-inf' WHERE step_index = 4")
        db.execute("UPDATE scores SET value = 'inf' WHERE step_index = 0")
        db.execute("UPDATE steps SET sketch = 'abc'::BLOB WHERE step_index = 0")
        db.execute("UPDATE steps SET sketch = ? WHERE step_index = 1", [b"\xff" * 256])
        db.execute("UPDATE commitment SET progress = 'nan', log_snr = 'inf' WHERE share = 0.5")
