"""Queries of the cache, one function each; every function takes an open connection and returns plain data."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.cache.limits import (
    ANSWER_BYTES,
    CELL_ROWS,
    ERROR_CHARACTERS,
    SAMPLE_ROWS,
    fetch,
    refuse_bytes,
    refuse_unpacked,
)
from engine.cache.stored_study import read_stored_study
from engine.picture_files import PICTURE_BYTES
from engine.study.cells import Cell
from engine.study.frame_settings import FULL


class KeptFrames(NamedTuple):
    """Step frames of a cell: how many were asked for, their kinds, and what decoded them ("full", "tiny DIGEST")."""

    most: int
    kinds: frozenset[str]
    decoder: str

    @staticmethod
    @functools.cache
    def stored(most: int, kinds: str, decoder: str | None) -> "KeptFrames":
        """From the columns frame_count, frame_kinds and frame_decoder of `trajectories`."""
        return KeptFrames(most, frozenset(filter(None, kinds.split(","))), decoder or FULL)

    def include(self, other: "KeptFrames") -> bool:
        """Whether they are at least as many as the others, of all their kinds, and decoded as exactly."""
        as_exact = self.decoder in (FULL, other.decoder)
        return not other.most or (as_exact and self.most >= other.most and self.kinds >= other.kinds)


def finished(db: duckdb.DuckDBPyConnection, ids: Sequence[str]) -> dict[str, KeptFrames]:
    """The step frames of the cells that are done, by trajectory id."""
    rows = db.execute(
        "SELECT trajectory_id, frame_count, frame_kinds, frame_decoder FROM trajectories "
        "WHERE status = 'done' AND trajectory_id IN (SELECT unnest(?::VARCHAR[]))",
        [list(ids)],
    ).fetchall()
    return {row[0]: KeptFrames.stored(*row[1:]) for row in rows}


def places(db: duckdb.DuckDBPyConnection, ids: Sequence[str]) -> dict[str, str]:
    """Device, torch and diffusers with which each cell was computed, as text, by trajectory id."""
    rows = db.execute(
        "SELECT t.trajectory_id, e.device_name || ', torch ' || e.torch || ', diffusers ' || e.diffusers "
        "FROM trajectories t JOIN environments e USING (environment_id) "
        "WHERE t.trajectory_id IN (SELECT unnest(?::VARCHAR[]))",
        [list(ids)],
    ).fetchall()
    return dict(rows)


def timed_repeats(
    db: duckdb.DuckDBPyConnection, environment_id: str, model_id: str, guided: bool
) -> dict[tuple[str, int, int, int, str, str], tuple[int, int]]:
    """Timed repeats in this environment by (config_id, batch_size, width, height, dtype, arguments).

    Returns:
        How many there are, and the number after the last.
    """
    rows = db.execute(
        "SELECT config_id, batch_size, width, height, dtype, arguments, count(DISTINCT repeat), max(repeat) + 1 "
        "FROM timings "
        "WHERE environment_id = ? AND model_id = ? AND guided = ? AND stage = 'total' GROUP BY ALL",
        [environment_id, model_id, guided],
    ).fetchall()
    return {tuple(row[:6]): (int(row[6]), int(row[7])) for row in rows}


def repeated_prompts(db: duckdb.DuckDBPyConnection, study_id: str) -> set[str]:
    """Prompts of a study that are one to its model with an earlier prompt of it: they bring nothing new."""
    rows = db.execute(
        """
        SELECT prompt FROM (
            SELECT t.model_id, t.reading, t.prompt, min(l.position) AS place
            FROM study_trajectories l JOIN trajectories t USING (trajectory_id)
            WHERE l.study_id = ? AND t.reading IS NOT NULL GROUP BY ALL
        ) QUALIFY row_number() OVER (PARTITION BY model_id, reading ORDER BY place) > 1
        """,
        [study_id],
    ).fetchall()
    return {row[0] for row in rows}


def studies(db: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """All studies, the most recently run first.

    Columns: study_id, name, created_at, updated_at, cells, done, failed, lanes, prompts, seeds.
    """
    return fetch(
        db,
        """
        SELECT s.study_id, s.name, s.created_at, s.updated_at, count(l.trajectory_id) AS cells,
               count(*) FILTER (t.status = 'done') AS done, count(*) FILTER (t.status = 'failed') AS failed,
               count(DISTINCT l.lane) AS lanes, count(DISTINCT t.prompt) AS prompts, count(DISTINCT t.seed) AS seeds
        FROM studies s
        LEFT JOIN study_trajectories l USING (study_id)
        LEFT JOIN trajectories t USING (trajectory_id)
        GROUP BY ALL ORDER BY s.updated_at DESC, s.study_id
        """,
    )


def spec(db: duckdb.DuckDBPyConnection, study_id: str) -> dict[str, Any] | None:
    """The settings of a study as last run, or None if there is no such study.

    Raises:
        CacheRefused: The stored settings are invalid.
    """
    row = db.execute("SELECT spec FROM studies WHERE study_id = ?", [study_id]).fetchall()
    if not row:
        return None
    return read_stored_study(str(row[0][0]), study_id)


def cells(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The cells of a study that have run, in the study's order, without frames.

    Columns: study_lane (the lane's name in this study); and of `trajectories`: trajectory_id, scheduler,
    scheduler_label, steps, nfe, prompt, seed, guidance_scale, width, height, dtype, frame_count, frame_decoder, status,
    error (its beginning), created_at. Configurations, of 1 kB each, are left out.
    """
    return fetch(
        db,
        f"""
        SELECT l.lane AS study_lane, trajectory_id, t.scheduler, t.scheduler_label, t.steps, t.nfe, t.prompt, t.seed,
               t.guidance_scale, t.width, t.height, t.dtype, t.frame_count, t.frame_decoder, t.status,
               left(t.error, {ERROR_CHARACTERS}) AS error, t.created_at, l.position
        FROM study_trajectories l JOIN trajectories t USING (trajectory_id)
        WHERE l.study_id = ?
        """,
        [study_id],
        CELL_ROWS,
        order="position",
        unread=["position"],
    )


