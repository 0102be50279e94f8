"""The scoring pass: what metrics say of a study's pictures, step frames and whole lanes; makes no picture.

It reads pictures and latents from the cache. A value that is there is never taken again; those of another metric
version, other weights or another reference are kept apart. Torch is imported only if a metric that needs it has
something to do.
"""

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.cache import queries, score_tables, step_tables
from engine.cache.connection import reading
from engine.cache.limits import CELL_BYTES, in_groups
from engine.cache.score_tables import FAILED, MetricRow, ReferenceRow, ScoreRow
from engine.errors import CacheError, CacheRefused
from engine.measuring import attributes, clip, metrics
from engine.measuring.clips import SAME_LATENTS
from engine.measuring.evidence import Evidence, Subject, Unmeasurable
from engine.measuring.formulas import relative_distance
from engine.measuring.metric import Metric
from engine.measuring.stored_cells import StoredCells
from engine.passes.lane_scores import score_lanes
from engine.passes.plan import StudyPlan
from engine.passes.scoring import Scoring, Tally
from engine.patience import patience
from engine.progress import Progress
from engine.study.cells import Cell
from engine.study.frame_settings import FULL

GROUP_CELLS = 16
# A commit looks for its rows among all scores, and the cache is checked anew when it is read next.
WRITE_SECONDS = 10.0
INEXACT = "a small decoder made the step frames, and they are for looking at"
# What a scope's part of the pass is called while it runs.
_CALLED = {"picture": "scoring", "frame": "frames"}
_NOTED = {"picture": "Metric '{}'", "frame": "Metric '{}' of step frames"}


@dataclass(frozen=True)
class ScoreJob:
    """A cell and the metrics, with their full versions, that it lacks."""

    cell: Cell
    metrics: tuple[tuple[Metric, str], ...]


@dataclass(frozen=True)
class Truth:
    """The reference of every prompt and seed of a study, if it has one."""

    ids: Mapping[tuple[str, int], str]
    pairs: Mapping[str, ReferenceRow]

    def of(self, cell: Cell) -> ReferenceRow | None:
        """The reference of a cell and how far its check is; None if it is not made yet, or there is none."""
        return self.pairs.get(self.ids.get((cell.prompt, cell.seed), ""))

    def waits(self, cell: Cell) -> bool:
        """Whether the cell's reference, or its check, is not made yet."""
        pair = self.of(cell)
        return bool(self.ids) and (pair is None or pair.distance is None)


def score(plan: StudyPlan, cache: Path, progress: Progress | None = None) -> Scoring:
    """Measures what the cache's finished cells of a study lack.

    Raises:
        CacheError: The cache cannot be used.
    """
    progress, result = progress or Progress(), Scoring()
    clip.judge_on(plan.environment.device)
    subject = Subject(plan.source, plan.study.reference)
    versions, result.unavailable = _versions(subject)
    if "attributes" in versions and not math.isnan(chance := attributes.by_chance(plan.source, plan.study.prompts)):
        result.attributes_by_chance = chance
    ids = [cell.trajectory_id for cell in plan.cells]
    converged = [cell.trajectory_id for pair in plan.references for cell in pair]
    with reading(cache) as db:
        done = queries.finished(db, [*ids, *converged])
        if not done.keys() & set(ids):
            return result  # nothing is known of a study by these settings, so nothing is recorded
        have = score_tables.scored(db, ids)
        before = score_tables.recorded(db, plan.study.name)
        known = {(row.reference_id, row.check_id): row.distance for row in before[1]}
        pairs = []
        for key in sorted((one.trajectory_id, other.trajectory_id) for one, other in plan.references):
            if not set(key) <= done.keys():
                distance = None
            elif (distance := known.get(key)) is None:
                latents = queries.latents(db, list(key))  # pair by pair: all of them may not fit in memory
                distance = relative_distance(latents[key[1]], latents[key[0]])
            pairs.append(ReferenceRow(*key, subject.reference.tolerance if subject.reference else 0.0, distance))
    described = [_described(metric, versions, result.unavailable) for metric in metrics.METRICS.values()]
    if before != (described, pairs):
        score_tables.record(cache, plan.study.name, described, pairs)
    truth = Truth(
        {(pair[0].prompt, pair[0].seed): pair[0].trajectory_id for pair in plan.references},
        {row.reference_id: row for row in pairs},
    )
    finished = [cell for cell in plan.cells if cell.trajectory_id in done]
    framed = [cell for cell in finished if (kept := done[cell.trajectory_id]).most and "x0" in kept.kinds]
    result.cells, result.waiting = len(finished), sum(map(truth.waits, finished))
    result.pairs = sum(row.distance is not None for row in pairs)
    result.no_truth = sum(row.distance is not None and row.distance > row.tolerance for row in pairs)
    work = _CellWork(subject, truth, cache, progress, _inexact(done))
    work.run("picture", list(_jobs("picture", finished, versions, have, truth)), result.pictures)
    agreeing = {row.reference_id for row in pairs if row.distance is not None and row.distance <= row.tolerance}
    score_lanes(plan, subject, versions, done.keys(), agreeing, cache, progress, result.lanes.count)
    work.run("frame", list(_jobs("frame", framed, versions, have, truth)), result.frames)
    return result


