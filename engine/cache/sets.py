"""Metrics of whole sets in the cache: what is measured, what was found, and writing it. Reads return plain data."""

import datetime
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import duckdb
import pandas as pd

from engine.cache.connection import migrate, writing
from engine.cache.quality import FAILED, StudyMetricRow
from engine.cache.writer import insert_rows


@dataclass(frozen=True)
class SetMetricRow:
    """What a set metric means; see the table `set_metrics`."""

    metric: str
    metric_version: str
    label: str
    unit: str
    direction: str
    smallest_n: int
    trusted_n: int
    description: str


@dataclass(frozen=True)
class SetRow:
    """What a metric says of a lane's pictures; see the table `set_quality`."""

    lane: str
    against: str
    metric: str
    metric_version: str
    features: str
    n: int
    prompts: int
    value: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    warning: str | None
    set_id: str


class SetsWriter:
    """Writes set metrics; each call is one transaction, and rows that exist already are replaced."""

    def __init__(self, path: Path) -> None:
        """Migrates an older cache.

        Raises:
            CacheError: The file cannot be used.
        """
        self.path = path
        migrate(path)

    def study(self, study_id: str, metrics: Sequence[SetMetricRow], used: Sequence[StudyMetricRow]) -> None:
        """Records which set metrics a study uses and what they mean."""
        with writing(self.path) as db:
            for row in metrics:
                db.execute(
                    "DELETE FROM set_metrics WHERE metric = ? AND metric_version = ?", [row.metric, row.metric_version]
                )
            db.execute("DELETE FROM study_set_metrics WHERE study_id = ?", [study_id])
            insert_rows(db, "set_metrics", [asdict(row) for row in metrics])
            places = [{"study_id": study_id, "position": place, **asdict(row)} for place, row in enumerate(used)]
            insert_rows(db, "study_set_metrics", places)

    def values(self, study_id: str, rows: Sequence[SetRow]) -> None:
        """Writes what metrics say of sets."""
        if any(row.value is not None and not math.isfinite(row.value) for row in rows):
            raise ValueError("A value of a set is not finite.")
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        with writing(self.path) as db:
            for row in rows:
                db.execute(
                    "DELETE FROM set_quality WHERE study_id = ? AND lane = ? AND against = ? AND metric = ? "
                    "AND metric_version = ?",
                    [study_id, row.lane, row.against, row.metric, row.metric_version],
                )
                db.execute(
                    "INSERT INTO set_quality VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [study_id, *asdict(row).values(), now],
                )


def set_id(lane: Collection[str], against: Collection[str]) -> str:
    """Digest of the cells on both sides, whatever their order."""
    return sha256("\n".join([*sorted(lane), "", *sorted(against)]).encode()).hexdigest()[:16]


def measured(db: duckdb.DuckDBPyConnection, study_id: str) -> dict[tuple[str, str, str, str], str]:
    """(lane, against, metric, metric_version) -> set_id, of all that has a value or a lasting reason for none."""
    rows = db.execute(
        "SELECT lane, against, metric, metric_version, set_id FROM set_quality WHERE study_id = ? "
        "AND NOT coalesce(starts_with(warning, ?), false)",
        [study_id, FAILED],
    ).fetchall()
    return {tuple(row[:4]): row[4] for row in rows}


def recorded(db: duckdb.DuckDBPyConnection, study_id: str) -> list[StudyMetricRow]:
    """The set metrics of a study as they were last recorded."""
    rows = db.execute(
        "SELECT metric, metric_version, unavailable FROM study_set_metrics WHERE study_id = ? ORDER BY position",
        [study_id],
    ).fetchall()
    return [StudyMetricRow(*row) for row in rows]


def set_metrics(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The set metrics of a study in its order: columns of `set_metrics`, and `unavailable` (why, or None)."""
    return db.execute(
        "SELECT m.*, s.unavailable FROM study_set_metrics s JOIN set_metrics m USING (metric, metric_version) "
        "WHERE s.study_id = ? ORDER BY s.position",
        [study_id],
    ).df()


def set_quality(db: duckdb.DuckDBPyConnection, study_id: str, against: Sequence[str]) -> pd.DataFrame:
    """What the set metrics say of a study's lanes, in the versions the study uses, against some lanes, in their order.

    Columns: those of `set_quality` but the study's, and label, unit, direction.
    """
    return db.execute(
        """
        SELECT q.* EXCLUDE (study_id), m.label, m.unit, m.direction
        FROM set_quality q
        JOIN study_set_metrics s USING (study_id, metric, metric_version)
        JOIN set_metrics m USING (metric, metric_version)
        JOIN (SELECT lane, min(position) AS place FROM study_trajectories WHERE study_id = $study GROUP BY lane) l
            ON l.lane = q.lane
        WHERE q.study_id = $study AND list_contains($against, q.against)
        ORDER BY list_position($against, q.against), s.position, l.place
        """,
        {"study": study_id, "against": list(against)},
    ).df()
