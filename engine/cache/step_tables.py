"""Per-step measurements in the cache: curves of step metrics, and sketches of x0 paths."""

from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import pandas as pd

from engine.cache.limits import fetch

SKETCH_BYTES = 256
_NUMBERS = ("x0_change", "x0_distance", "motion_energy", "guidance_energy")
_COLUMNS = ", ".join([*_NUMBERS, "power", "coherence"])
# One row per metric and step of the table `mine`; octaves are 0, 1, 2, 4, 8, ...
_PLAIN = " UNION ALL ".join(
    f"SELECT * EXCLUDE ({_COLUMNS}), '{metric}' AS metric, {metric} AS value FROM mine WHERE {metric} IS NOT NULL"
    for metric in _NUMBERS
)
_OCTAVES = " UNION ALL ".join(
    f"""SELECT * EXCLUDE ({_COLUMNS}, place, value),
    '{metric}_' || CASE place WHEN 1 THEN 0 ELSE (2 ** (place - 2))::BIGINT END AS metric, value
    FROM (SELECT *, unnest({metric}) AS value, generate_subscripts({metric}, 1) AS place FROM mine)
    WHERE value IS NOT NULL"""
    for metric in ("power", "coherence")
)
_STEPS = """
    WITH mine AS (
        SELECT l.position, l.lane, t.prompt, t.seed, m.* EXCLUDE (sketch)
        FROM study_trajectories l JOIN trajectories t USING (trajectory_id) JOIN steps m USING (trajectory_id)
        WHERE l.study_id = $study AND {which}
    )
"""


def step_metrics(db: duckdb.DuckDBPyConnection, study_id: str, lanes: Sequence[str] | None = None) -> pd.DataFrame:
    """Change of x0 per step and its distance to the final latents, of all lanes of a study or of those given.

    Other step metrics: `step_curves`.
    Columns: lane, prompt, seed, trajectory_id, step_index, progress, log_snr, metric, value.
    """
    which = "($lanes::VARCHAR[] IS NULL OR list_contains($lanes::VARCHAR[], l.lane))"
    return _fetch(
        db,
        f"{_STEPS.format(which=which)} FROM ({_PLAIN}) WHERE metric IN ('x0_change', 'x0_distance')",
        {"study": study_id, "lanes": None if lanes is None else list(lanes)},
    )


def step_curves(db: duckdb.DuckDBPyConnection, study_id: str, lane: str) -> pd.DataFrame:
    """All finite step metrics of a lane's finished cells.

    Columns: lane, prompt, seed, trajectory_id, step_index, progress, log_snr, metric, value.
    """
    return _fetch(
        db,
        f"""{_STEPS.format(which="t.status = 'done' AND l.lane = $lane")}
        FROM ({_PLAIN} UNION ALL {_OCTAVES})
        WHERE isfinite(value) AND isfinite(progress) AND isfinite(coalesce(log_snr, 0))""",
        {"study": study_id, "lane": lane},
    )


def _fetch(db: duckdb.DuckDBPyConnection, query: str, values: Mapping[str, object]) -> pd.DataFrame:
    """Rows of a query with a column `position`, which is left out, by position, metric and step."""
    return fetch(db, query, values, order="position, metric, step_index", unread=["position"])


def final_motions(db: duckdb.DuckDBPyConnection, ids: Sequence[str], tolerance: float) -> dict[str, float]:
    """Motion energy of the last x0 of runs whose last x0 is the final latents, to a relative L2 distance."""
    found = fetch(
        db,
        """
        SELECT trajectory_id, max_by(motion_energy, step_index) AS energy
        FROM steps WHERE trajectory_id IN (SELECT unnest($ids::VARCHAR[]))
        GROUP BY trajectory_id HAVING max_by(x0_distance, step_index) <= $tolerance AND energy IS NOT NULL
        """,
        {"ids": list(ids), "tolerance": tolerance},
    )
    return dict(zip(found["trajectory_id"], found["energy"].astype(float), strict=True))


def sketches(
    db: duckdb.DuckDBPyConnection, study_id: str, prompt: str, seed: int, lanes: Sequence[str]
) -> pd.DataFrame:
    """The x0 sketches of lanes on one prompt and seed. Columns: lane, step_index, progress, log_snr, sketch."""
    found = fetch(
        db,
        """
        SELECT l.lane, k.step_index, k.progress, k.log_snr, k.sketch
        FROM study_trajectories l JOIN trajectories t USING (trajectory_id) JOIN steps k USING (trajectory_id)
        WHERE l.study_id = $study AND t.status = 'done' AND t.prompt = $prompt AND t.seed = $seed
          AND list_contains($lanes, l.lane) AND octet_length(k.sketch) = $bytes
        ORDER BY l.position, k.step_index
        """,
        {"study": study_id, "prompt": prompt, "seed": seed, "lanes": list(lanes), "bytes": SKETCH_BYTES},
    )
    found["sketch"] = [np.frombuffer(bytes(data), "<f2").astype(np.float64) for data in found["sketch"]]
    whole = np.array([np.isfinite(vector).all() for vector in found["sketch"]], dtype=bool)
    return found.loc[whole].reset_index(drop=True)


def paths(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The x0 sketches of a study's references and of all deterministic runs that have one to compare with.

    Noise levels are those measured by the linter (`lints`), or else those implied by the timesteps.
    Columns: role ("lane", "reference" or "check"), lane, prompt, seed, step_index, log_snr, sketch.
    """
    found = fetch(
        db,
        """
        WITH truths AS (
            SELECT r.reference_id, r.check_id, t.prompt, t.seed
            FROM study_references r JOIN trajectories t ON t.trajectory_id = r.reference_id
            WHERE r.study_id = $study AND r.distance <= r.tolerance
        ), runs AS (
            SELECT 'lane' AS role, l.lane, l.trajectory_id
            FROM study_trajectories l JOIN trajectories t USING (trajectory_id) JOIN truths USING (prompt, seed)
            WHERE l.study_id = $study AND t.status = 'done'
            AND EXISTS (
                SELECT 1 FROM scores q WHERE q.trajectory_id = l.trajectory_id AND q.metric = 'latent_error'
                AND q.value IS NOT NULL
            )
            UNION ALL SELECT 'reference', 'reference', reference_id FROM truths
            UNION ALL SELECT 'check', 'check', check_id FROM truths
        )
        SELECT x.role, x.lane, t.prompt, t.seed, k.step_index,
               coalesce(s.levels[k.step_index + 1].log_snr, k.log_snr) AS log_snr,
               k.sketch
        FROM runs x JOIN trajectories t USING (trajectory_id) JOIN steps k USING (trajectory_id)
        LEFT JOIN lints s USING (model_id, config_id)
        WHERE k.log_snr IS NOT NULL AND k.sketch IS NOT NULL
        ORDER BY x.role, x.lane, t.prompt, t.seed, k.step_index
        """,
        {"study": study_id},
    )
    found["sketch"] = [np.frombuffer(bytes(data), "<f2").astype(np.float64) for data in found["sketch"]]
    return found
