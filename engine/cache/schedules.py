"""Schedules, findings about lanes, and noise floors in the cache: writing them, and questions about them."""

import datetime
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from engine.cache.connection import migrate, writing
from engine.cache.writer import insert_rows

TABLES = ("lints", "schedules", "schedule_settings", "schedule_findings")


@dataclass(frozen=True)
class LintRow:
    """What is known of a lane on a model; see the tables of `engine/cache/tables/schedules.py`.

    Attributes:
        levels: (timestep, sigma, told_sigma, log_snr) of each denoiser call.
        settings: (setting, value, origin, replaced).
        findings: (severity, code, message).
    """

    model_id: str
    config_id: str
    lint_version: int
    calls: int | None
    final_sigma: float | None
    levels: tuple[tuple[float, float, float, float], ...]
    settings: tuple[tuple[str, Any, str, Any], ...]
    findings: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class NoiseRow:
    """How far runs of a lane are apart that differ in one variation only; see the table `noise_floors`."""

    environment_id: str
    model_id: str
    config_id: str
    lane: str
    dtype: str
    guidance_scale: float
    width: int
    height: int
    variation: str
    metric: str
    n: int
    median: float | None = None
    largest: float | None = None
    reason: str | None = None


def write_lints(path: Path, rows: Sequence[LintRow]) -> None:
    """Writes what is known of lanes in one transaction; what was there of the same lanes is replaced.

    Raises:
        CacheError: The file cannot be used.
    """
    if not rows:
        return
    migrate(path)
    now = _now()
    with writing(path) as db:
        for row in rows:
            for table in TABLES:
                db.execute(f"DELETE FROM {table} WHERE model_id = ? AND config_id = ?", [row.model_id, row.config_id])
        insert_rows(
            db,
            "lints",
            [
                _id(row)
                | {
                    "lint_version": row.lint_version,
                    "calls": row.calls,
                    "final_sigma": row.final_sigma,
                    "created_at": now,
                }
                for row in rows
            ],
        )
        insert_rows(
            db,
            "schedules",
            [
                _id(row)
                | {"call_index": index, "timestep": timestep, "sigma": sigma, "told_sigma": told, "log_snr": snr}
                for row in rows
                for index, (timestep, sigma, told, snr) in enumerate(row.levels)
            ],
        )
        insert_rows(
            db,
            "schedule_settings",
            [
                _id(row)
                | {
                    "setting": name,
                    "value": _json(value),
                    "origin": origin,
                    "replaced": None if replaced is None else _json(replaced),
                }
                for row in rows
                for name, value, origin, replaced in row.settings
            ],
        )
        insert_rows(
            db,
            "schedule_findings",
            [
                _id(row) | {"position": position, "severity": severity, "code": code, "message": message}
                for row in rows
                for position, (severity, code, message) in enumerate(row.findings)
            ],
        )


def write_noise(path: Path, rows: Sequence[NoiseRow]) -> None:
    """Writes noise floors in one transaction; older ones of the same lane and variation are replaced.

    Raises:
        CacheError: The file cannot be used.
    """
    migrate(path)
    now = _now()
    with writing(path) as db:
        for row in rows:
            db.execute(
                "DELETE FROM noise_floors WHERE environment_id = ? AND model_id = ? AND config_id = ? AND dtype = ? "
                "AND guidance_scale = ? AND width = ? AND height = ? AND variation = ? AND metric = ?",
                [
                    row.environment_id,
                    row.model_id,
                    row.config_id,
                    row.dtype,
                    row.guidance_scale,
                    row.width,
                    row.height,
                    row.variation,
                    row.metric,
                ],
            )
        insert_rows(db, "noise_floors", [vars(row) | {"created_at": now} for row in rows])


def linted(db: duckdb.DuckDBPyConnection, model_id: str, config_ids: Collection[str], version: int) -> set[str]:
    """Which of the lanes have been looked at by this version of the lint on this model."""
    rows = db.execute(
        "SELECT config_id FROM lints WHERE model_id = ? AND lint_version = ? AND list_contains(?, config_id)",
        [model_id, version, list(config_ids)],
    ).fetchall()
    return {row[0] for row in rows}


_LANES = """
    WITH lanes AS (
        SELECT l.lane, min(l.position) AS place, t.model_id, t.config_id
        FROM study_trajectories l JOIN trajectories t USING (trajectory_id) WHERE l.study_id = ? GROUP BY ALL
    )
"""


