"""Lint results of lanes (schedules, settings, findings) and noise floors: writing and reading."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from engine.cache.connection import writing
from engine.cache.limits import fetch
from engine.cache.rows import now, put
from engine.study.study import canonical


@dataclass(frozen=True)
class LintRow:
    """The lint result of a lane on a model; see the table `lints`.

    Attributes:
        levels: (timestep, sigma, told_sigma, log_snr) of each denoiser call.
        settings: (setting, value, origin, replaced).
        findings: (severity, code, message).
        dry_run: How a call went whose denoiser says nothing (`engine.passes.foresight`); None: not tried.
    """

    model_id: str
    config_id: str
    lint_version: int
    calls: int | None
    final_sigma: float | None
    levels: tuple[tuple[float, float, float, float], ...]
    settings: tuple[tuple[str, Any, str, Any], ...]
    findings: tuple[tuple[str, str, str], ...]
    dry_run: dict[str, Any] | None = None


@dataclass(frozen=True)
class NoiseRow:
    """Distance between runs of a lane that differ in one variation only; see the table `noise_floors`."""

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


def write_lints(path: Path, rows: Sequence[LintRow], patience: float | None = None) -> None:
    """Writes lint results in one transaction, replacing earlier ones of the same lanes.

    Raises:
        CacheError: The file cannot be used.
    """
    if not rows:
        return
    time = now()
    with writing(path, patience) as db:
        put(db, "lints", [_lint(row) | {"created_at": time} for row in rows])


def write_noise(path: Path, rows: Sequence[NoiseRow]) -> None:
    """Writes noise floors in one transaction, replacing earlier ones of the same lane and variation.

    Raises:
        CacheError: The file cannot be used.
    """
    time = now()
    with writing(path) as db:
        put(db, "noise_floors", [vars(row) | {"created_at": time} for row in rows])


def linted(db: duckdb.DuckDBPyConnection, model_id: str, config_ids: Collection[str], version: int) -> set[str]:
    """The lanes (config ids) already linted on this model by this version of the linter."""
    rows = db.execute(
        "SELECT config_id FROM lints WHERE model_id = ? AND lint_version = ? AND list_contains(?, config_id)",
        [model_id, version, list(config_ids)],
    ).fetchall()
    return {row[0] for row in rows}


def dry_runs(db: duckdb.DuckDBPyConnection, model_id: str) -> dict[str, dict[str, Any]]:
    """How dry runs of lanes on a model went, by config_id; what a stranger may have put in their place is left out."""
    rows = db.execute("SELECT config_id, dry_run FROM lints WHERE model_id = ? AND dry_run IS NOT NULL", [model_id])
    found = {key: json.loads(text) for key, text in rows.fetchall()}
    return {key: value for key, value in found.items() if isinstance(value, dict)}


_LANES = """
    WITH lanes AS (
        SELECT l.lane, min(l.position) AS place, t.model_id, t.config_id
        FROM study_trajectories l JOIN trajectories t USING (trajectory_id) WHERE l.study_id = ? GROUP BY ALL
    )
"""


def schedules(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The noise levels of a study's lanes, call by call, in the study's order.

    Columns: lane, call_index, calls, timestep, sigma (measured in the latents), told_sigma (implied by the timestep),
    log_snr, final_sigma (left in the finished latents).
    """
    return fetch(
        db,
        _LANES
        + """
        SELECT lane, place_of_call - 1 AS call_index, calls, level.timestep, level.sigma, level.told_sigma,
               level.log_snr, final_sigma
        FROM (
            SELECT x.lane, x.place, c.calls, c.final_sigma, unnest(c.levels) AS level,
                   generate_subscripts(c.levels, 1)::INTEGER AS place_of_call
            FROM lanes x JOIN lints c USING (model_id, config_id)
        ) ORDER BY place, call_index
        """,
        [study_id],
    )


def findings(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """Lint findings on a study's lanes, in the study's order, worst first.

    Columns: lane, severity, code, message.
    """
    return fetch(
        db,
        _LANES
        + """
        SELECT lane, finding.severity, finding.code, finding.message
        FROM (
            SELECT x.lane, x.place, unnest(c.findings) AS finding, generate_subscripts(c.findings, 1) AS number
            FROM lanes x JOIN lints c USING (model_id, config_id)
        ) ORDER BY place, number
        """,
        [study_id],
    )


def settings(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """Every setting of a study's lanes. Columns: lane, setting, value (JSON), origin, replaced (JSON or None)."""
    return fetch(
        db,
        _LANES
        + """
        SELECT lane, item.setting, item."value", item.origin, item.replaced
        FROM (
            SELECT x.lane, x.place, unnest(c.settings) AS item FROM lanes x JOIN lints c USING (model_id, config_id)
        ) ORDER BY place, item.setting
        """,
        [study_id],
    )


def noise(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """Noise floors that match a study's cells in model, guidance, size, number format and environment.

    Columns: those of `noise_floors`, and device_name.
    """
    return fetch(
        db,
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
    )


def _lint(row: LintRow) -> dict[str, Any]:
    settings = [
        {
            "setting": name,
            "value": _json(value),
            "origin": origin,
            "replaced": None if replaced is None else _json(replaced),
        }
        for name, value, origin, replaced in row.settings
    ]
    return vars(row) | {
        "levels": [
            dict(zip(("timestep", "sigma", "told_sigma", "log_snr"), level, strict=True)) for level in row.levels
        ],
        "settings": settings,
        "dry_run": None if row.dry_run is None else canonical(row.dry_run),
        "findings": [dict(zip(("severity", "code", "message"), finding, strict=True)) for finding in row.findings],
    }


def _json(value: Any) -> str:
    """Encodes as JSON; values it cannot express (infinity, objects) as text."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(str(value))
