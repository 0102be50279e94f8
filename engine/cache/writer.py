"""Writes a run's results: each call opens the file, commits one group of rows and closes it."""

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from hashlib import md5
from pathlib import Path
from typing import Any, Literal

import duckdb

from engine.cache import queries
from engine.cache.connection import migrate, writing
from engine.cache.input_pictures import put_inputs
from engine.cache.inventory import named, of_kind
from engine.cache.records import FrameRow, TimingRow, TrajectoryRow
from engine.cache.rows import clear, now, put, put_new
from engine.environment import Environment
from engine.study.cells import Cell
from engine.study.source import ModelSource
from engine.study.study import Study, canonical

# Fields of `TrajectoryRow` that are stored in tables of their own.
CHILDREN = frozenset({"latents", "frames", "measured"})


class CacheWriter:
    """Writes a run's results.

    Rows are durable once a call returns; a process killed during a call leaves the file as it was before. Existing
    rows are replaced, so writing a cell twice stores it once.
    """

    def __init__(self, path: Path) -> None:
        """Creates the cache, or migrates an older one.

        Raises:
            CacheError: The file cannot be used.
        """
        self.path = path
        migrate(path)

    def begin(
        self,
        study: Study,
        cells: Sequence[Cell],
        model: ModelSource,
        environment: Environment,
        swaps: Sequence[str] | None = None,
    ) -> None:
        """Writes the study, its cells, the pictures it starts from, the model and the environment.

        Args:
            study: The study.
            cells: Those it shows, in order.
            model: Of the cells.
            environment: Of those still to be made.
            swaps: The prompt swaps it shows, in order; None leaves them as they are.
        """
        time = now()
        with writing(self.path) as db:
            known = db.execute("SELECT created_at FROM studies WHERE study_id = ?", [study.name]).fetchall()
            names = {"study_id": study.name, "name": study.name, "spec": canonical(study.spec())}
            times = {"created_at": known[0][0] if known else time, "updated_at": time}
            put(db, "studies", [{**names, "arguments": study.pipeline.digest, **times}])
            _link(db, "study_trajectories", study.name, [(cell.trajectory_id, cell.lane.key) for cell in cells])
            if swaps is not None:
                _link(db, "study_swaps", study.name, [(key,) for key in swaps])
            put_inputs(db, study.pipeline.pictures.values())
            _put_places(db, model, environment)

    def places(self, model: ModelSource, environment: Environment) -> None:
        """Writes a model and an environment, for rows that belong to no study."""
        with writing(self.path) as db:
            _put_places(db, model, environment)

    def set_parameters(self, model: ModelSource, parameters: int) -> None:
        """Stores the parameter count of a model, which is known once it is loaded."""
        with writing(self.path) as db:
            db.execute("UPDATE models SET parameters = ? WHERE model_id = ?", [parameters, model.model_id])

    def trajectories(self, rows: Sequence[TrajectoryRow], model: ModelSource, environment: Environment) -> None:
        """Writes cells with their frames and step metrics in one transaction; a failed one replaces no finished one."""
        if not rows:
            return
        time = now()
        with writing(self.path, threads=1) as db:  # beside forwards and encoders; takes less memory, too
            if failed := [row.trajectory_id for row in rows if row.status != "done"]:
                finished = queries.finished(db, failed)
                rows = [row for row in rows if row.status == "done" or row.trajectory_id not in finished]
            known = _stored(db, [row.trajectory_id for row in rows])
            for table in (*of_kind("cell"), *of_kind("score")):
                clear(db, table.name, known)  # reads ids of the whole table, hence only for cells that are there
            put_new(db, named("trajectories"), [_trajectory(row, model, environment, time) for row in rows])
            put_new(db, named("latents"), [_child(row, row.latents) for row in rows if row.latents])
            put_new(db, named("frames"), [_frame(row, frame) for row in rows for frame in row.frames])
            put_new(db, named("steps"), [_child(row, step) for row in rows for step in row.measured])

    def timings(self, rows: Iterable[TimingRow], model: ModelSource, environment: Environment) -> None:
        """Writes raw timing samples."""
        place = {"environment_id": environment.environment_id, "model_id": model.model_id, "created_at": now()}
        with writing(self.path) as db:
            put(db, "timings", [{**asdict(row), **place} for row in rows])


def _stored(db: duckdb.DuckDBPyConnection, ids: Sequence[str]) -> list[str]:
    """Those of the cells that the cache has, of whatever status, or whose row someone deleted alone."""
    tables = ("trajectories", "latents")
    found = " UNION ".join(
        f"SELECT trajectory_id FROM {table} WHERE trajectory_id IN (SELECT unnest($ids))" for table in tables
    )
    return [row[0] for row in db.execute(found, {"ids": ids}).fetchall()]


def _link(
    db: duckdb.DuckDBPyConnection, table: Literal["study_trajectories", "study_swaps"], study: str, rows: Sequence[Any]
) -> None:
    """Links a study to what it shows, in order, unless the cache has just these links."""
    columns = ("trajectory_id", "lane") if table == "study_trajectories" else ("swap_id",)
    kept = f"SELECT {', '.join(columns)} FROM {table} WHERE study_id = ? ORDER BY position"
    if db.execute(kept, [study]).fetchall() == rows:
        return
    clear(db, table, [study], "study_id")
    named_rows = (dict(zip(columns, row, strict=True)) for row in rows)
    put(db, table, [{"study_id": study, **row, "position": place} for place, row in enumerate(named_rows)])


def _put_places(db: duckdb.DuckDBPyConnection, model: ModelSource, environment: Environment) -> None:
    described = {
        "model_id": model.model_id,
        "source": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "family": model.pipeline,
        "scheduler_config": canonical(model.scheduler_config),
    }
    put(db, "models", [described])
    place = asdict(environment) | {
        "environment_id": environment.environment_id,
        "details": canonical(environment.details),
    }
    put(db, "environments", [place])


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


def _frame(row: TrajectoryRow, frame: FrameRow) -> dict[str, Any]:
    digest = md5(frame.image, usedforsecurity=False).hexdigest()[:16]
    return _child(row, frame) | {"digest": digest}


def _child(row: TrajectoryRow, child: Any) -> dict[str, Any]:
    return {"trajectory_id": row.trajectory_id, **vars(child)}
