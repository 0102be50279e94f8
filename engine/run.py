"""Running a study: what the cache lacks is made, timed and written, group by group."""

import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cache.connection import migrate, reading
from engine.cache.queries import finished
from engine.cache.records import FrameRow, LatentsRow, TimingRow, TrajectoryRow, step_rows
from engine.cache.swap_tables import write_study_swaps
from engine.cache.writer import CacheWriter
from engine.outline import Outline, check_disk, outline
from engine.passes.scores import score
from engine.progress import Progress
from engine.study.plan import Cell
from engine.study.source import find_model
from engine.study.study import FrameSettings, Study

if TYPE_CHECKING:
    from engine.measuring.lane_timing import TimingSample
    from engine.sampling.image_pass import Sample
    from engine.sampling.models import Memory, Model

GROUP_CELLS = 16
GROUP_SECONDS = 5.0


@dataclass
class Summary:
    """What a run did.

    Attributes:
        cached: Cells that were there before.
        done: Cells made.
        failed: Cells and scores that failed, each a row with its error.
        timed: Timing samples taken.
        untimed: Lanes that could not be timed.
        references: Converged solutions made, checks included.
        swaps: Runs made whose prompt changes on the way.
        scored: Values of metrics taken.
        seconds: Wall seconds of the run.
    """

    cached: int = 0
    done: int = 0
    failed: int = 0
    timed: int = 0
    untimed: int = 0
    references: int = 0
    swaps: int = 0
    scored: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 if all is there, 1 if something failed."""
        return 1 if self.failed or self.untimed else 0


def run_study(
    study: Study,
    cache: Path,
    *,
    device: str = "auto",
    memory: "Memory" = "standard",
    max_batch: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Makes what a cache lacks of a study; a finished cell is never computed again.

    Each group of cells is committed by itself: a run that is stopped, even killed, loses at most the group in flight,
    and the next run goes on from there.

    Raises:
        LabError: Something on the user's side is wrong; raised before any work, except for a disk that fills up.
    """
    progress, start = progress or Progress(), time.monotonic()
    source = find_model(study.model)
    if source.fingerprint is None:
        from engine.sampling.models import fetch

        progress.note(f"Fetching {source.name} from the hub.")
        source = fetch(source)
    if cache.exists():
        migrate(cache)
    plan = outline(study, source, cache, device, memory)
    for lane, finding in plan.findings:
        progress.note(f"Lane '{lane.key}': {finding.message}")
    for note in plan.notes:
        progress.note(note)
    check_disk(plan, cache)
    progress.begin(plan.facts())
    summary = Summary(cached=len(plan.cells) - len(plan.missing))
    if plan.nothing_to_do:
        _begin(plan, CacheWriter(cache))
    else:
        _work(plan, cache, memory, max_batch, progress, summary)
    scoring = score(plan, cache, progress)
    summary.scored, summary.failed = scoring.scored, summary.failed + scoring.failed
    summary.seconds = time.monotonic() - start
    progress.finish({**asdict(summary), "study": study.name, "cache": str(cache)})
    return summary


def _work(
    plan: Outline, cache: Path, memory: "Memory", max_batch: int | None, progress: Progress, summary: Summary
) -> None:
    from engine.linting import store_lints
    from engine.sampling.building import build_scheduler
    from engine.sampling.image_pass import default_max_batch
    from engine.sampling.models import load

    dtype = plan.cells[0].dtype
    model = load(plan.source, plan.environment.device, dtype, memory)
    for lane in plan.study.lanes:
        build_scheduler(lane, model.pipe.scheduler.config)
    writer = CacheWriter(cache)
    _begin(plan, writer)
    writer.set_parameters(plan.source, model.parameters)
    references = [cell for pair in plan.references for cell in pair]
    store_lints(cache, [*plan.cells, *references], plan.source, model.pipe.scheduler.config)
    width, height = plan.cells[0].width, plan.cells[0].height
    together = max_batch or (1 if memory == "low" else default_max_batch(model.device, width, height))
    if plan.missing:
        _make_images(plan, model, writer, together, progress, summary)
    if plan.timings:
        _take_times(plan, model, writer, progress, summary)
    if plan.missing_references:
        frameless = replace(plan.study, frames=FrameSettings(count=0))
        converged, done = replace(plan, study=frameless, missing=plan.missing_references), summary.done
        _make_images(converged, model, writer, together, progress, summary, "references")
        summary.done, summary.references = done, summary.done - done
    if plan.missing_swaps:
        from engine.committing import commit

        summary.swaps, failed = commit(plan, model, cache, together, progress)
        summary.failed += failed


def _begin(plan: Outline, writer: CacheWriter) -> None:
    """Records what the study shows, before any of it is made."""
    writer.begin(plan.study, plan.cells, plan.source, plan.environment)
    if plan.swaps:
        write_study_swaps(writer.path, plan.study.name, [swap.swap_id for swap in plan.swaps])


