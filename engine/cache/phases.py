"""How pictures form, as the cache knows it: curves of steps and frames, sketches, changes of prompt. Plain data."""

import datetime
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from engine.cache.connection import migrate, writing
from engine.cache.quality import FAILED, FrameScoreRow, ScoreRow
from engine.cache.writer import insert_rows

SKETCH_BYTES = 256


@dataclass(frozen=True)
class FrameMetricRow:
    """A metric of step frames as a study uses it; `unavailable` says why it could not be measured at all."""

    metric: str
    metric_version: str
    label: str
    unit: str
    description: str
    unavailable: str | None = None


@dataclass(frozen=True)
class SwapRow:
    """A run that begins with one prompt and ends with another; see the table `commitment`."""

    swap_id: str
    environment_id: str
    model_id: str
    lane: str
    first_id: str
    second_id: str
    first_prompt: str
    second_prompt: str
    seed: int
    guidance_scale: float
    share: float
    calls: int | None = None
    swap_call: int | None = None
    progress: float | None = None
    log_snr: float | None = None
    first_distance: float | None = None
    second_distance: float | None = None
    first_probability: float | None = None
    judge: str | None = None
    image: bytes | None = None
    error: str | None = None


class PhasesWriter:
    """Writes what is known of phases; each call is one transaction, and rows that exist already are replaced."""

    def __init__(self, path: Path) -> None:
        """Migrates an older cache.

        Raises:
            CacheError: The file cannot be used.
        """
        self.path = path
        migrate(path)

    def frame_metrics(self, study_id: str, rows: Sequence[FrameMetricRow]) -> None:
        """Records which metrics of step frames a study uses."""
        with writing(self.path) as db:
            db.execute("DELETE FROM frame_metrics WHERE study_id = ?", [study_id])
            insert_rows(db, "frame_metrics", [{"study_id": study_id, **asdict(row)} for row in rows])

    def frame_scores(self, rows: Sequence[FrameScoreRow], unscored: Sequence[ScoreRow] = ()) -> None:
        """Writes scores of step frames, and the reasons why a cell's frames have none."""
        every: list[FrameScoreRow | ScoreRow] = [*rows, *unscored]
        with writing(self.path) as db:
            for metric, version in sorted({(row.metric, row.metric_version) for row in every}):
                ids = {row.trajectory_id for row in every if (row.metric, row.metric_version) == (metric, version)}
                for table in ("frame_quality", "unscored"):
                    db.execute(
                        f"DELETE FROM {table} WHERE metric = ? AND metric_version = ? "
                        "AND list_contains(?, trajectory_id)",
                        [metric, version, sorted(ids)],
                    )
            insert_rows(db, "frame_quality", [asdict(row) for row in rows])
            reasons = [{key: value for key, value in asdict(row).items() if key != "value"} for row in unscored]
            insert_rows(db, "unscored", reasons)

    def swaps(self, rows: Sequence[SwapRow]) -> None:
        """Writes runs whose prompt changes."""
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        with writing(self.path) as db:
            db.execute("DELETE FROM commitment WHERE list_contains(?, swap_id)", [[row.swap_id for row in rows]])
            insert_rows(db, "commitment", [{**asdict(row), "created_at": now} for row in rows])

    def study_swaps(self, study_id: str, ids: Sequence[str]) -> None:
        """Records which changes of prompt a study shows."""
        with writing(self.path) as db:
            db.execute("DELETE FROM study_swaps WHERE study_id = ?", [study_id])
            links = [{"study_id": study_id, "swap_id": key, "position": place} for place, key in enumerate(ids)]
            insert_rows(db, "study_swaps", links)


def swapped(db: duckdb.DuckDBPyConnection, ids: Collection[str]) -> set[str]:
    """Which of the changes of prompt are done."""
    rows = db.execute(
        "SELECT swap_id FROM commitment WHERE error IS NULL AND list_contains(?, swap_id)", [list(ids)]
    ).fetchall()
    return {row[0] for row in rows}


def commitment(db: duckdb.DuckDBPyConnection, study_id: str, *, images: bool = False) -> pd.DataFrame:
    """The changes of prompt of a study, with device_name; the pictures only if asked for."""
    without = "" if images else "EXCLUDE (image)"
    return db.execute(
        f"""
        SELECT c.* {without}, e.device_name FROM study_swaps s JOIN commitment c USING (swap_id)
        LEFT JOIN environments e USING (environment_id) WHERE s.study_id = ? ORDER BY s.position
        """,
        [study_id],
    ).df()


