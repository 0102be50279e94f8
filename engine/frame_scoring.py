"""The pass over step frames: compares each x0 picture of the cache with the final one; makes no picture.

Torch is imported only if a metric that needs it has something to do.
"""

import math
from pathlib import Path

from engine.cache import phases, queries
from engine.cache.connection import reading
from engine.cache.phases import FrameMetricRow, PhasesWriter
from engine.cache.quality import FAILED, FrameScoreRow, ScoreRow
from engine.measuring.evidence import Subject, Unmeasurable
from engine.measuring.frame_metrics import FRAME_METRICS, FrameMetric
from engine.measuring.material import Material
from engine.passes.plan import StudyPlan
from engine.progress import Progress
from engine.study.cells import Cell

GROUP_CELLS = 16


def score_frames(plan: StudyPlan, cache: Path, progress: Progress | None = None) -> tuple[int, int]:
    """Measures what the step frames of a study's finished cells lack; returns how many values were taken, and how many
    cells failed, metric by metric.

    A value that is there is never taken again; values of another version or other weights are kept apart. A metric
    that raises on a cell becomes a row of `unscored` with its error, and is tried again the next time.

    Raises:
        CacheError: The cache cannot be used.
    """
    progress = progress or Progress()
    subject = Subject(plan.source, plan.study.reference)
    rows = [_described(metric, subject) for metric in FRAME_METRICS]
    usable = {row.metric: row.metric_version for row in rows if row.unavailable is None}
    ids = [cell.trajectory_id for cell in plan.cells]
    with reading(cache) as db:
        done = queries.finished(db, ids)
        have = phases.frame_scored(db, ids)
        known = phases.frame_metrics(db, plan.study.name)
    jobs = [
        (cell, lacking)
        for cell in plan.cells
        if (found := done.get(cell.trajectory_id)) and found[0] > 0 and "x0" in found[1]
        if (
            lacking := [
                m for m in FRAME_METRICS if m.key in usable and (cell.trajectory_id, m.key, usable[m.key]) not in have
            ]
        )
    ]
    writer = PhasesWriter(cache)
    before = {(row.metric, row.metric_version) for row in known.itertuples()}
    if done and before != {(row.metric, row.metric_version) for row in rows}:
        writer.frame_metrics(plan.study.name, rows)
    if not jobs:
        return 0, 0
    taken = failed = 0
    progress.start("frames", len(jobs), "cells")
    for start in range(0, len(jobs), GROUP_CELLS):
        group = jobs[start : start + GROUP_CELLS]
        with reading(cache) as db:
            wanted = sorted(cell.trajectory_id for cell, _ in group)
            material = Material(queries.latents(db, wanted), queries.frames(db, wanted, ["final", "x0"]))
        scores: list[FrameScoreRow] = []
        reasons: list[ScoreRow] = []
        for cell, metrics in group:
            for metric in metrics:
                outcome = _scored(cell, metric, usable[metric.key], material, subject)
                if isinstance(outcome, ScoreRow):
                    reasons.append(outcome)
                else:
                    scores += outcome
            progress.advance(1, cell.lane.key)
        writer.frame_scores(scores, reasons)
        failures = [row for row in reasons if (row.reason or "").startswith(FAILED)]
        taken, failed = taken + len(scores), failed + len(failures)
        for row in failures:
            progress.note(f"Metric '{row.metric}' of step frames {row.reason}")
    return taken, failed


def _described(metric: FrameMetric, subject: Subject) -> FrameMetricRow:
    try:
        version, unavailable = metric.full_version(subject), None
    except Unmeasurable as reason:
        version, unavailable = metric.version, str(reason)
    return FrameMetricRow(metric.key, version, metric.label, metric.unit, metric.description, unavailable)


def _scored(
    cell: Cell, metric: FrameMetric, version: str, material: Material, subject: Subject
) -> list[FrameScoreRow] | ScoreRow:
    """A metric's values of a cell's frames; or, if there is none at all or it raises, the reason."""
    rows: list[FrameScoreRow] = []
    reason = "no step frame is kept"
    final = material.final(cell.trajectory_id)
    for step_index, pictures in material.steps(cell):
        try:
            value = metric.measure(pictures, final, subject)
        except Unmeasurable as why:
            reason = str(why)
            continue
        except Exception as error:  # weights that cannot be read, or too little memory; the others go on
            return ScoreRow(cell.trajectory_id, metric.key, version, None, f"{FAILED} {type(error).__name__}: {error}")
        if math.isfinite(value):
            rows.append(FrameScoreRow(cell.trajectory_id, "x0", step_index, metric.key, version, value))
        else:
            reason = f"the value is {value}"
    return rows or ScoreRow(cell.trajectory_id, metric.key, version, None, reason)
