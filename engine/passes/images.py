"""The image pass: cells in flight together, committed in groups as they come."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.cache import queries
from engine.cache.connection import Connection
from engine.cache.live_state import CellPicture
from engine.cache.records import FrameRow, LatentsRow, StepRow, TrajectoryRow, step_rows
from engine.passes.committing import Committer
from engine.passes.context import MadeCell, PassContext, PassOutcome
from engine.study.cells import Cell
from engine.study.frame_settings import FrameSettings
from engine.study.study import Study

if TYPE_CHECKING:
    from engine.sampling.image_pass import Sample
    from engine.sampling.previews import Preview, Previews

NO_FRAMES = FrameSettings(count=0)
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class ImageJob:
    """A cell to be made, and which of its steps are kept as pictures."""

    cell: Cell
    frames: FrameSettings = NO_FRAMES


def missing_images(db: Connection | None, jobs: Sequence[ImageJob]) -> list[ImageJob]:
    """Those jobs whose cell a cache lacks, or holds with fewer frames; all of them without a cache."""
    done = queries.finished(db, [job.cell.trajectory_id for job in jobs]) if db is not None else {}
    return [job for job in jobs if not _is_complete(done.get(job.cell.trajectory_id), job.frames)]


def in_running_order(jobs: Iterable[ImageJob], study: Study) -> list[ImageJob]:
    """Prompt by prompt and seed by seed, so that whole rows appear; long lanes first, so that short ones fill up."""
    prompts = {prompt: place for place, prompt in enumerate(study.prompts)}
    seeds = {seed: place for place, seed in enumerate(study.seeds)}
    return sorted(jobs, key=lambda job: (prompts[job.cell.prompt], seeds[job.cell.seed], -job.cell.lane.steps))


def expected_calls(cells: Iterable[Cell]) -> int:
    """Denoiser calls that cells take."""
    return sum(cell.lane.scheduler.expected_calls(cell.lane.steps) for cell in cells)


def expected_bytes(jobs: Sequence[ImageJob], clip_frames: int = 1) -> int:
    """Growth of a cache: lossless finals, step frames, and what DuckDB adds."""
    if not jobs:
        return 0
    per_pixel = sum(2.5 + 1.3 * job.frames.count * len(job.frames.kinds) for job in jobs)
    return int(jobs[0].cell.width * jobs[0].cell.height * clip_frames * per_pixel) + 2**20


def make_images(context: PassContext, jobs: Sequence[ImageJob], title: str = "images") -> PassOutcome:
    """Makes the cells, all of one picture size, and commits them group by group.

    A cell that fails is a row with its error, unless it was finished before. When the pass is stopped, what is finished
    is kept.

    Raises:
        CacheError: The cache cannot be written.
    """
    if not jobs:
        return PassOutcome()
    progress = context.progress
    progress.start(title, len(jobs), "cells")
    expected, calls = expected_calls(job.cell for job in jobs), 0

    def tell(count: int) -> None:
        # All cells advance together, so that the first one is finished late.
        nonlocal calls
        calls += count
        progress.calls(calls, expected)

    done = failed = lowest = 0
    cells = {job.cell.trajectory_id: job.cell for job in jobs}
    committer = Committer(_writes(context))
    with closing(_made(context, jobs, tell)) as made:
        try:
            for each in made:
                cell = cells[each.row.trajectory_id]
                committer.add(each)
                if each.row.max_batch_by == OUT_OF_MEMORY and each.row.max_batch != lowest:
                    lowest = each.row.max_batch or 0
                    progress.note(f"Memory ran out: {lowest} cells at once from here on.")
                if each.row.status == "done":
                    done += 1
                    if progress.wants_pictures:
                        progress.picture(_finished_picture(cell, each.row))
                else:
                    failed += 1
                    progress.note(f"Failed: {cell.lane.key}, seed {cell.seed}: {each.row.error}")
                progress.advance(1, cell.lane.key)
        finally:
            # Also when the run is interrupted: what is finished is kept.
            committer.close()
    return PassOutcome(done, failed)


def make_here(
    context: PassContext,
    jobs: Sequence[ImageJob],
    tell: Callable[[int], None] | None = None,
    previews: "Previews | None" = None,
) -> Generator[TrajectoryRow, None, None]:
    """Makes cells in this process and yields each as it is stored; writes nothing.

    Args:
        context: The model that makes them.
        jobs: All of one picture size; those that keep the same frames share forwards.
        tell: Told on the way how many more denoiser calls are done.
        previews: Looks at the cells on their way.
    """
    from engine.sampling.image_pass import sample_cells

    read = _readings(context)
    for frames in dict.fromkeys(job.frames for job in jobs):
        cells = [job.cell for job in jobs if job.frames == frames]
        most = context.max_batch(cells)
        with closing(sample_cells(context.model, cells, frames, most, tell, previews)) as samples:
            for sample in samples:
                by = context.max_batch_by if sample.max_batch == most else OUT_OF_MEMORY
                yield replace(trajectory_row(sample, frames, read(sample.cell)), max_batch_by=by)


def _made(
    context: PassContext, jobs: Sequence[ImageJob], tell: Callable[[int], None]
) -> Generator[MadeCell, None, None]:
    """The finished cells, made by the workers of a cluster or here."""
    if context.cluster is not None:
        context.release_model()  # a worker on this machine may need the room
        with closing(context.cluster.make(context, jobs, tell)) as made:
            yield from made
        return
    previews = _previews(context) if context.progress.wants_pictures else None
    with closing(make_here(context, jobs, tell, previews)) as rows:
        for row in rows:
            yield MadeCell(row, context.makes_in)


def _writes(context: PassContext) -> Callable[[Sequence[MadeCell]], None]:
    """Writes a group of cells, each with the environment that it was made in."""
    writer, known = context.writer, {context.environment.environment_id}

    def write(group: Sequence[MadeCell]) -> None:
        places = {made.environment.environment_id: made.environment for made in group}
        for place, environment in places.items():
            if place not in known:
                writer.places(context.source, environment)
                known.add(place)
            rows = [made.row for made in group if made.environment.environment_id == place]
            writer.trajectories(rows, context.source, environment)

    return write


def _readings(context: PassContext) -> Callable[[Cell], str]:
    """What the model reads of the prompt of a cell, as a digest."""
    from engine.sampling.tokens import read_prompts

    known: dict[str, str] = {}

    def read(cell: Cell) -> str:
        if cell.prompt not in known:
            [found] = read_prompts(context.model.pipe, [cell.prompt], cell.pipeline.arguments)
            known[cell.prompt] = found.reading
        return known[cell.prompt]

    return read


def trajectory_row(sample: "Sample", frames: FrameSettings, reading: str | None = None) -> TrajectoryRow:
    """A finished or failed cell as it is stored, with the digest of what the model read of its prompt."""
    cell = sample.cell
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
        frame_count=frames.count,
        frame_kinds=",".join(frames.kinds),
        frame_decoder=frames.decoder if frames.count else None,
        reading=reading,
        max_batch=sample.max_batch,
        latents=_latents_row(sample),
        frames=_frame_rows(sample),
        measured=_step_rows(sample),
    )


def _is_complete(cached: queries.KeptFrames | None, frames: FrameSettings) -> bool:
    """Whether a cached cell has at least the frames asked for."""
    wanted = queries.KeptFrames(frames.count, frozenset(frames.kinds), frames.decoder)
    return cached is not None and cached.include(wanted)


def _previews(context: PassContext) -> "Previews":
    """Hands previews of cells on their way to the progress."""
    from engine.sampling.previews import Previews

    def show(found: Sequence["Preview"]) -> None:
        for preview in found:
            context.progress.picture(
                _cell_picture(preview.cell, preview.call, preview.calls, preview.image, preview.noisy)
            )

    return Previews(show, context.progress.is_watched)


def _finished_picture(cell: Cell, row: TrajectoryRow) -> CellPicture:
    """The final picture as it is shown in passing: of a clip, the first frame."""
    from engine.sampling.previews import small

    final = next(frame for frame in row.frames if frame.kind == "final")
    calls = row.nfe or 0
    return _cell_picture(cell, calls, calls, small(final.image))


def _cell_picture(cell: Cell, call: int, calls: int, image: bytes, noisy: bytes = b"") -> CellPicture:
    return CellPicture(cell.lane.key, cell.lane.label, cell.prompt, cell.seed, call, calls, image, noisy)


def _latents_row(sample: "Sample") -> LatentsRow | None:
    if sample.final is None:
        return None
    return LatentsRow("x".join(map(str, sample.final.shape)), sample.final.astype("<f4").tobytes())


def _frame_rows(sample: "Sample") -> tuple[FrameRow, ...]:
    return tuple(
        FrameRow(
            kind=picture.kind,
            step_index=picture.step_index,
            progress=picture.progress,
            timestep=picture.timestep,
            log_snr=picture.log_snr,
            width=picture.width,
            height=picture.height,
            format=picture.format,
            image=picture.data,
            video_frame=picture.video_frame,
        )
        for picture in sample.pictures
    )


def _step_rows(sample: "Sample") -> tuple[StepRow, ...]:
    metrics = [("x0_distance", index, value) for index, value in sample.distances]
    for name in ("x0_change", "guidance_energy"):
        measured = [(step.step_index, getattr(step, name)) for step in sample.steps]
        metrics += [(name, index, value) for index, value in measured if value is not None]
    metrics += [("motion_energy", index, value) for index, value in sample.motion]
    metrics += sample.spectra
    sketches = {index: data.astype("<f2").tobytes() for index, data in sample.sketches}
    return step_rows(metrics, sketches, [step.log_snr for step in sample.steps])
