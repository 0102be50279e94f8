"""Caches for tests of exports and imports: any cache at all, and small studies as two machines would compute them."""

import datetime
import json
import random
from dataclasses import replace
from hashlib import sha256

import duckdb

from engine.cache.connection import migrate, reading, writing
from engine.cache.inventory import TABLES
from engine.cache.records import LatentsRow
from engine.cache.rows import put
from engine.cache.schema import MIGRATIONS
from engine.cache.score_tables import ScoreRow, write_scores
from engine.cache.writer import CacheWriter
from engine.environment import Environment
from engine.study.cells import cells
from engine.study.source import find_model
from tests.engine.helpers import ask, row

HERE = Environment("cpu", "Example CPU", "standard", "2.13.0", "0.42.1", {})
NEW_YEAR = datetime.datetime.fromisoformat("2026-01-01")
THERE = Environment("cuda", "Example GPU 9000", "standard", "2.13.0", "0.42.1", {})


def schema():
    """Table -> column -> (type, whether it may be NULL), as a new cache has them."""
    with duckdb.connect() as db:
        for step in MIGRATIONS:
            db.execute(step.sql)
        found = {}
        rows = db.execute(
            "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns() "
            "WHERE NOT internal ORDER BY table_name, column_index"
        ).fetchall()
        for table, column, kind, nullable in rows:
            found.setdefault(table, {})[column] = (kind, nullable)
        keys = dict(
            db.execute(
                "SELECT table_name, constraint_column_names FROM duckdb_constraints() "
                "WHERE constraint_type = 'PRIMARY KEY'"
            ).fetchall()
        )
    return found, keys


COLUMNS, KEYS = schema()


CELLS = [f"cell{number}" for number in range(5)]
STUDIES = ["alpha", "beta"]
LANES = [("model0", "config0"), ("model0", "config1"), ("model1", "config0")]


def value(table, column, seed):
    """A value that fits a column; equal arguments give an equal one."""
    kind, nullable = COLUMNS[table][column]
    chance = random.Random(f"{table}/{column}/{seed}")
    if nullable and table != "scores" and chance.random() < 0.3:
        return None
    if kind.startswith("STRUCT"):
        numbers = {"timestep": 0.1, "sigma": 0.1, "told_sigma": 0.1, "log_snr": 0.1, "values": [0.5, None]}
        names = {
            "levels": ("timestep", "sigma", "told_sigma", "log_snr"),
            "findings": ("severity", "code", "message"),
            "evidence": ("lane", "guard", "values"),
        }
        fields = names.get(column, ("setting", "value", "origin", "replaced"))
        made = [numbers.get(field, json.dumps("é")) for field in fields]
        return [dict(zip(fields, made, strict=True)) for _ in range(chance.randrange(3))]
    if column == "status":
        return "done"
    if column == "frame_kinds":
        return "x0,xt"
    if column == "choice":
        return chance.choice(["left", "right", "same"])
    return {
        "VARCHAR": lambda: chance.choice(["", "x", 'Zoë\'s "owl"; --', "长" * 3]) + str(chance.randrange(10**6)),
        "JSON": lambda: json.dumps({"n": chance.randrange(100), "text": "é<b>"}),
        "BLOB": lambda: chance.randbytes(chance.choice([0, 1, 300])),
        "INTEGER": lambda: chance.randrange(-(2**31), 2**31),
        "BIGINT": lambda: chance.randrange(-(2**63), 2**63),
        "DOUBLE": lambda: chance.choice([0.0, -0.0, 1e-308, 0.1, float("inf"), chance.random()]),
        "DOUBLE[]": lambda: [chance.choice([0.5, None, float("inf")]) for _ in range(1 + chance.randrange(3))],
        "BOOLEAN": lambda: chance.random() < 0.5,
        "TIMESTAMP": lambda: NEW_YEAR + datetime.timedelta(microseconds=chance.randrange(10**13)),
    }[kind]()


