"""A study as plain Arrow tables, for data frames, Parquet files and data set libraries."""

from collections.abc import Iterator

import pyarrow as pa

from engine.cache.connection import Connection
from engine.cache.inventory import TABLES
from engine.cache.merge import rows_query

_OF_STUDY = """
    SELECT trajectory_id, 'lane' AS role, lane AS study_lane, position FROM study_trajectories WHERE study_id = $study
    UNION ALL
    SELECT trajectory_id, role, t.lane, NULL FROM (
        SELECT reference_id AS trajectory_id, 'reference' AS role FROM study_references WHERE study_id = $study
        UNION ALL SELECT check_id, 'check' FROM study_references WHERE study_id = $study
    ) JOIN trajectories t USING (trajectory_id)
    WHERE trajectory_id NOT IN (SELECT trajectory_id FROM study_trajectories WHERE study_id = $study)
"""
_FRAMES = f"""
    SELECT t.trajectory_id, s.role, s.study_lane AS lane, t.scheduler, t.scheduler_label, t.steps, t.nfe, t.prompt,
           t.negative_prompt, t.seed, t.guidance_scale, m.source AS model, t.dtype, e.device_name, f.step_index,
           f.video_frame, f.progress, f.timestep, f.log_snr, f.width, f.height,
           {{'bytes': f.image, 'path': t.trajectory_id || '-' || f.kind || '-' || f.step_index || '.' || f.format}}
           AS image
    FROM ({_OF_STUDY}) s
    JOIN trajectories t USING (trajectory_id) JOIN frames f USING (trajectory_id)
    JOIN models m USING (model_id) JOIN environments e USING (environment_id)
    WHERE f.kind = $kind AND s.study_lane = $lane AND t.trajectory_id IN (SELECT unnest($ids))
    ORDER BY s.position, t.trajectory_id, f.step_index, f.video_frame
"""
CELLS_AT_ONCE = 64


def plain_tables(db: Connection, study: str) -> Iterator[tuple[str, pa.Table]]:
    """Yields every table of the cache except `frames` as (name, the study's rows)."""
    for name in dict.fromkeys(table.name for table in TABLES):
        if name != "frames":
            queries = [rows_query(table, study) for table in TABLES if table.name == name]
            yield name, pa.concat_tables(db.sql(query, params=values).to_arrow_table() for query, values in queries)


def lanes(db: Connection, study: str) -> dict[str, list[str]]:
    """Ids of finished cells by lane, in the study's order; reference and check count as lanes."""
    found: dict[str, list[str]] = {}
    for lane, cell in db.execute(
        f"SELECT s.study_lane, trajectory_id FROM ({_OF_STUDY}) s JOIN trajectories t USING (trajectory_id) "
        "WHERE t.status = 'done' ORDER BY s.position NULLS LAST, s.role, trajectory_id",
        {"study": study},
    ).fetchall():
        found.setdefault(lane, []).append(cell)
    return found


def frame_kinds(db: Connection, ids: list[str]) -> list[str]:
    """The kinds of frames stored for these cells."""
    rows = db.execute(
        "SELECT DISTINCT kind FROM frames WHERE trajectory_id IN (SELECT unnest(?)) ORDER BY kind", [ids]
    ).fetchall()
    return [str(row[0]) for row in rows]


def frames(db: Connection, study: str, kind: str, lane: str, ids: list[str]) -> Iterator[pa.Table]:
    """Yields a lane's pictures with their labels, in groups of cells; a picture is a struct of bytes and path."""
    for start in range(0, len(ids), CELLS_AT_ONCE):
        some = {"study": study, "kind": kind, "lane": lane, "ids": ids[start : start + CELLS_AT_ONCE]}
        yield db.sql(_FRAMES, params=some).to_arrow_table()