def missing_cells(db: duckdb.DuckDBPyConnection, study_id: str) -> int:
    """Number of cells of a study that have not run yet."""
    return int(
        db.execute(
            "SELECT count(*) FROM study_trajectories l ANTI JOIN trajectories t USING (trajectory_id) "
            "WHERE l.study_id = ?",
            [study_id],
        ).fetchall()[0][0]
    )


def progress(db: duckdb.DuckDBPyConnection, study_id: str) -> tuple[int, int, int, int]:
    """Progress of a study: cells done, failed and missing, and timing samples. Cheap enough to poll every few seconds.

    Counts the samples that `timings` returns with stage "total".
    """
    row = db.execute(
        """
        WITH mine AS (
            SELECT t.* FROM study_trajectories l LEFT JOIN trajectories t USING (trajectory_id)
            WHERE l.study_id = $study
        ), shown AS (
            SELECT DISTINCT l.lane, t.model_id, t.config_id, t.width, t.height, t.dtype, t.guidance_scale > 1 AS guided,
                   t.scheduler, t.steps, s.arguments
            FROM study_trajectories l JOIN trajectories t USING (trajectory_id) JOIN studies s USING (study_id)
            WHERE l.study_id = $study
        )
        SELECT (SELECT count(*) FROM mine WHERE status = 'done'), (SELECT count(*) FROM mine WHERE status = 'failed'),
               (SELECT count(*) FROM mine WHERE status IS NULL),
               (SELECT count(*) FROM shown JOIN timings
                USING (model_id, config_id, width, height, dtype, guided, arguments)
                WHERE stage = 'total')
        """,
        {"study": study_id},
    ).fetchall()[0]
    return int(row[0]), int(row[1]), int(row[2]), int(row[3])


_OF_KINDS = "FROM frames WHERE trajectory_id IN (SELECT unnest(?)) AND list_contains(?, kind)"