def score_cells(
    subject: Subject,
    cells: Sequence[Cell],
    keys: Collection[str],
    cache: Path,
    progress: Progress,
    device: str,
) -> Tally:
    """Measures what finished cells lack by some metrics of pictures, whatever study they belong to.

    Args:
        subject: The model and the reference.
        cells: Those that are measured if they are finished.
        keys: The metrics.
        cache: Where the cells are, and where the values go.
        progress: Receives reports.
        device: What CLIP runs on.

    Raises:
        CacheError: The cache cannot be used.
    """
    clip.judge_on(device)
    versions = {key: version for key, version in _versions(subject)[0].items() if key in keys}
    ids, tally, truth = [cell.trajectory_id for cell in cells], Tally(), Truth({}, {})
    with reading(cache) as db:
        done, have = queries.finished(db, ids), score_tables.scored(db, ids)
    finished = [cell for cell in cells if cell.trajectory_id in done]
    jobs = list(_jobs("picture", finished, versions, have, truth))
    _CellWork(subject, truth, cache, progress, _inexact(done)).run("picture", jobs, tally)
    return tally


def _inexact(done: Mapping[str, queries.KeptFrames]) -> set[str]:
    """The cells whose step frames a small decoder made."""
    return {key for key, kept in done.items() if kept.decoder != FULL}


def _versions(subject: Subject) -> tuple[dict[str, str], dict[str, str]]:
    """Full versions of the metrics that can be measured, and why the others cannot."""
    versions, unavailable = {}, {}
    for key, metric in metrics.METRICS.items():
        try:
            versions[key] = metric.full_version(subject)
        except Unmeasurable as reason:
            unavailable[key] = str(reason)
    return versions, unavailable


def _described(metric: Metric, versions: Mapping[str, str], unavailable: Mapping[str, str]) -> MetricRow:
    return MetricRow(
        metric.scope,
        metric.key,
        versions.get(metric.key, metric.version),
        metric.label,
        metric.unit,
        metric.direction,
        metric.smallest_n,
        metric.trusted_n if metric.scope == "lane" else None,
        metric.has_true_zero,
        metric.span,
        metric.margin,
        metric.needs_reference,
        metric.may_guard,
        metric.description,
        unavailable.get(metric.key),
    )


