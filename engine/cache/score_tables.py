"""Scores of pictures, step frames and whole lanes: writing and reading."""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import duckdb
import pandas as pd

from engine.cache.connection import writing
from engine.cache.limits import fetch
from engine.cache.rows import clear, now, put

# Prefix of the reason if a metric raised an error; such scores are tried again.
FAILED = "failed:"


@dataclass(frozen=True)
class MetricRow:
    """A metric of a study with its description; see the tables `metrics` and `study_metrics`."""

    scope: str
    metric: str
    metric_version: str
    label: str
    unit: str
    direction: str
    smallest_n: int
    trusted_n: int | None
    has_true_zero: bool
    span: float | None
    margin: float | None
    needs_reference: bool
    may_guard: bool
    description: str
    unavailable: str | None = None


@dataclass(frozen=True)
class ReferenceRow:
    """A converged solution, its check, and the distance between them; see the table `study_references`."""

    reference_id: str
    check_id: str
    tolerance: float
    distance: float | None


@dataclass(frozen=True)
class ScoreRow:
    """A metric's value, or the reason why there is none; see the table `scores`."""

    scope: str
    metric: str
    metric_version: str
    value: float | None = None
    reason: str | None = None
    trajectory_id: str | None = None
    study_id: str | None = None
    lane: str | None = None
    against: str | None = None
    kind: str | None = None
    step_index: int | None = None
    warning: str | None = None
    n: int | None = None
    prompts: int | None = None
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    features: str | None = None
    set_id: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the metric raised an error."""
        return (self.reason or "").startswith(FAILED)


def record(path: Path, study_id: str, metrics: Sequence[MetricRow], references: Sequence[ReferenceRow]) -> None:
    """Replaces the metrics and references of a study, and updates the descriptions of the metrics."""
    own = ("study_id", "position", "scope", "metric", "metric_version", "unavailable")
    plain = [asdict(row) for row in metrics]
    with writing(path) as db:
        put(db, "metrics", [{key: value for key, value in row.items() if key != "unavailable"} for row in plain])
        for table in ("study_metrics", "study_references"):
            clear(db, table, [study_id], "study_id")
        for place, row in enumerate(plain):
            row |= {"study_id": study_id, "position": place}
        put(db, "study_metrics", [{key: row[key] for key in own} for row in plain])
        put(db, "study_references", [{"study_id": study_id, **asdict(row)} for row in references])


def write_scores(path: Path, rows: Sequence[ScoreRow]) -> None:
    """Writes scores in one transaction, replacing all earlier ones of the same metric and cell or lane.

    Raises:
        ValueError: A value is not finite.
        CacheError: The file cannot be used.
    """
    if any(row.value is not None and not math.isfinite(row.value) for row in rows):
        raise ValueError("A score is not finite.")
    time = now()
    with writing(path) as db:
        put(db, "scores", [asdict(row) | {"created_at": time if row.scope == "lane" else None} for row in rows])


def set_id(lane: Collection[str], against: Collection[str]) -> str:
    """Digest of the cells on both sides, independent of their order."""
    return sha256("\n".join([*sorted(lane), "", *sorted(against)]).encode()).hexdigest()[:16]


def scored(db: duckdb.DuckDBPyConnection, ids: Collection[str]) -> set[tuple[str, str, str, str]]:
    """(scope, trajectory_id, metric, metric_version) of all scores that are final: a value, or a permanent reason."""
    rows = db.execute(
        "SELECT DISTINCT scope, trajectory_id, metric, metric_version FROM scores "
        "WHERE scope <> 'lane' AND trajectory_id IN (SELECT unnest(?::VARCHAR[])) "
        "AND NOT coalesce(starts_with(reason, ?), false)",
        [list(ids), FAILED],
    ).fetchall()
    return {(row[0], row[1], row[2], row[3]) for row in rows}


def scored_sets(db: duckdb.DuckDBPyConnection, study_id: str) -> dict[tuple[str, str, str, str], str]:
    """(lane, against, metric, metric_version) -> set_id, of all lane scores that are final."""
    rows = db.execute(
        "SELECT lane, against, metric, metric_version, set_id FROM scores "
        "WHERE scope = 'lane' AND study_id = ? AND NOT coalesce(starts_with(reason, ?), false)",
        [study_id, FAILED],
    ).fetchall()
    return {tuple(row[:4]): row[4] for row in rows}


def recorded(db: duckdb.DuckDBPyConnection, study_id: str) -> tuple[list[MetricRow], list[ReferenceRow]]:
    """The metrics and references of a study as last written by `record`."""
    meant = db.execute(
        "SELECT m.*, s.unavailable FROM study_metrics s JOIN metrics m USING (scope, metric, metric_version) "
        "WHERE s.study_id = ? ORDER BY s.position",
        [study_id],
    ).fetchall()
    pairs = db.execute(
        "SELECT reference_id, check_id, tolerance, distance FROM study_references WHERE study_id = ? "
        "ORDER BY reference_id",
        [study_id],
    ).fetchall()
    return [MetricRow(*row) for row in meant], [ReferenceRow(*row) for row in pairs]


def metrics(db: duckdb.DuckDBPyConnection, study_id: str, scope: str = "picture") -> pd.DataFrame:
    """The metrics of a study with this scope ("picture", "frame" or "lane"), in the study's order.

    Columns: those of `metrics`, and `unavailable` (why the metric has no values, or None).
    """
    return fetch(
        db,
        "SELECT m.*, s.unavailable FROM study_metrics s JOIN metrics m USING (scope, metric, metric_version) "
        "WHERE s.study_id = ? AND s.scope = ? ORDER BY s.position",
        [study_id, scope],
    )


def picture_scores(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """Scores of a study's finished cells, in the metric versions the study uses.

    Columns: lane, prompt, seed, trajectory_id, metric, metric_version, value.
    """
    return fetch(
        db,
        """
        SELECT l.lane, t.prompt, t.seed, t.trajectory_id, q.metric, q.metric_version, q.value, s.position AS place,
               l.position
        FROM study_trajectories l
        JOIN trajectories t USING (trajectory_id)
        JOIN scores q USING (trajectory_id)
        JOIN study_metrics s ON (s.study_id, s.scope, s.metric, s.metric_version)
                              = (l.study_id, q.scope, q.metric, q.metric_version)
        WHERE l.study_id = ? AND t.status = 'done' AND q.scope = 'picture' AND q.value IS NOT NULL
        """,
        [study_id],
        order="place, position",
        unread=["place", "position"],
    )


def picture_reasons(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """Cells of a study without a value, by metric. Columns: lane, prompt, seed, metric, reason."""
    return fetch(
        db,
        """
        SELECT l.lane, t.prompt, t.seed, q.metric, q.reason, s.position AS place, l.position
        FROM study_trajectories l
        JOIN trajectories t USING (trajectory_id)
        JOIN scores q USING (trajectory_id)
        JOIN study_metrics s ON (s.study_id, s.scope, s.metric, s.metric_version)
                              = (l.study_id, q.scope, q.metric, q.metric_version)
        WHERE l.study_id = ? AND q.scope = 'picture' AND q.value IS NULL
        """,
        [study_id],
        order="place, position",
        unread=["place", "position"],
    )


_FRAME_SCORES = """
    SELECT l.lane, t.prompt, t.seed, t.trajectory_id, q.kind, q.step_index, f.progress, f.log_snr, q.metric, q.value,
           l.position
    FROM study_trajectories l
    JOIN trajectories t USING (trajectory_id)
    JOIN scores q USING (trajectory_id)
    JOIN study_metrics s ON (s.study_id, s.metric, s.metric_version) = (l.study_id, q.metric, q.metric_version)
    JOIN frames f ON (f.trajectory_id, f.kind, f.step_index, f.video_frame)
                   = (q.trajectory_id, q.kind, q.step_index, 0)
    WHERE l.study_id = $study AND q.scope = 'frame' AND q.value IS NOT NULL
