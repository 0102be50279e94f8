"""Converts a cache of release 0.1.0 (schema 6) to the current tables, in a new file beside it.

The old file is only read. The new file replaces it atomically once it is complete, has the expected number of rows and
is synced to disk.
"""

import os
from collections.abc import Callable
from pathlib import Path

import duckdb

from engine.cache import inventory, rows
from engine.cache.inventory import TABLES
from engine.cache.opening import remove
from engine.errors import CacheError

SCHEMA = 6
BATCH_ROWS = 2048
# Metrics of step frames only; plug-ins could not add any.
_FRAME_METRICS = "('similarity_to_final', 'ssim_to_final', 'sharpness_of_final')"
_REFERENCE_METRICS = "('latent_error', 'psnr', 'ssim', 'lpips')"


def _octaves(name: str) -> str:
    """The values of octaves 0, 1, 2, 4, ... as a list of 16."""
    values = ", ".join(f"max(value) FILTER (metric = '{name}_{octave}')" for octave in (0, *(2**n for n in range(15))))
    return f"[{values}]"


def _trimmed(name: str) -> str:
    """The list without trailing NULLs; NULL if nothing is left."""
    last = f"list_max(list_transform({name}, lambda x, i: CASE WHEN x IS NULL THEN 0 ELSE i END))"
    return f"CASE WHEN {last} > 0 THEN {name}[1:{last}] END AS {name}"


_STEPS = f"""
    WITH measured AS (
        SELECT trajectory_id, step_index, any_value(progress) AS progress, any_value(log_snr) AS log_snr,
               max(value) FILTER (metric = 'x0_change') AS x0_change,
               max(value) FILTER (metric = 'x0_distance') AS x0_distance,
               max(value) FILTER (metric = 'guidance_energy') AS guidance_energy,
               {_octaves("power")} AS power, {_octaves("coherence")} AS coherence
        FROM step_metrics GROUP BY trajectory_id, step_index
    )
    SELECT trajectory_id, step_index, coalesce(m.progress, k.progress) AS progress,
           coalesce(m.log_snr, k.log_snr) AS log_snr, x0_change, x0_distance, guidance_energy,
           {_trimmed("power")}, {_trimmed("coherence")}, k.sketch
    FROM measured m FULL JOIN step_sketches k USING (trajectory_id, step_index)
"""
_METRICS = f"""
    SELECT 'picture' AS scope, metric, metric_version, label, unit, direction, smallest_n, NULL AS trusted_n,
           has_true_zero, span, margin,
           contains(metric_version, '|') OR metric IN {_REFERENCE_METRICS} AS needs_reference, false AS may_guard,
           description
    FROM metrics
    UNION ALL
    SELECT 'lane', metric, metric_version, label, unit, direction, smallest_n, trusted_n, false, NULL, NULL, false,
           false, description
    FROM set_metrics
    UNION ALL
    SELECT DISTINCT ON (metric, metric_version) 'frame', metric, metric_version, label, unit, 'neither', 10, NULL,
           false, NULL, NULL, false, false, description
    FROM frame_metrics
"""
_STUDY_METRICS = """
    SELECT study_id, scope, metric, metric_version, unavailable,
           (row_number() OVER (PARTITION BY study_id ORDER BY part, position, metric) - 1)::INTEGER AS position
    FROM (
        SELECT 1 AS part, 'picture' AS scope, study_id, metric, metric_version, position, unavailable FROM study_metrics
        UNION ALL SELECT 2, 'frame', study_id, metric, metric_version, 0, unavailable FROM frame_metrics
        UNION ALL SELECT 3, 'lane', study_id, metric, metric_version, position, unavailable FROM study_set_metrics
    )
"""
_SCORES = f"""
    SELECT 'picture' AS scope, trajectory_id, metric, metric_version, value, NULL AS reason FROM quality
    UNION ALL BY NAME
    SELECT CASE WHEN metric IN {_FRAME_METRICS} THEN 'frame' ELSE 'picture' END AS scope, trajectory_id,
           CASE WHEN metric IN {_FRAME_METRICS} THEN 'x0' END AS kind, metric, metric_version, reason
    FROM unscored
    UNION ALL BY NAME
    SELECT 'frame' AS scope, trajectory_id, kind, step_index, metric, metric_version, value FROM frame_quality
    UNION ALL BY NAME
    SELECT 'lane' AS scope, * EXCLUDE (warning), CASE WHEN value IS NOT NULL THEN warning END AS warning,
           CASE WHEN value IS NULL THEN coalesce(warning, 'unknown') END AS reason
    FROM set_quality
"""
_LINTS = """
    SELECT l.*,
           (SELECT coalesce(list({'timestep': s.timestep, 'sigma': s.sigma, 'told_sigma': s.told_sigma,
                                  'log_snr': s.log_snr} ORDER BY s.call_index), []) FROM schedules s
            WHERE (s.model_id, s.config_id) = (l.model_id, l.config_id)) AS levels,
           (SELECT coalesce(list({'setting': s.setting, 'value': s.value, 'origin': s.origin,
                                  'replaced': s.replaced} ORDER BY s.setting), []) FROM schedule_settings s
            WHERE (s.model_id, s.config_id) = (l.model_id, l.config_id)) AS settings,
           (SELECT coalesce(list({'severity': f.severity, 'code': f.code, 'message': f.message}
                                 ORDER BY f.position), []) FROM schedule_findings f
            WHERE (f.model_id, f.config_id) = (l.model_id, l.config_id)) AS findings
    FROM lints l
"""
# Tables that release 0.1.0 did not have.
_LATER = frozenset({"decisions", "input_pictures"})
# Queries for the rows of tables that have changed since.
_CHANGED = {
    "steps": _STEPS,
    "metrics": _METRICS,
    "study_metrics": _STUDY_METRICS,
    "scores": _SCORES,
    "lints": _LINTS,
}


def convert(source: duckdb.DuckDBPyConnection, target: duckdb.DuckDBPyConnection) -> None:
    """Copies every table of a cache of schema 6 to an empty cache of the current schema, inside a transaction.

    Raises:
        CacheError: Fewer or more rows were written than read.
    """
    for name in dict.fromkeys(table.name for table in TABLES if table.name not in _LATER):
        query = _CHANGED.get(name, f"SELECT * FROM {name}")
        expected = source.execute(f"SELECT count(*) FROM ({query})").fetchall()[0][0]
        batches = source.sql(query).to_arrow_reader(BATCH_ROWS)
        added = rows.put_new(target, inventory.named(name), batches)
        if added != expected:
            raise CacheError(f"Only {added:,} of the {expected:,} rows of the table '{name}' were converted.")


def replace(old: Path, convert_to: Callable[[Path], None]) -> None:
    """Replaces a file with a new one, atomically, once the new one is synced to disk.

    Args:
        old: A file that nobody writes to meanwhile, and that this process does not close.
        convert_to: Creates the new file and closes it.

    Raises:
        CacheError: Another process has replaced the file, or the disk is full.
    """
    new = old.with_name(f".{old.name}.converted")
    before = os.stat(old).st_ino
    try:
        remove(new)
        convert_to(new)
        with new.open("rb+") as stream:
            os.fsync(stream.fileno())
        if os.stat(old).st_ino != before:
            raise CacheError(f"Another process replaced {old} in the meantime; try again.")
        os.replace(new, old)
    finally:
        remove(new)