def rows_of_unit(table, unit, count):
    """Rows of a unit, the same wherever it occurs; the rest of the key counts them."""
    rest = [name for name in KEYS.get(table.name, ()) if name not in table.unit]
    several = count if rest or table.name not in KEYS else 1
    found = []
    for number in range(several):
        made = {name: value(table.name, name, (sorted(unit.items()), number)) for name in COLUMNS[table.name]}
        counted = {name: number if COLUMNS[table.name][name][0] == "INTEGER" else f"{name}{number}" for name in rest}
        found.append({**made, **counted, **unit})
        if table.name == "input_pictures":
            found[-1]["sha256"] = sha256(made["image"]).hexdigest()
        if table.name == "scores":
            lane = table.kind == "study"
            others = ("trajectory_id", "kind", "step_index") if lane else ("study_id", "lane", "against", "set_id")
            scope = "lane" if lane else "picture" if several == 1 else "frame"
            found[-1] |= {**dict.fromkeys(others), "scope": scope, "value": 0.5, "reason": None}
            if scope == "frame":
                found[-1]["step_index"] = number
    return found


def units(table, held):
    """The units of a table that a cache with these cells, studies and lanes may hold."""
    if table.kind in ("cell", "score"):
        chosen = [{"trajectory_id": cell} for cell in held["cells"]]
    elif table.kind == "study":
        chosen = [{"study_id": study} for study in held["studies"]]
    else:
        chosen = [dict(zip(("model_id", "config_id"), lane, strict=True)) for lane in held["lanes"]]
    plain = [{name: unit[name] for name in (*table.unit, "study_id") if name in unit} for unit in chosen]
    rest = [name for name in table.unit if plain and name not in plain[0]]
    spread = [
        {**unit, **{name: value(table.name, name, ("unit", sorted(unit.items()), number)) for name in rest}}
        for unit in plain
        for number in range(2 if rest else 1)
    ]
    return list({tuple(sorted(unit.items())): unit for unit in spread}.values())


def write(path, held):
    """A cache with all units of the chosen cells, studies and lanes, but for scores left out by chance."""
    migrate(path)
    with writing(path) as db:
        for table in TABLES:
            rows = []
            whole = table.kind in ("cell", "shared") or table.name in ("studies", "study_trajectories")
            for unit in units(table, held):
                if not whole and random.Random(f"{held['seed']}{table.name}{unit}").random() < 0.4:
                    continue
                rows += rows_of_unit(table, unit, 2)
            put(db, table.name, rows)
    return path


def contents(path):
    """Every row of every table but the record of migrations."""
    names = {table.name for table in TABLES}
    with reading(path) as db:
        return {name: sorted(map(repr, db.execute(f"SELECT * FROM {name}").fetchall())) for name in names}


def run(path, study, environment=HERE, dtype="float32", latents=b"same", failed=()):
    """A study whose cells have run; `latents` stands for what this machine computed."""
    source = find_model("gaussian")
    planned = cells(replace(study, dtype=dtype), source, "cpu")
    writer = CacheWriter(path)
    writer.begin(study, planned, source, environment)
    writer.trajectories(
        [outcome(cell, latents, failed=cell.lane.key in failed) for cell in planned], source, environment
    )
    return planned


def outcome(cell, latents, *, failed=False, **changes):
    lane = cell.lane
    made = {
        "scheduler": lane.scheduler.key,
        "steps": lane.steps,
        "lane": lane.key,
        "seed": cell.seed,
        "config_id": cell.config_id,
        "prompt": cell.prompt,
        "dtype": cell.dtype,
    }
    made["latents"] = LatentsRow("1", latents + cell.trajectory_id.encode())
    if failed:
        made |= {"status": "failed", "error": "no memory", "frames": (), "latents": None, "measured": ()}
    return row(cell.trajectory_id, **made | changes)


def score(path, planned, number):
    ids = {cell.trajectory_id for cell in planned}
    write_scores(path, [ScoreRow("picture", "clip_score", "1", number, trajectory_id=key) for key in ids])


def count(path, table):
    return ask(path, f"SELECT count(*) FROM {table}")[0][0]