def frame_index(
    db: duckdb.DuckDBPyConnection, trajectory_ids: Sequence[str], kinds: Sequence[str], *, stills: bool = False
) -> pd.DataFrame:
    """Which frames of trajectories there are, without the pictures; those larger than `PICTURE_BYTES` are left out.

    Columns: row (for `framed`), trajectory_id, kind, step_index, video_frame, bytes. Of clips, with `stills`, only the
    first frame.

    Raises:
        CacheRefused: They unpack to far more than the file holds.
    """
    rows = db.execute(f"SELECT list(rowid) {_OF_KINDS}", [list(trajectory_ids), list(kinds)]).fetchall()[0][0]
    # By row number, so that no picture of any other cell is read.
    meant = (
        "FROM frames WHERE rowid IN (SELECT unnest(?::BIGINT[])) AND octet_length(image) <= ? "
        "AND (video_frame = 0 OR NOT ?)"
    )
    values = [rows or [], PICTURE_BYTES, stills]
    refuse_unpacked(db, int(db.execute(f"SELECT sum(octet_length(image)) {meant}", values).fetchall()[0][0] or 0))
    columns = "rowid AS row, trajectory_id, kind, step_index, video_frame, octet_length(image)::BIGINT AS bytes"
    return fetch(db, f"SELECT {columns} {meant}", values)


