"""Scores in the cache: what is scored, what a study's scores are, and writing them. Reads return plain data."""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import pandas as pd

from engine.cache.connection import migrate, writing
from engine.cache.writer import insert_rows

# How the reason begins if a metric raised an error: such cells are tried again.
FAILED = "failed:"


@dataclass(frozen=True)
class MetricRow:
    """What a metric means; see the table `metrics`."""

    metric: str
    metric_version: str
    label: str
    unit: str
    direction: str
    smallest_n: int
    has_true_zero: bool
    span: float | None
    margin: float | None
    description: str


@dataclass(frozen=True)
class StudyMetricRow:
    """A metric of a study; `unavailable` says why it could not be measured at all."""

    metric: str
    metric_version: str
    unavailable: str | None = None


@dataclass(frozen=True)
class ReferenceRow:
    """A converged solution, its check, and how far they are apart."""

    reference_id: str
    check_id: str
    tolerance: float
    distance: float | None


@dataclass(frozen=True)
class ScoreRow:
    """A cell's value of a metric, or the reason why it has none."""

    trajectory_id: str
    metric: str
    metric_version: str
    value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class FrameScoreRow:
    """A step frame's value of a metric."""

    trajectory_id: str
    kind: str
    step_index: int
    metric: str
    metric_version: str
    value: float


class QualityWriter:
    """Writes scores; each call is one transaction, and rows that exist already are replaced."""

    def __init__(self, path: Path) -> None:
        """Migrates an older cache.

        Raises:
            CacheError: The file cannot be used.
        """
        self.path = path
        migrate(path)

    def study(
        self,
        study_id: str,
        metrics: Sequence[MetricRow],
        used: Sequence[StudyMetricRow],
        references: Sequence[ReferenceRow],
    ) -> None:
        """Records which metrics a study uses, what they mean, and its references."""
        with writing(self.path) as db:
            for row in metrics:
                db.execute(
                    "DELETE FROM metrics WHERE metric = ? AND metric_version = ?", [row.metric, row.metric_version]
                )
            db.execute("DELETE FROM study_metrics WHERE study_id = ?", [study_id])
            db.execute("DELETE FROM study_references WHERE study_id = ?", [study_id])
            for row in metrics:
                db.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", list(asdict(row).values()))
            for position, metric in enumerate(used):
                db.execute(
                    "INSERT INTO study_metrics VALUES (?, ?, ?, ?, ?)",
                    [study_id, metric.metric, metric.metric_version, position, metric.unavailable],
                )
            for reference in references:
                db.execute(
                    "INSERT INTO study_references VALUES (?, ?, ?, ?, ?)", [study_id, *asdict(reference).values()]
                )

    def scores(self, rows: Sequence[ScoreRow], frames: Sequence[FrameScoreRow]) -> None:
        """Writes a group of scores."""
        if any(row.value is not None and not math.isfinite(row.value) for row in rows):
            raise ValueError("A score is not finite.")
        keys = sorted({(row.metric, row.metric_version) for row in rows})
        with writing(self.path) as db:
            for metric, version in keys:
                ids = [row.trajectory_id for row in rows if (row.metric, row.metric_version) == (metric, version)]
                for table in ("quality", "unscored", "frame_quality"):
                    db.execute(
                        f"DELETE FROM {table} WHERE metric = ? AND metric_version = ? "
                        "AND list_contains(?, trajectory_id)",
                        [metric, version, ids],
                    )
            cells = [asdict(row) for row in rows]
            insert_rows(db, "quality", [_without(row, "reason") for row in cells if row["value"] is not None])
            insert_rows(db, "unscored", [_without(row, "value") for row in cells if row["value"] is None])
            insert_rows(db, "frame_quality", [asdict(row) for row in frames])


def scored(db: duckdb.DuckDBPyConnection, ids: Collection[str]) -> set[tuple[str, str, str]]:
    """(trajectory_id, metric, metric_version) of all cells among `ids` with a value, or a lasting reason for none."""
    rows = db.execute(
        "SELECT trajectory_id, metric, metric_version FROM quality WHERE list_contains($ids, trajectory_id) "
        "UNION ALL "
        "SELECT trajectory_id, metric, metric_version FROM unscored WHERE list_contains($ids, trajectory_id) "
        "AND NOT starts_with(reason, $failed)",
        {"ids": list(ids), "failed": FAILED},
    ).fetchall()
    return {(row[0], row[1], row[2]) for row in rows}


