"""Questions behind the Learn page: one thing varied, all else equal. Open connections in, plain data out."""

import duckdb
import pandas as pd


def guidance_family(db: duckdb.DuckDBPyConnection, trajectory_id: str) -> pd.DataFrame:
    """Finished cells that differ from a cell in nothing but the guidance scale, itself included, weakest first.

    They may belong to any study. Columns: trajectory_id, guidance_scale, nfe.
    """
    return db.execute(
        """
        SELECT DISTINCT ON (t.guidance_scale) t.trajectory_id, t.guidance_scale, t.nfe
        FROM trajectories t JOIN trajectories s
          ON (t.model_id, t.config_id, t.prompt, t.negative_prompt, t.seed, t.width, t.height, t.dtype)
           = (s.model_id, s.config_id, s.prompt, s.negative_prompt, s.seed, s.width, s.height, s.dtype)
        WHERE s.trajectory_id = ? AND t.status = 'done'
        ORDER BY t.guidance_scale, t.trajectory_id = s.trajectory_id DESC
        """,
        [trajectory_id],
    ).df()