def _jobs(
    scope: str,
    cells: Sequence[Cell],
    versions: Mapping[str, str],
    have: set[tuple[str, str, str, str]],
    truth: Truth,
) -> Iterator[ScoreJob]:
    usable = [(metric, versions[key]) for key, metric in metrics.of_scope(scope).items() if key in versions]
    for cell in cells:
        lacking = [
            (metric, version)
            for metric, version in usable
            if (scope, cell.trajectory_id, metric.key, version) not in have
            and not (metric.needs_reference and truth.waits(cell))
        ]
        if lacking:
            yield ScoreJob(cell, tuple(lacking))


@dataclass(frozen=True)
class _CellWork:
    """Measures cells and their frames, group by group.

    Attributes:
        inexact: Cells whose frames only look like what the model's own decoder makes of them.
    """

    subject: Subject
    truth: Truth
    cache: Path
    progress: Progress
    inexact: Collection[str]

    def run(self, scope: str, jobs: Sequence[ScoreJob], tally: Tally) -> None:
        if jobs:
            self.progress.start(_CALLED[scope], len(jobs), "cells")
        rows: list[ScoreRow] = []
        since = time.monotonic()
        try:
            for start in range(0, len(jobs), GROUP_CELLS):
                for group, stored in self._stored(scope, jobs[start : start + GROUP_CELLS]):
                    for job in group:
                        rows += self._rows(scope, job, stored, tally)
                        self.progress.advance(1, job.cell.lane.key)
                if time.monotonic() - since > WRITE_SECONDS:
                    self._write(scope, rows)
                    rows, since = [], time.monotonic()
        finally:
            # Also when the pass is interrupted: what was measured is kept.
            self._write(scope, rows)

    def _write(self, scope: str, rows: Sequence[ScoreRow]) -> None:
        if rows:
            score_tables.write_scores(self.cache, rows)
        for row in rows:
            if row.failed:
                self.progress.note(f"{_NOTED[scope].format(row.metric)} {row.reason}")

    def _stored(
        self, scope: str, jobs: Sequence[ScoreJob]
    ) -> Iterator[tuple[list[ScoreJob], StoredCells | CacheRefused]]:
        """Reads cells, as many at a time as fit into memory; or says why a cell can't be read."""
        framed = scope == "frame" or any(metric.on_frames for job in jobs for metric, _ in job.metrics)
        kinds = ["final", "x0"] if framed else ["final"]
        by_id = {job.cell.trajectory_id: job for job in jobs}
        with reading(self.cache) as db:
            groups = list(in_groups(queries.frame_bytes(db, list(by_id), kinds)))
        for ids in groups:
            group, wanted = [by_id[key] for key in ids], set(ids)
            if scope == "picture":
                wanted |= {pair.reference_id for job in group if (pair := self.truth.of(job.cell))}
            try:
                with reading(self.cache) as db:
                    frames = queries.frames(db, sorted(wanted), kinds, CELL_BYTES)
                    motions = step_tables.final_motions(db, sorted(wanted), SAME_LATENTS)
                    stored = StoredCells(queries.latents(db, sorted(wanted)), frames, motions)
            except CacheRefused as refused:
                yield group, refused
            else:
                yield group, stored

    def _rows(self, scope: str, job: ScoreJob, stored: StoredCells | CacheRefused, tally: Tally) -> list[ScoreRow]:
        cell, found = job.cell, []
        pair = self.truth.of(cell)
        exact = cell.trajectory_id not in self.inexact
        try:
            if isinstance(stored, CacheRefused):
                raise stored
            if exact and (scope == "frame" or any(metric.on_frames for metric, _ in job.metrics)):
                steps = list(stored.steps(cell, self.subject))
            if scope == "picture":
                evidence = stored.evidence(cell, self.subject, pair.reference_id if pair else None)
        except CacheError as damaged:  # of this cell; the others go on
            reason = f"{FAILED} {damaged}"
            rows = [_damaged_row(scope, metric, version, cell, reason) for metric, version in job.metrics]
            tally.count(rows)
            return rows
        for metric, version in job.metrics:
            if scope == "frame" and not exact:
                rows = [_frame_row(metric, version, cell, None, None, INEXACT)]
            elif scope == "frame":
                rows = _frame_rows(metric, version, cell, steps)
            else:
                rows = [picture_row(metric, version, cell, evidence, pair)]
            tally.count(rows)
            found += rows
            if exact and metric.on_frames and scope == "picture" and rows[0].reason is None:
                found += _more_frames(metric, version, cell, steps, self.progress)
        return found