def recorded(
    db: duckdb.DuckDBPyConnection, study_id: str
) -> tuple[list[MetricRow], list[StudyMetricRow], list[ReferenceRow]]:
    """The metrics of a study, what they mean, and its references, as they were last recorded."""
    meant = db.execute(
        "SELECT m.* FROM study_metrics s JOIN metrics m USING (metric, metric_version) WHERE s.study_id = ? "
        "ORDER BY s.position",
        [study_id],
    ).fetchall()
    used = db.execute(
        "SELECT metric, metric_version, unavailable FROM study_metrics WHERE study_id = ? ORDER BY position", [study_id]
    ).fetchall()
    pairs = db.execute(
        "SELECT reference_id, check_id, tolerance, distance FROM study_references WHERE study_id = ? "
        "ORDER BY reference_id",
        [study_id],
    ).fetchall()
    return (
        [MetricRow(*row) for row in meant],
        [StudyMetricRow(*row) for row in used],
        [ReferenceRow(*row) for row in pairs],
    )


def metrics(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The metrics of a study in its order: columns of `metrics`, and `unavailable` (why it has no values, or None)."""
    return db.execute(
        "SELECT m.*, s.unavailable FROM study_metrics s JOIN metrics m USING (metric, metric_version) "
        "WHERE s.study_id = ? ORDER BY s.position",
        [study_id],
    ).df()


def quality(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """Scores of a study's cells, in the metric versions the study uses.

    Columns: lane, prompt, seed, trajectory_id, metric, metric_version, value.
    """
    return db.execute(
        """
        SELECT l.lane, t.prompt, t.seed, t.trajectory_id, q.metric, q.metric_version, q.value
        FROM study_trajectories l
        JOIN trajectories t USING (trajectory_id)
        JOIN quality q USING (trajectory_id)
        JOIN study_metrics s ON (s.study_id, s.metric, s.metric_version) = (l.study_id, q.metric, q.metric_version)
        WHERE l.study_id = ? AND t.status = 'done' ORDER BY s.position, l.position
        """,
        [study_id],
    ).df()


def unscored(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """Cells of a study that a metric says nothing of. Columns: lane, prompt, seed, metric, reason."""
    return db.execute(
        """
        SELECT l.lane, t.prompt, t.seed, u.metric, u.reason
        FROM study_trajectories l
        JOIN trajectories t USING (trajectory_id)
        JOIN unscored u USING (trajectory_id)
        JOIN study_metrics s ON (s.study_id, s.metric, s.metric_version) = (l.study_id, u.metric, u.metric_version)
        WHERE l.study_id = ? ORDER BY s.position, l.position
        """,
        [study_id],
    ).df()


def frame_quality(db: duckdb.DuckDBPyConnection, study_id: str, lanes: Sequence[str] | None = None) -> pd.DataFrame:
    """Scores of step frames of a study: of all its lanes, or of those given.

    Columns: lane, prompt, seed, trajectory_id, kind, step_index, progress, log_snr, metric, value.
    """
    return db.execute(
        """
        SELECT l.lane, t.prompt, t.seed, t.trajectory_id, q.kind, q.step_index, f.progress, f.log_snr, q.metric, q.value
        FROM study_trajectories l
        JOIN trajectories t USING (trajectory_id)
        JOIN frame_quality q USING (trajectory_id)
        JOIN frames f ON (f.trajectory_id, f.kind, f.step_index, f.video_frame)
                       = (q.trajectory_id, q.kind, q.step_index, 0)
        JOIN study_metrics s ON (s.study_id, s.metric, s.metric_version) = (l.study_id, q.metric, q.metric_version)
        WHERE l.study_id = $study AND ($lanes::VARCHAR[] IS NULL OR list_contains($lanes::VARCHAR[], l.lane))
        ORDER BY l.position, q.metric, q.step_index
        """,
        {"study": study_id, "lanes": None if lanes is None else list(lanes)},
    ).df()


def references(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """A study's converged solutions, lanes by name.

    Columns: prompt, seed, reference_id, reference, check, tolerance, distance, agrees.
    """
    return db.execute(
        """
        SELECT t.prompt, t.seed, r.reference_id, t.lane AS reference, c.lane AS "check", r.tolerance, r.distance,
               coalesce(r.distance <= r.tolerance, false) AS agrees
        FROM study_references r
        LEFT JOIN trajectories t ON t.trajectory_id = r.reference_id
        LEFT JOIN trajectories c ON c.trajectory_id = r.check_id
        WHERE r.study_id = ? ORDER BY t.prompt, t.seed
        """,
        [study_id],
    ).df()


def _without(row: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != key}