def frame_metrics(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The metrics of step frames of a study. Columns: metric, metric_version, label, unit, description, unavailable."""
    return db.execute(
        "SELECT * EXCLUDE (study_id) FROM frame_metrics WHERE study_id = ? ORDER BY metric", [study_id]
    ).df()


def frame_scored(db: duckdb.DuckDBPyConnection, ids: Collection[str]) -> set[tuple[str, str, str]]:
    """(trajectory_id, metric, metric_version) of cells whose step frames have scores, or a lasting reason for none."""
    rows = db.execute(
        "SELECT DISTINCT trajectory_id, metric, metric_version FROM frame_quality "
        "WHERE list_contains($ids, trajectory_id) "
        "UNION SELECT trajectory_id, metric, metric_version FROM unscored WHERE list_contains($ids, trajectory_id) "
        "AND NOT starts_with(reason, $failed)",
        {"ids": list(ids), "failed": FAILED},
    ).fetchall()
    return {(row[0], row[1], row[2]) for row in rows}


def step_curves(db: duckdb.DuckDBPyConnection, study_id: str, lane: str) -> pd.DataFrame:
    """All step metrics of the finished cells of a lane.

    Columns: lane, prompt, seed, trajectory_id, step_index, progress, log_snr, metric, value.
    """
    return db.execute(
        """
        SELECT l.lane, t.prompt, t.seed, m.*
        FROM study_trajectories l JOIN trajectories t USING (trajectory_id) JOIN step_metrics m USING (trajectory_id)
        WHERE l.study_id = $study AND t.status = 'done' AND l.lane = $lane
          AND isfinite(m.value) AND isfinite(m.progress) AND isfinite(coalesce(m.log_snr, 0))
        ORDER BY l.position, m.metric, m.step_index
        """,
        {"study": study_id, "lane": lane},
    ).df()


def frame_curves(db: duckdb.DuckDBPyConnection, study_id: str, lane: str) -> pd.DataFrame:
    """All metrics of x0 frames of a lane, in the versions the study uses. Columns as in `step_curves`."""
    return db.execute(
        """
        WITH used AS (
            SELECT metric, metric_version FROM frame_metrics WHERE study_id = $study
            UNION SELECT metric, metric_version FROM study_metrics WHERE study_id = $study
        )
        SELECT l.lane, t.prompt, t.seed, t.trajectory_id, q.step_index, f.progress, f.log_snr, q.metric, q.value
        FROM study_trajectories l
        JOIN trajectories t USING (trajectory_id)
        JOIN frame_quality q USING (trajectory_id)
        JOIN used u ON (u.metric, u.metric_version) = (q.metric, q.metric_version)
        JOIN frames f ON (f.trajectory_id, f.kind, f.step_index, f.video_frame)
                       = (q.trajectory_id, q.kind, q.step_index, 0)
        WHERE l.study_id = $study AND t.status = 'done' AND l.lane = $lane AND q.kind = 'x0'
          AND isfinite(q.value) AND isfinite(f.progress) AND isfinite(coalesce(f.log_snr, 0))
        ORDER BY l.position, q.metric, q.step_index
        """,
        {"study": study_id, "lane": lane},
    ).df()


def sketches(
    db: duckdb.DuckDBPyConnection, study_id: str, prompt: str, seed: int, lanes: Sequence[str]
) -> pd.DataFrame:
    """The sketched paths of lanes on one prompt and seed. Columns: lane, step_index, progress, log_snr, sketch."""
    found = db.execute(
        """
        SELECT l.lane, k.step_index, k.progress, k.log_snr, k.sketch
        FROM study_trajectories l JOIN trajectories t USING (trajectory_id) JOIN step_sketches k USING (trajectory_id)
        WHERE l.study_id = $study AND t.status = 'done' AND t.prompt = $prompt AND t.seed = $seed
          AND list_contains($lanes, l.lane) AND octet_length(k.sketch) = $bytes
        ORDER BY l.position, k.step_index
        """,
        {"study": study_id, "prompt": prompt, "seed": seed, "lanes": list(lanes), "bytes": SKETCH_BYTES},
    ).df()
    found["sketch"] = [np.frombuffer(bytes(data), "<f2").astype(np.float64) for data in found["sketch"]]
    whole = np.array([np.isfinite(vector).all() for vector in found["sketch"]], dtype=bool)
    return found.loc[whole].reset_index(drop=True)
