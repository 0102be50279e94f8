"""The timing pass: each lane by itself, samples written round by round."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.cache import queries
from engine.cache.connection import Connection, reading
from engine.cache.records import TimingRow
from engine.environment import Environment
from engine.passes.context import PassContext, PassOutcome
from engine.study.cells import Cell
from engine.study.source import ModelSource
from engine.study.study import TimingSettings

if TYPE_CHECKING:
    from engine.measuring.lane_timing import TimingJob, TimingSample


@dataclass(frozen=True)
class MissingTiming:
    """A lane that lacks timing samples at a batch size.

    Attributes:
        cell: Any cell of the lane.
        begin: Number of the first sample to take. A number stands for a round: samples with the same one are paired.
        missing: Samples to take.
    """

    cell: Cell
    batch_size: int
    begin: int
    missing: int


def missing_timings(
    db: Connection | None,
    cells: Sequence[Cell],
    settings: TimingSettings,
    source: ModelSource,
    environment: Environment,
    *,
    anew: bool = False,
) -> list[MissingTiming]:
    """What a cache lacks for the lanes of the cells, in their order, in this environment.

    Whatever is taken begins with a new round, as no lane can join one that is over. `anew`: as if the cache had none.
    """
    guided = any(cell.guidance_scale > 1 for cell in cells)
    timed = queries.timed_repeats(db, environment.environment_id, source.model_id, guided) if db is not None else {}
    lanes = first_of_each_lane(cells)
    found = []
    for batch_size in settings.batch_sizes:
        calls = [(one.config_id, batch_size, one.width, one.height, one.dtype, one.pipeline.digest) for one in lanes]
        have = [timed.get(call, (0, 0)) for call in calls]
        begin = max(after for _, after in have)
        for cell, (count, _) in zip(lanes, have, strict=True):
            missing = settings.repeats - (0 if anew else count)
            if missing > 0:
                found.append(MissingTiming(cell, batch_size, begin, missing))
    return found


def timing_calls(timings: Sequence[MissingTiming], warmup: int) -> int:
    """Expected denoiser calls, warm-up included, weighted with the batch size."""
    return sum(
        timing.cell.lane.scheduler.expected_calls(timing.cell.lane.steps)
        * (timing.missing + warmup)
        * timing.batch_size
        for timing in timings
    )


def take_times(
    context: PassContext, timings: Sequence[MissingTiming], cells: Sequence[Cell], warmup: int
) -> PassOutcome:
    """Times lanes, interleaved, on the first of the cells that came out; a lane without any is not timed.

    Returns:
        Samples taken, and lanes that could not be timed.
    """
    from engine.measuring.lane_timing import TimingJob

    if context.cluster is not None:
        context.cluster.dismiss()  # whoever is timed has this machine to itself
    progress, alive = context.progress, _finished_by_lane(context, cells)
    taken = untimed = 0
    for lane in dict.fromkeys(timing.cell.lane.key for timing in timings):
        if lane not in alive:
            untimed += 1
            progress.note(f"Not timed: {lane}: none of its pictures was finished.")
    jobs = [
        TimingJob(alive[timing.cell.lane.key], timing.batch_size, timing.begin, timing.missing)
        for timing in timings
        if timing.cell.lane.key in alive
    ]
    progress.start("timing", sum(job.repeats for job in jobs), "samples")
    rows: list[TimingRow] = []
    waiting = 0
    try:
        for sample in _timed(context, jobs, warmup):
            if sample.error is not None:
                untimed += 1
                progress.note(f"Not timed: {sample.job.cell.lane.key}: {sample.error}")
                continue
            rows += timing_rows(sample)
            waiting += 1
            if waiting >= len(jobs):  # a round
                context.writer.timings(rows, context.source, context.environment)
                rows, waiting = [], 0
            taken += 1
            progress.advance(1, sample.job.cell.lane.key)
    finally:
        # Also when the run is interrupted: what was measured is kept.
        if rows:
            context.writer.timings(rows, context.source, context.environment)
    return PassOutcome(taken, untimed)


def _timed(context: PassContext, jobs: Sequence["TimingJob"], warmup: int) -> "Iterator[TimingSample]":
    """Samples; of plain forwards if only those that make cells are compiled."""
    from engine.measuring.lane_timing import time_lanes
    from engine.sampling.compiling import uncompiled

    with uncompiled(context.model) if context.compiling == "cells" else nullcontext():
        yield from time_lanes(context.model, jobs, warmup)


def timing_rows(sample: "TimingSample") -> list[TimingRow]:
    """A sample as it is stored: one row for each stage."""
    cell = sample.job.cell
    return [
        TimingRow(
            scheduler=cell.lane.scheduler.key,
            steps=cell.lane.steps,
            lane=cell.lane.key,
            config_id=cell.config_id,
            width=cell.width,
            height=cell.height,
            dtype=cell.dtype,
            guided=cell.guidance_scale > 1,
            arguments=cell.pipeline.digest,
            batch_size=sample.job.batch_size,
            repeat=sample.repeat,
            stage=stage,
            seconds=seconds,
            nfe=sample.nfe,
            other_load=sample.other_load,
            joules=sample.joules if stage == "total" else None,
            energy=sample.energy if stage == "total" else None,
        )
        for stage, seconds in sample.seconds.items()
    ]


def first_of_each_lane(cells: Sequence[Cell]) -> list[Cell]:
    """One cell of each lane, in the order in which the lanes come."""
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell.lane.key, cell)
    return list(found.values())


def _finished_by_lane(context: PassContext, cells: Sequence[Cell]) -> dict[str, Cell]:
    """The first finished cell of each lane that has one."""
    with reading(context.cache) as db:
        done = queries.finished(db, [cell.trajectory_id for cell in cells])
    return {cell.lane.key: cell for cell in first_of_each_lane([c for c in cells if c.trajectory_id in done])}
