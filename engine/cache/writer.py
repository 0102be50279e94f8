"""Writing to the cache: each call opens the file, commits one group, and closes it again."""

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from engine.cache.connection import migrate, writing
from engine.cache.records import TimingRow, TrajectoryRow
from engine.environment import Environment
from engine.study.cells import Cell
from engine.study.source import ModelSource
from engine.study.study import Study, canonical

# Fields of a trajectory's row that are tables of their own.
CHILDREN = frozenset({"latents", "frames", "step_metrics", "sketches"})


class CacheWriter:
    """Writes a run's results for one model and environment.

    What a call has written is safe once the call returns; a process killed in the middle of one leaves the file as
    it was before. Rows that exist already are replaced, so a cell written twice is there once.
    """

    def __init__(self, path: Path) -> None:
        """Creates the file, or migrates an older one.

        Raises:
            CacheError: The file cannot be used.
        """
        self.path = path
        migrate(path)

    def begin(self, study: Study, cells: Sequence[Cell], model: ModelSource, environment: Environment) -> None:
        """Records the study, its cells, the model and the environment."""
        now = _now()
        with writing(self.path) as db:
            db.execute(
                "INSERT INTO studies VALUES ($id, $id, $spec, $now, $now) "
                "ON CONFLICT (study_id) DO UPDATE SET spec = excluded.spec, updated_at = excluded.updated_at",
                {"id": study.name, "spec": canonical(study.spec()), "now": now},
            )
            db.execute("DELETE FROM study_trajectories WHERE study_id = ?", [study.name])
            links = [
                {"study_id": study.name, "trajectory_id": cell.trajectory_id, "lane": cell.lane.key, "position": place}
                for place, cell in enumerate(cells)
            ]
            insert_rows(db, "study_trajectories", links)
            _insert_places(db, model, environment)

    def places(self, model: ModelSource, environment: Environment) -> None:
        """Records a model and an environment, for rows that belong to no study."""
        with writing(self.path) as db:
            _insert_places(db, model, environment)

    def set_parameters(self, model: ModelSource, parameters: int) -> None:
        """Records how many parameters a model has, known once it is loaded."""
        with writing(self.path) as db:
            db.execute("UPDATE models SET parameters = ? WHERE model_id = ?", [parameters, model.model_id])

    def trajectories(self, rows: Sequence[TrajectoryRow], model: ModelSource, environment: Environment) -> None:
        """Writes a group of cells with their frames and step metrics in one transaction."""
        if not rows:
            return
        ids = [row.trajectory_id for row in rows]
        now = _now()
        with writing(self.path) as db:
            for table in (
                "frames",
                "latents",
                "step_metrics",
                "step_sketches",
                "quality",
                "unscored",
                "frame_quality",
                "trajectories",
            ):
                db.execute(f"DELETE FROM {table} WHERE list_contains(?, trajectory_id)", [ids])
            insert_rows(db, "trajectories", [_trajectory(row, model, environment, now) for row in rows])
            insert_rows(db, "latents", [_child(row, row.latents) for row in rows if row.latents])
            insert_rows(db, "frames", [_child(row, frame) for row in rows for frame in row.frames])
            insert_rows(db, "step_metrics", [_child(row, metric) for row in rows for metric in row.step_metrics])
            insert_rows(db, "step_sketches", [_child(row, sketch) for row in rows for sketch in row.sketches])

    def timings(self, rows: Iterable[TimingRow], model: ModelSource, environment: Environment) -> None:
        """Writes raw timing samples."""
        now = _now()
        place = {"environment_id": environment.environment_id, "model_id": model.model_id, "created_at": now}
        with writing(self.path) as db:
            insert_rows(db, "timings", [{**asdict(row), **place} for row in rows])


def _insert_places(db: duckdb.DuckDBPyConnection, model: ModelSource, environment: Environment) -> None:
    db.execute(
        "INSERT OR IGNORE INTO models VALUES (?, ?, ?, ?, ?, NULL, ?)",
        [
            model.model_id,
            model.name,
            model.revision,
            model.fingerprint,
            model.pipeline,
            canonical(model.scheduler_config),
        ],
    )
    row = asdict(environment)
    db.execute(
        "INSERT OR IGNORE INTO environments VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            environment.environment_id,
            row["device"],
            row["device_name"],
            row["memory"],
            row["torch"],
            row["diffusers"],
            canonical(row["details"]),
        ],
    )


def _trajectory(
    row: TrajectoryRow, model: ModelSource, environment: Environment, now: datetime.datetime
) -> dict[str, Any]:
    plain = {key: value for key, value in vars(row).items() if key not in CHILDREN}
    config = None if row.scheduler_config is None else json.dumps(row.scheduler_config, sort_keys=True)
    return plain | {
        "scheduler_config": config,
        "model_id": model.model_id,
        "environment_id": environment.environment_id,
        "created_at": now,
    }


def _child(row: TrajectoryRow, child: Any) -> dict[str, Any]:
    return {"trajectory_id": row.trajectory_id, **vars(child)}


def insert_rows(db: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    """Inserts records by column name, through Arrow: a hundred times faster than row by row."""
    if not rows:
        return
    db.register("incoming", pa.Table.from_pylist(rows))
    db.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    db.unregister("incoming")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