def _damaged_row(scope: str, metric: Metric, version: str, cell: Cell, reason: str) -> ScoreRow:
    if scope == "frame":
        return _frame_row(metric, version, cell, None, None, reason)
    return ScoreRow("picture", metric.key, version, None, reason, trajectory_id=cell.trajectory_id)


def picture_row(metric: Metric, version: str, cell: Cell, evidence: Evidence, pair: ReferenceRow | None) -> ScoreRow:
    """The value of a metric for a finished cell, or the reason why there is none."""
    value, reason = None, None
    try:
        if metric.needs_reference and cell.lane.stochastic:
            raise Unmeasurable("its scheduler draws noise, so it does not converge to the reference")
        if metric.needs_reference and pair is not None and pair.distance is not None and pair.distance > pair.tolerance:
            raise Unmeasurable(
                f"no ground truth: reference and check are {pair.distance:.3g} apart, tolerance {pair.tolerance:g}"
            )
        with patience("measuring a picture"):
            value = metric.value(evidence)
        if not math.isfinite(value):
            value, reason = None, f"the value is {value}"
    except Unmeasurable as why:
        reason = str(why)
    except Exception as error:  # of a metric from outside; the others go on
        reason = f"{FAILED} {type(error).__name__}: {error}"
    return ScoreRow("picture", metric.key, version, value, reason, trajectory_id=cell.trajectory_id)


def _frame_rows(metric: Metric, version: str, cell: Cell, steps: Sequence[tuple[int, Evidence]]) -> list[ScoreRow]:
    """A metric's values of a cell's frames; or, if there is none at all or it raises, the reason."""
    rows: list[ScoreRow] = []
    reason = "no step frame is kept"
    for step_index, evidence in steps:
        try:
            with patience("measuring a frame"):
                value = metric.value(evidence)
            if math.isfinite(value):
                rows.append(_frame_row(metric, version, cell, step_index, value))
            else:
                reason = f"the value is {value}"
        except Unmeasurable as why:
            reason = str(why)
        except Exception as error:  # weights that cannot be read, or too little memory; the others go on
            return [_frame_row(metric, version, cell, None, None, f"{FAILED} {type(error).__name__}: {error}")]
    return rows or [_frame_row(metric, version, cell, None, None, reason)]


def _more_frames(
    metric: Metric, version: str, cell: Cell, steps: Sequence[tuple[int, Evidence]], progress: Progress
) -> Iterator[ScoreRow]:
    """The values of the frames that have one by a metric of pictures; an error leaves out its frame alone."""
    for step_index, evidence in steps:
        try:
            value = metric.value(evidence)
            if not math.isfinite(value):
                raise ArithmeticError(f"the value is {value}")
        except Unmeasurable:
            continue
        except Exception as error:  # of a metric from outside; the other frames go on
            where = f"the frame of step {step_index}, {cell.lane.key}, seed {cell.seed}"
            progress.note(f"Metric '{metric.key}' leaves out {where}: {type(error).__name__}: {error}")
            continue
        yield _frame_row(metric, version, cell, step_index, value)


def _frame_row(
    metric: Metric, version: str, cell: Cell, step_index: int | None, value: float | None, reason: str | None = None
) -> ScoreRow:
    return ScoreRow(
        "frame",
        metric.key,
        version,
        value,
        reason,
        trajectory_id=cell.trajectory_id,
        kind="x0",
        step_index=step_index,
    )