"""


_BY_STEP = "position, metric, step_index"


def frame_scores(db: duckdb.DuckDBPyConnection, study_id: str, lanes: Sequence[str] | None = None) -> pd.DataFrame:
    """Scores of step frames by picture metrics, of all lanes of a study or of those given.

    Columns: lane, prompt, seed, trajectory_id, kind, step_index, progress, log_snr, metric, value.
    """
    return fetch(
        db,
        f"""{_FRAME_SCORES} AND s.scope = 'picture'
        AND ($lanes::VARCHAR[] IS NULL OR list_contains($lanes::VARCHAR[], l.lane))
        """,
        {"study": study_id, "lanes": None if lanes is None else list(lanes)},
        order=_BY_STEP,
        unread=["position"],
    )


def frame_curves(db: duckdb.DuckDBPyConnection, study_id: str, lane: str) -> pd.DataFrame:
    """All finite scores of the x0 frames of a lane's finished cells. Columns: as in `step_tables.step_curves`."""
    return fetch(
        db,
        f"""{_FRAME_SCORES} AND s.scope IN ('picture', 'frame')
        AND t.status = 'done' AND l.lane = $lane AND q.kind = 'x0'
        AND isfinite(q.value) AND isfinite(f.progress) AND isfinite(coalesce(f.log_snr, 0))
        """,
        {"study": study_id, "lane": lane},
        order=_BY_STEP,
        unread=["kind", "position"],
    )


def lane_scores(db: duckdb.DuckDBPyConnection, study_id: str, against: Sequence[str]) -> pd.DataFrame:
    """Scores of whole lanes of a study, in the metric versions it uses, against the given lanes, in their order.

    Columns: lane, against, metric, metric_version, features, n, prompts, value, low, high, standard_error, warning (why
    the value is unreliable or missing), reason, set_id, created_at, label, unit, direction.
    """
    return fetch(
        db,
        """
        SELECT q.lane, q.against, q.metric, q.metric_version, q.features, q.n, q.prompts, q.value, q.low, q.high,
               q.standard_error, coalesce(q.warning, q.reason) AS warning, q.reason, q.set_id, q.created_at,
               m.label, m.unit, m.direction
        FROM scores q
        JOIN study_metrics s USING (study_id, scope, metric, metric_version)
        JOIN metrics m USING (scope, metric, metric_version)
        JOIN (SELECT lane, min(position) AS place FROM study_trajectories WHERE study_id = $study GROUP BY lane) l
            ON l.lane = q.lane
        WHERE q.study_id = $study AND q.scope = 'lane' AND list_contains($against, q.against)
        ORDER BY list_position($against, q.against), s.position, l.place
        """,
        {"study": study_id, "against": list(against)},
    )


def references(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The converged solutions of a study, with the names of their lanes.

    Columns: prompt, seed, reference_id, reference, check, tolerance, distance, agrees.
    """
    return fetch(
        db,
        """
        SELECT t.prompt, t.seed, r.reference_id, t.lane AS reference, c.lane AS "check", r.tolerance, r.distance,
               coalesce(r.distance <= r.tolerance, false) AS agrees
        FROM study_references r
        LEFT JOIN trajectories t ON t.trajectory_id = r.reference_id
        LEFT JOIN trajectories c ON c.trajectory_id = r.check_id
        WHERE r.study_id = ? ORDER BY t.prompt, t.seed
        """,
        [study_id],
    )