def framed(db: duckdb.DuckDBPyConnection, index: pd.DataFrame, most: int = ANSWER_BYTES) -> pd.DataFrame:
    """Frames of an index (`frame_index`), or some of its rows, in step order.

    Columns: trajectory_id, kind, step_index, video_frame, progress, timestep, log_snr, width, height, format, image.

    Raises:
        CacheRefused: They take more than `most` bytes.
    """
    refuse_bytes(int(index["bytes"].sum()), most)
    query = (
        "SELECT * FROM frames WHERE rowid IN (SELECT unnest(?::BIGINT[])) "
        "ORDER BY trajectory_id, kind, step_index, video_frame"
    )
    return fetch(db, query, [index["row"].tolist()], size=most + ANSWER_BYTES // 4)  # some more for other columns


def frames(
    db: duckdb.DuckDBPyConnection,
    trajectory_ids: Sequence[str],
    kinds: Sequence[str],
    most: int = ANSWER_BYTES,
    *,
    stills: bool = False,
) -> pd.DataFrame:
    """All frames of trajectories, as `framed`; of clips, with `stills`, only the first frame.

    Raises:
        CacheRefused: As `frame_index` and `framed`.
    """
    return framed(db, frame_index(db, trajectory_ids, kinds, stills=stills), most)


def frame_bytes(
    db: duckdb.DuckDBPyConnection, trajectory_ids: Sequence[str], kinds: Sequence[str]
) -> list[tuple[str, int]]:
    """The cells in the given order, each with the size of its frames of these kinds (bytes).

    Raises:
        CacheRefused: They unpack to far more than the file holds.
    """
    rows = db.execute(
        f"SELECT trajectory_id, sum(octet_length(image))::BIGINT {_OF_KINDS} GROUP BY trajectory_id",
        [list(trajectory_ids), list(kinds)],
    ).fetchall()
    sizes = dict(rows)
    refuse_unpacked(db, sum(sizes.values()))
    return [(key, sizes.get(key, 0)) for key in trajectory_ids]


def frames_per_cell(db: duckdb.DuckDBPyConnection, study_id: str) -> int:
    """Number of frames in the longest final clip of a study: 1 for pictures, 0 if nothing is finished."""
    row = db.execute(
        "SELECT coalesce(max(f.video_frame) + 1, 0) FROM study_trajectories l JOIN frames f USING (trajectory_id) "
        "WHERE l.study_id = ? AND f.kind = 'final'",
        [study_id],
    ).fetchall()[0]
    return int(row[0])


def timings(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """Raw timing samples of a study's lanes, from every environment.

    A sample belongs to a lane if model, size, number format, guidance and further arguments match the study's cells.
    Columns: lane, environment_id, device, device_name, batch_size, repeat, stage, seconds, nfe, created_at, other_load,
    joules, energy.
    """
    return fetch(
        db,
        """
        WITH shown AS (
            SELECT DISTINCT l.lane, t.scheduler, t.steps, t.model_id, t.width, t.height, t.dtype,
                   t.guidance_scale > 1 AS guided, t.config_id, y.arguments
            FROM study_trajectories l JOIN trajectories t USING (trajectory_id) JOIN studies y USING (study_id)
            WHERE l.study_id = ?
        )
        SELECT s.lane, x.environment_id, e.device, e.device_name, x.batch_size, x.repeat, x.stage, x.seconds, x.nfe,
               x.created_at, x.other_load, x.joules, x.energy
        FROM shown s
        JOIN timings x ON (x.model_id, x.config_id, x.width, x.height, x.dtype, x.guided, x.arguments)
                        = (s.model_id, s.config_id, s.width, s.height, s.dtype, s.guided, s.arguments)
        JOIN environments e USING (environment_id)
        """,
        [study_id],
        SAMPLE_ROWS,
        order="lane, environment_id, batch_size, repeat, stage",
    )


def environments(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The environments that computed a study's cells, with their number and how many could share a forward, and why."""
    return fetch(
        db,
        """
        SELECT e.*, count(*) AS cells, min(max_batch) AS least_batch, max(max_batch) AS most_batch,
               string_agg(DISTINCT max_batch_by, ', ' ORDER BY max_batch_by) AS batch_by
        FROM study_trajectories l JOIN trajectories t USING (trajectory_id) JOIN environments e USING (environment_id)
        WHERE l.study_id = ? GROUP BY ALL ORDER BY cells DESC
        """,
        [study_id],
    )


def models(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The models of a study's cells."""
    return fetch(
        db,
        """
        SELECT DISTINCT m.* FROM study_trajectories l
        JOIN trajectories t USING (trajectory_id) JOIN models m USING (model_id) WHERE l.study_id = ?
        """,
        [study_id],
    )


def seconds_per_call(db: duckdb.DuckDBPyConnection, environment_id: str, model_id: str, like: Cell) -> float | None:
    """Median seconds per denoiser call of cells like this one at batch size 1; None if no such cell was timed here."""
    settings = [like.width, like.height, like.dtype, like.guidance_scale > 1, like.pipeline.digest]
    row = db.execute(
        "SELECT median(seconds / nfe) FROM timings WHERE environment_id = ? AND model_id = ? AND width = ? "
        "AND height = ? AND dtype = ? AND guided = ? AND arguments = ? AND stage = 'total' AND batch_size = 1",
        [environment_id, model_id, *settings],
    ).fetchall()
    return None if row[0][0] is None else float(row[0][0])


def latent_sizes(db: duckdb.DuckDBPyConnection, study_id: str) -> dict[str, int]:
    """Bytes of the final latents of a study's cells, by trajectory."""
    rows = db.execute(
        "SELECT trajectory_id, octet_length(data) FROM study_trajectories JOIN latents USING (trajectory_id) "
        "WHERE study_id = ?",
        [study_id],
    ).fetchall()
    return dict(rows)


def latents(db: duckdb.DuckDBPyConnection, trajectory_ids: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Final latents by trajectory, (C, H, W) for pictures and (C, F, H, W) for videos."""
    rows = db.execute(
        "SELECT trajectory_id, shape, data FROM latents WHERE trajectory_id IN (SELECT unnest(?::VARCHAR[]))",
        [list(trajectory_ids)],
    ).fetchall()
    return {key: np.frombuffer(data, "<f4").reshape([int(n) for n in shape.split("x")]) for key, shape, data in rows}


def guidance_family(db: duckdb.DuckDBPyConnection, trajectory_id: str) -> pd.DataFrame:
    """Finished cells of any study that differ from a cell only in guidance scale, itself included; lowest scale first.

    Columns: trajectory_id, guidance_scale, nfe.
    """
    return fetch(
        db,
        """
        SELECT DISTINCT ON (t.guidance_scale) t.trajectory_id, t.guidance_scale, t.nfe
        FROM trajectories t JOIN trajectories s
          ON (t.model_id, t.config_id, t.prompt, t.negative_prompt, t.seed, t.width, t.height, t.dtype)
           = (s.model_id, s.config_id, s.prompt, s.negative_prompt, s.seed, s.width, s.height, s.dtype)
        WHERE s.trajectory_id = $cell AND t.status = 'done' AND (t.trajectory_id = $cell OR t.trajectory_id IN (
            SELECT l.trajectory_id FROM study_trajectories l JOIN studies o USING (study_id) WHERE o.arguments IN (
                SELECT m.arguments FROM study_trajectories k JOIN studies m USING (study_id)
                WHERE k.trajectory_id = $cell)))
        ORDER BY t.guidance_scale, t.trajectory_id = s.trajectory_id DESC
        """,
        {"cell": trajectory_id},
    )
