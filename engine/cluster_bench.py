"""What many machines would share: cells made by one worker of a Ray cluster and by two, and how fast one writer is."""

import datetime
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from engine.bench import LANES
from engine.cache import queries
from engine.cache.connection import reading
from engine.environment import cores
from engine.errors import LabError
from engine.passes.cluster import Cluster
from engine.passes.committing import GROUP_CELLS
from engine.passes.context import PassContext, open_context
from engine.passes.images import ImageJob, expected_calls, make_here, make_images
from engine.study.cells import Cell, cells
from engine.study.study import Study, parse_study

WORKERS = (1, 2)
# Sizes of cells: 64 pixels a side; 512 without step frames and with 24 of them; 1024 with 24.
CELL_MEGABYTES = (0.02, 0.5, 1.5, 4.5)
WRITING_SECONDS = 10.0


def run_cluster_bench(model: str, seeds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Makes the same cells with one worker, then with two; starts of Ray and loading of the model are left out.

    Args:
        model: Which model.
        seeds: So many pictures of each of 8 lanes and 2 prompts.
        say: Is told.

    Returns:
        Plain data: seconds by number of workers and their ratio, and cells a second of one writer by megabytes a cell.

    Raises:
        LabError: Ray is not installed, or this machine has a single core.
    """
    if cores() < max(WORKERS):
        raise LabError("Two workers with a core each need two cores.")
    plain = {"name": "cluster", "model": model, "prompts": ["red apple", "owl"], "seeds": list(range(seeds))}
    study = parse_study(plain | {"lanes": list(LANES), "guidance_scale": 2.0})
    seconds: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in WORKERS:
            with Cluster("local", workers, cores=max(WORKERS)) as cluster:
                context = open_context(study, Path(folder) / f"{workers}.duckdb", device="cpu", cluster=cluster)
                seconds[workers] = _seconds(context, study, workers)
            say(f"  {workers} worker{'s' if workers > 1 else ''}: {seconds[workers]:.1f} s")
        every = cells(study, context.source, "cpu")
        written = {size: _cells_a_second(context, every[0], study, size) for size in CELL_MEGABYTES}
    return {
        "environment": asdict(context.environment)
        | {"measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")},
        "model": model,
        "cells": len(every),
        "calls": expected_calls(every),
        "seconds": seconds,
        "two_over_one": seconds[2] / seconds[1],
        "cells_written_a_second_by_megabytes_a_cell": written,
    }


def describe_cluster_bench(result: dict[str, Any]) -> str:
    """The result as text."""
    one, two = (result["seconds"][workers] for workers in WORKERS)
    return "\n".join(
        [
            f"{result['cells']} cells of {result['model']}, {result['calls']:,} denoiser calls: {one:.1f} s with one "
            f"worker, {two:.1f} s with two, {result['two_over_one']:.2f} of it",
            "one writer, by size of a cell:",
            *(
                f"  {size:>5.1f} MB: {rate:>6.1f} cells a second, {size * rate:>4.0f} MB a second"
                for size, rate in result["cells_written_a_second_by_megabytes_a_cell"].items()
            ),
        ]
    )


def _seconds(context: PassContext, study: Study, workers: int) -> float:
    """Wall seconds from the moment that every worker is ready until all cells are written."""
    assert context.cluster is not None  # as above
    every = cells(study, context.source, "cpu")
    context.writer.begin(study, every, context.source, context.environment)
    others = itertools.count(10**6)
    while context.cluster.ready < workers:
        _make(context, cells(replace(study, seeds=(next(others), next(others))), context.source, "cpu"))
    start = time.perf_counter()
    _make(context, every)
    seconds = time.perf_counter() - start
    with reading(context.cache) as db:
        missing = len(every) - len(queries.finished(db, [cell.trajectory_id for cell in every]))
    if missing:
        raise RuntimeError(f"{missing} cells are missing.")
    return seconds


def _make(context: PassContext, wanted: Sequence[Cell]) -> None:
    make_images(context, [ImageJob(cell) for cell in wanted])


def _cells_a_second(context: PassContext, cell: Cell, study: Study, megabytes: float) -> float:
    """Cells of a size that one writer commits in a second, in groups as a run commits them."""
    [row] = make_here(context, [ImageJob(cell, study.frames)])
    pictures, numbers = len(row.frames), itertools.count()
    spent: list[float] = []
    while sum(spent) < WRITING_SECONDS:
        group = [
            replace(
                row,
                trajectory_id=f"{megabytes}-{next(numbers)}",
                frames=tuple(replace(frame, image=os.urandom(int(megabytes * 1e6 / pictures))) for frame in row.frames),
            )
            for _ in range(GROUP_CELLS)
        ]
        start = time.perf_counter()
        context.writer.trajectories(group, context.source, context.environment)
        spent.append(time.perf_counter() - start)
    return GROUP_CELLS * len(spent) / sum(spent)