def schedules(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The noise levels of a study's lanes, call by call, in the study's order.

    Columns: lane, call_index, calls, timestep, sigma (that the latents have), told_sigma (that the timestep names),
    log_snr, final_sigma (left in the finished latents).
    """
    return db.execute(
        _LANES + "SELECT x.lane, s.call_index, c.calls, s.timestep, s.sigma, s.told_sigma, s.log_snr, c.final_sigma "
        "FROM lanes x JOIN schedules s USING (model_id, config_id) JOIN lints c USING (model_id, config_id) "
        "ORDER BY x.place, s.call_index",
        [study_id],
    ).df()


def findings(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """What is remarkable about a study's lanes, in the study's order, worst first.

    Columns: lane, severity, code, message.
    """
    return db.execute(
        _LANES + "SELECT x.lane, f.severity, f.code, f.message FROM lanes x "
        "JOIN schedule_findings f USING (model_id, config_id) ORDER BY x.place, f.position",
        [study_id],
    ).df()


def settings(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """Every setting of a study's lanes. Columns: lane, setting, value (JSON), origin, replaced (JSON or None)."""
    return db.execute(
        _LANES + "SELECT x.lane, s.setting, s.value, s.origin, s.replaced FROM lanes x "
        "JOIN schedule_settings s USING (model_id, config_id) ORDER BY x.place, s.setting",
        [study_id],
    ).df()


def noise(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """Noise floors measured on the model, guidance, picture size and number format of a study's cells, in the
    environments they were computed in.

    Columns: those of `noise_floors`, and device_name.
    """
    return db.execute(
        """
        WITH places AS (
            SELECT DISTINCT t.environment_id, t.model_id, t.dtype, t.guidance_scale, t.width, t.height
            FROM study_trajectories l JOIN trajectories t USING (trajectory_id) WHERE l.study_id = ?
        )
        SELECT n.*, e.device_name FROM noise_floors n
        JOIN places USING (environment_id, model_id, dtype, guidance_scale, width, height)
        JOIN environments e USING (environment_id)
        ORDER BY e.device_name, n.environment_id, n.lane, n.variation, n.metric
        """,
        [study_id],
    ).df()


def paths(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The sketched x0 paths of all deterministic runs of a study that have a ground truth, and of its references.

    Noise levels are those measured of the lane (`schedules`), or else those its timesteps name.
    Columns: role ("lane", "reference" or "check"), lane, prompt, seed, step_index, log_snr, sketch.
    """
    found = db.execute(
        """
        WITH truths AS (
            SELECT r.reference_id, r.check_id, t.prompt, t.seed
            FROM study_references r JOIN trajectories t ON t.trajectory_id = r.reference_id
            WHERE r.study_id = $study AND r.distance <= r.tolerance
        ), runs AS (
            SELECT 'lane' AS role, l.lane, l.trajectory_id
            FROM study_trajectories l JOIN trajectories t USING (trajectory_id) JOIN truths USING (prompt, seed)
            WHERE l.study_id = $study AND t.status = 'done'
            AND EXISTS (SELECT 1 FROM quality q WHERE q.trajectory_id = l.trajectory_id AND q.metric = 'latent_error')
            UNION ALL SELECT 'reference', 'reference', reference_id FROM truths
            UNION ALL SELECT 'check', 'check', check_id FROM truths
        )
        SELECT x.role, x.lane, t.prompt, t.seed, k.step_index, coalesce(s.log_snr, k.log_snr) AS log_snr, k.sketch
        FROM runs x JOIN trajectories t USING (trajectory_id) JOIN step_sketches k USING (trajectory_id)
        LEFT JOIN schedules s ON (s.model_id, s.config_id, s.call_index) = (t.model_id, t.config_id, k.step_index)
        WHERE k.log_snr IS NOT NULL
        ORDER BY x.role, x.lane, t.prompt, t.seed, k.step_index
        """,
        {"study": study_id},
    ).df()
    found["sketch"] = [np.frombuffer(bytes(data), "<f2").astype(np.float64) for data in found["sketch"]]
    return found


def _id(row: LintRow) -> dict[str, Any]:
    return {"model_id": row.model_id, "config_id": row.config_id}


def _json(value: Any) -> str:
    """JSON; what it has no word for (infinity, objects of a configuration) as text."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(str(value))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
