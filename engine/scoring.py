"""The scoring pass: reads pictures and latents from the cache and writes what metrics say of them; makes no picture.

Torch is imported only if a metric that needs it has something to do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.cache import quality, queries
from engine.cache.connection import reading
from engine.cache.quality import FAILED, FrameScoreRow, MetricRow, QualityWriter, ReferenceRow, ScoreRow, StudyMetricRow
from engine.measuring.evidence import Evidence, Subject, Unmeasurable
from engine.measuring.formulas import relative_distance
from engine.measuring.material import Material
from engine.measuring.metrics import METRICS, Metric
from engine.passes.plan import StudyPlan
from engine.progress import Progress
from engine.set_scoring import SetScoring, score_sets
from engine.study.cells import Cell

GROUP_CELLS = 16


@dataclass(frozen=True)
class Job:
    """A cell and the metrics, with their full versions, that it lacks."""

    cell: Cell
    metrics: tuple[tuple[Metric, str], ...]


@dataclass
class Scoring:
    """What a scoring pass did.

    Attributes:
        cells: Finished cells of the study.
        scored: Values taken.
        unscored: Cells, metric by metric, of which nothing can be said; each a row with its reason.
        failed: Values whose metric raised an error, of sets too; each a row with it, tried again the next time.
        waiting: Cells whose reference is not made yet.
        unavailable: Why a metric cannot be measured at all, by its key.
        no_truth: Prompts and seeds whose reference and check do not agree.
        pairs: Prompts and seeds with both.
        sets: What came of the metrics of whole sets.
    """

    cells: int = 0
    scored: int = 0
    unscored: int = 0
    failed: int = 0
    waiting: int = 0
    unavailable: dict[str, str] = field(default_factory=dict)
    no_truth: int = 0
    pairs: int = 0
    sets: SetScoring = field(default_factory=SetScoring)


def score(plan: StudyPlan, cache: Path, progress: Progress | None = None) -> Scoring:
    """Measures what the cache's finished cells of a study lack; a value that is there is never taken again.

    Values of another metric version, other weights or another reference are kept apart, beside the new ones.

    Raises:
        CacheError: The cache cannot be used.
    """
    progress, result = progress or Progress(), Scoring()
    subject = Subject(plan.source, plan.study.reference)
    versions, result.unavailable = _versions(subject)
    ids = [cell.trajectory_id for cell in plan.cells]
    converged = [cell.trajectory_id for pair in plan.references for cell in pair]
    with reading(cache) as db:
        done = queries.finished(db, [*ids, *converged])
        have = quality.scored(db, ids)
        before = quality.recorded(db, plan.study.name)
        known = {(row.reference_id, row.check_id): row.distance for row in before[2]}
        fresh = [key for key in map(_key, plan.references) if set(key) <= done.keys() and known.get(key) is None]
        for reference, check in fresh:  # pair by pair: the latents of a whole study may not fit in memory
            latents = queries.latents(db, [reference, check])
            known[reference, check] = relative_distance(latents[check], latents[reference])
    if not done.keys() & set(ids):
        return result  # nothing is known of a study by these settings, so nothing is recorded
    known = {key: distance for key, distance in known.items() if set(key) <= done.keys()}
    pairs = [_pair(key, plan, known.get(key)) for key in map(_key, plan.references)]
    used = [
        StudyMetricRow(key, versions.get(key, metric.version), result.unavailable.get(key))
        for key, metric in METRICS.items()
    ]
    references = sorted(pairs, key=lambda row: row.reference_id)
    rows = [_metric_row(METRICS[row.metric], row.metric_version) for row in used]
    if before != (rows, used, references):
        QualityWriter(cache).study(plan.study.name, rows, used, references)
    ready = {row.reference_id for row in pairs if row.distance is not None}
    jobs = list(_jobs(plan, versions, done, have, ready, result))
    result.pairs = sum(row.distance is not None for row in pairs)
    result.no_truth = sum(row.distance is not None and row.distance > row.tolerance for row in pairs)
    if jobs:
        _work(plan, subject, jobs, pairs, cache, progress, result)
    result.sets = score_sets(plan, subject, done.keys(), pairs, cache, progress)
    result.failed += result.sets.failed
    return result


def _versions(subject: Subject) -> tuple[dict[str, str], dict[str, str]]:
    """Full versions of the metrics that can be measured, and why the others cannot."""
    versions, unavailable = {}, {}
    for key, metric in METRICS.items():
        try:
            versions[key] = metric.full_version(subject)
        except Unmeasurable as reason:
            unavailable[key] = str(reason)
    return versions, unavailable


def _key(pair: tuple[Cell, Cell]) -> tuple[str, str]:
    return pair[0].trajectory_id, pair[1].trajectory_id


def _pair(key: tuple[str, str], plan: StudyPlan, distance: float | None) -> ReferenceRow:
    assert plan.study.reference is not None  # else there are no pairs
    return ReferenceRow(*key, plan.study.reference.tolerance, distance)


def _jobs(
    plan: StudyPlan,
    versions: dict[str, str],
    done: dict[str, tuple[int, frozenset[str]]],
    have: set[tuple[str, str, str]],
    ready: set[str],
    result: Scoring,
) -> Iterator[Job]:
    references = _references(plan)
    for cell in plan.cells:
        if cell.trajectory_id not in done:
            continue
        result.cells += 1
        waits = plan.study.reference is not None and references[cell.prompt, cell.seed] not in ready
        result.waiting += waits
        lacking = [
            (METRICS[key], version)
            for key, version in versions.items()
            if (cell.trajectory_id, key, version) not in have and not (waits and METRICS[key].needs_reference)
        ]
        if lacking:
            yield Job(cell, tuple(lacking))


def _work(
    plan: StudyPlan,
    subject: Subject,
    jobs: Sequence[Job],
    pairs: Sequence[ReferenceRow],
    cache: Path,
    progress: Progress,
    result: Scoring,
) -> None:
    writer = QualityWriter(cache)
    by_id, references = {row.reference_id: row for row in pairs}, _references(plan)
    progress.start("scoring", len(jobs), "cells")
    for start in range(0, len(jobs), GROUP_CELLS):
        group = jobs[start : start + GROUP_CELLS]
        wanted = {job.cell.trajectory_id for job in group}
        wanted |= {references[job.cell.prompt, job.cell.seed] for job in group if references}
        kinds = ["final", "x0"] if any(metric.on_frames for job in group for metric, _ in job.metrics) else ["final"]
        with reading(cache) as db:
            material = Material(queries.latents(db, sorted(wanted)), queries.frames(db, sorted(wanted), kinds))
        rows: list[ScoreRow] = []
        frames: list[FrameScoreRow] = []
        for job in group:
            pair = by_id.get(references.get((job.cell.prompt, job.cell.seed), ""))
            evidence = material.evidence(job.cell, subject, pair.reference_id if pair else None)
            for metric, version in job.metrics:
                rows.append(_score(metric, version, evidence, job.cell, pair))
                if metric.on_frames and rows[-1].reason is None:
                    frames += _score_frames(metric, version, material, job.cell, subject, progress)
            progress.advance(1, job.cell.lane.key)
        writer.scores(rows, frames)
        result.scored += sum(row.value is not None for row in rows)
        failures = [row for row in rows if (row.reason or "").startswith(FAILED)]
        result.unscored += sum(row.value is None for row in rows) - len(failures)
        result.failed += len(failures)
        for row in failures:
            progress.note(f"Metric '{row.metric}' {row.reason}")


def _score(metric: Metric, version: str, evidence: Evidence, cell: Cell, pair: ReferenceRow | None) -> ScoreRow:
    try:
        if metric.needs_reference and cell.lane.scheduler.stochastic:
            raise Unmeasurable("its scheduler draws noise, so it does not converge to the reference")
        if metric.needs_reference and pair is not None and pair.distance is not None and pair.distance > pair.tolerance:
            raise Unmeasurable(
                f"no ground truth: reference and check are {pair.distance:.3g} apart, tolerance {pair.tolerance:g}"
            )
        value = metric.value(evidence)
        if not np.isfinite(value):
            raise Unmeasurable(f"the value is {value}")
    except Unmeasurable as reason:
        return ScoreRow(cell.trajectory_id, metric.key, version, None, str(reason))
    except Exception as error:  # of a metric from outside; the others go on
        return ScoreRow(cell.trajectory_id, metric.key, version, None, f"{FAILED} {type(error).__name__}: {error}")
    return ScoreRow(cell.trajectory_id, metric.key, version, value)


def _score_frames(
    metric: Metric, version: str, material: Material, cell: Cell, subject: Subject, progress: Progress
) -> Iterator[FrameScoreRow]:
    """The values of a cell's frames that have one; an error leaves out its frame alone."""
    for step_index, pictures in material.steps(cell):
        evidence = Evidence(subject, cell.prompt, cell.seed, pictures, material.latents[cell.trajectory_id])
        try:
            value = metric.value(evidence)
            if not np.isfinite(value):
                raise ArithmeticError(f"the value is {value}")
        except Unmeasurable:
            continue
        except Exception as error:  # of a metric from outside; the other frames go on
            where = f"the frame of step {step_index}, {cell.lane.key}, seed {cell.seed}"
            progress.note(f"Metric '{metric.key}' leaves out {where}: {type(error).__name__}: {error}")
            continue
        yield FrameScoreRow(cell.trajectory_id, "x0", step_index, metric.key, version, value)