def _make_images(
    plan: Outline,
    model: "Model",
    writer: CacheWriter,
    max_batch: int,
    progress: Progress,
    summary: Summary,
    what: str = "images",
) -> None:
    """The image pass: cells in flight together, groups committed as they come."""
    from engine.sampling.image_pass import sample_cells

    progress.start(what, len(plan.missing), "cells")
    group: list[TrajectoryRow] = []
    committed, calls = time.monotonic(), 0

    def tell(count: int) -> None:
        # All cells advance together, so that the first one is finished late.
        nonlocal calls
        calls += count
        progress.calls(calls, plan.image_calls)

    with closing(sample_cells(model, plan.missing, plan.study.frames, max_batch, tell)) as samples:
        try:
            for sample in samples:
                group.append(_trajectory_row(sample, plan))
                if sample.error is None:
                    summary.done += 1
                else:
                    summary.failed += 1
                    progress.note(f"Failed: {sample.cell.lane.key}, seed {sample.cell.seed}: {sample.error}")
                progress.advance(1, sample.cell.lane.key)
                if len(group) >= GROUP_CELLS or time.monotonic() - committed > GROUP_SECONDS:
                    rows, group = group, []
                    try:
                        writer.trajectories(rows, plan.source, plan.environment)
                    except KeyboardInterrupt:
                        group = rows  # rolled back, or written twice, which is harmless
                        raise
                    committed = time.monotonic()
        finally:
            # Also when the run is interrupted: what is finished is kept.
            writer.trajectories(group, plan.source, plan.environment)


def _take_times(plan: Outline, model: "Model", writer: CacheWriter, progress: Progress, summary: Summary) -> None:
    """The timing pass: each sample is written when it is taken."""
    from engine.measuring.lane_timing import TimingJob, time_lanes

    alive = _finished_by_lane(plan, writer.path)
    for lane in dict.fromkeys(timing.cell.lane.key for timing in plan.timings):
        if lane not in alive:
            summary.untimed += 1
            progress.note(f"Not timed: {lane}: none of its pictures was finished.")
    jobs = [
        TimingJob(alive[timing.cell.lane.key], timing.batch_size, timing.have, timing.missing)
        for timing in plan.timings
        if timing.cell.lane.key in alive
    ]
    progress.start("timing", sum(job.repeats for job in jobs), "samples")
    for sample in time_lanes(model, jobs, plan.study.timing.warmup):
        if sample.error is not None:
            summary.untimed += 1
            progress.note(f"Not timed: {sample.job.cell.lane.key}: {sample.error}")
            continue
        writer.timings(_timing_rows(sample), plan.source, plan.environment)
        summary.timed += 1
        progress.advance(1, sample.job.cell.lane.key)


def _finished_by_lane(plan: Outline, cache: Path) -> dict[str, Cell]:
    """The first finished cell of each lane that has one."""
    with reading(cache) as db:
        done = finished(db, [cell.trajectory_id for cell in plan.cells])
    return {cell.lane.key: cell for cell in reversed(plan.cells) if cell.trajectory_id in done}


def _trajectory_row(sample: "Sample", plan: Outline) -> TrajectoryRow:
    cell = sample.cell
    metrics = [("x0_distance", index, value) for index, value in sample.distances]
    for name in ("x0_change", "guidance_energy"):
        measured = [(step.step_index, getattr(step, name)) for step in sample.steps]
        metrics += [(name, index, value) for index, value in measured if value is not None]
    metrics += sample.spectra
    return TrajectoryRow(
        trajectory_id=cell.trajectory_id,
        scheduler=cell.lane.scheduler.key,
        steps=cell.lane.steps,
        scheduler_label=cell.lane.scheduler.label,
        lane=cell.lane.key,
        config_id=cell.config_id,
        scheduler_config=sample.config,
        prompt=cell.prompt,
        negative_prompt=cell.negative_prompt,
        seed=cell.seed,
        guidance_scale=cell.guidance_scale,
        width=cell.width,
        height=cell.height,
        dtype=cell.dtype,
        status="done" if sample.error is None else "failed",
        nfe=sample.nfe,
        error=sample.error,
        frame_count=plan.study.frames.count,
        frame_kinds=",".join(plan.study.frames.kinds),
        latents=None
        if sample.final is None
        else LatentsRow("x".join(map(str, sample.final.shape)), sample.final.astype("<f4").tobytes()),
        frames=tuple(
            FrameRow(
                p.kind,
                p.step_index,
                p.progress,
                p.timestep,
                p.log_snr,
                p.width,
                p.height,
                p.format,
                p.data,
                p.video_frame,
            )
            for p in sample.pictures
        ),
        measured=step_rows(
            metrics,
            {index: data.astype("<f2").tobytes() for index, data in sample.sketches},
            [step.log_snr for step in sample.steps],
        ),
    )


def _timing_rows(sample: "TimingSample") -> list[TimingRow]:
    cell = sample.job.cell
    return [
        TimingRow(
            cell.lane.scheduler.key,
            cell.lane.steps,
            cell.lane.key,
            cell.config_id,
            cell.width,
            cell.height,
            cell.dtype,
            cell.guidance_scale > 1,
            sample.job.batch_size,
            sample.repeat,
            stage,
            seconds,
            sample.nfe,
        )
        for stage, seconds in sample.seconds.items()
    ]