def _references(plan: StudyPlan) -> dict[tuple[str, int], str]:
    return {(pair[0].prompt, pair[0].seed): pair[0].trajectory_id for pair in plan.references}


def _metric_row(metric: Metric, version: str) -> MetricRow:
    return MetricRow(
        metric.key,
        version,
        metric.label,
        metric.unit,
        metric.direction,
        metric.smallest_n,
        metric.has_true_zero,
        metric.span,
        metric.margin,
        metric.description,
    )


def scoring_lines(study: str, result: Scoring) -> list[str]:
    """What a scoring pass did, for people."""
    sets = result.sets
    if not (result.scored or result.unscored or result.failed or sets.taken or sets.refused):
        lines = [f"{study}: nothing to do, all {result.cells} finished cells are scored."]
    else:
        lines = [f"{study}: {result.scored} values of {result.cells} finished cells."]
        if result.unscored:
            lines.append(f"{result.unscored} values cannot be told; each is a row with its reason.")
    if sets.taken or sets.refused:
        lines.append(f"{sets.taken} values of whole sets; {sets.refused} refused, each a row with its reason.")
    if result.failed:
        lines.append(f"{result.failed} values FAILED; each is a row with its error, and is tried again the next time.")
    if result.pairs:
        agree = result.pairs - result.no_truth
        lines.append(f"Reference: {agree} of {result.pairs} prompts and seeds have a ground truth.")
    if result.waiting:
        lines.append(f"{result.waiting} cells wait for their reference; `run` makes it.")
    lines += [f"{key}: {reason}." for key, reason in result.unavailable.items()]
    return lines + [f"{key} (of sets): {reason}." for key, reason in sets.unavailable.items()]
