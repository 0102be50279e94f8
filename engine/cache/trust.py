"""Untrusted files: restricts what a connection may do, and validates a cache before the first query.

Every connection is cut off from other files, the network and extensions, and a file may contain only base tables of
the known schema. A view named `frames` could read a local file, a macro named `median` could falsify a figure, and a
generated column could compute forever; a cache has none of these. `inspect` also validates the contents.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb

from engine.cache import limits
from engine.cache.inventory import TABLES
from engine.cache.schema import CREATE_MIGRATIONS, Migration
from engine.errors import CacheRefused

Settings = dict[str, str | bool | int | float | list[str]]
WITHOUT_EXTENSIONS: Settings = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
}
# A reading connection has access to one file and bounded memory; locked, so that no statement can change that.
READ_CONFIG: Settings = {
    **WITHOUT_EXTENSIONS,
    "enable_external_access": "false",
    "memory_limit": "1GB",
    "max_temp_directory_size": "0B",
    "threads": 2,  # each holds up to 2048 pictures of a row group at once
    "lock_configuration": "true",
}
# Time limit of an inspection, extended in proportion to the file's size, since large studies are legitimate.
INSPECTION_SECONDS = 10.0
INSPECTED_BYTES_PER_SECOND = 20e6

# Objects that no cache has, and the queries that list them. Fully qualified and without functions or operators (not
# even LIKE or +), since any of these may be a macro of the file.
_FOREIGN = {
    "macro": "SELECT function_name FROM system.main.duckdb_functions() WHERE NOT internal",
    "view": "SELECT view_name FROM system.main.duckdb_views() WHERE NOT internal",
    "type": "SELECT type_name FROM system.main.duckdb_types() WHERE NOT internal",
    "sequence": "SELECT sequence_name FROM system.main.duckdb_sequences()",
    "trigger": "SELECT trigger_name FROM system.main.duckdb_triggers()",
}
_SCHEMAS = "SELECT schema_name FROM system.main.duckdb_schemas() WHERE NOT internal"
_TABLES = "SELECT table_name, sql FROM system.main.duckdb_tables() WHERE NOT internal"
_COLUMNS = (
    "SELECT table_name, column_name, data_type, is_nullable FROM system.main.duckdb_columns() "
    "WHERE NOT internal AND database_name = system.main.current_database() ORDER BY table_name, column_index"
)


def refuse_foreign_objects(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Refuses a file with objects that no cache has; must precede every other query of the file.

    Raises:
        CacheRefused: It has some.
    """
    found = {kind: [str(row[0]) for row in db.execute(query).fetchall()] for kind, query in _FOREIGN.items()}
    found["schema"] = [str(name) for (name,) in db.execute(_SCHEMAS).fetchall() if name != "main"]
    found["table with generated columns"] = [
        str(name) for name, sql in db.execute(_TABLES).fetchall() if "GENERATED ALWAYS" in str(sql).upper()
    ]
    for kind, names in found.items():
        if names:
            raise CacheRefused(
                f"{path} was not written by this lab: it contains the {kind} '{names[0][:80]}', which could run code "
                "when read. Ask for a file made by `python -m engine export`."
            )


def refuse_foreign_tables(db: duckdb.DuckDBPyConnection, path: Path, migrations: tuple[Migration, ...]) -> None:
    """Compares tables and columns with those that the migrations create; the file must have their version.

    Raises:
        CacheRefused: They differ.
    """
    known, found = _known_columns(migrations), _columns(db)
    for table in sorted(known.keys() | found.keys()):
        if known.get(table) != found.get(table):
            wrong = "is unknown" if table not in known else "is missing" if table not in found else "has other columns"
            raise CacheRefused(f"{path} was not written by this lab: the table '{table[:80]}' {wrong}.")


def inspect(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Validates the contents of an untrusted file: sizes of texts, lists and blobs, ranges of numbers, unique scores.

    Raises:
        CacheRefused: A value is larger than any study produces, or there are duplicate scores.
    """
    size = path.stat().st_size
    with time_limit(db, INSPECTION_SECONDS + size / INSPECTED_BYTES_PER_SECOND, path):
        for table, columns in _columns(db).items():
            try:
                limits.refuse_oversized(db, table, [(name, kind) for name, kind, _ in columns], size)
            except CacheRefused as error:
                raise CacheRefused(f"{path} is refused: {error}") from error
        if "scores" in _columns(db):
            _refuse_duplicate_scores(db, path)
        if "input_pictures" in _columns(db):
            _refuse_other_inputs(db, path)


def _refuse_duplicate_scores(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    for table in TABLES:
        if table.name == "scores":
            # By hash, so that millions of scores fit into the memory limit.
            unit = ", ".join((*table.unit, "kind", "step_index", "video_frame"))
            twice = db.execute(
                f"SELECT count(*) - count(DISTINCT hash({unit})) FROM scores WHERE {table.only} AND scope <> 'frame'"
            ).fetchall()[0][0]
            if twice:
                raise CacheRefused(f"{path} was not written by this lab: it has {twice:,} duplicate scores.")


def _refuse_other_inputs(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Files that don't have the digest they claim: a study would start from another picture than it names."""
    found = db.execute("SELECT sha256 FROM input_pictures WHERE sha256(image) <> sha256 LIMIT 1").fetchall()
    if found:
        raise CacheRefused(f"{path} was not written by this lab: its input picture {found[0][0][:64]} is another one.")


@contextlib.contextmanager
def time_limit(db: duckdb.DuckDBPyConnection, seconds: float | None, path: Path) -> Iterator[None]:
    """Interrupts the query running on the connection after `seconds`; None: no limit.

    Raises:
        CacheRefused: The time limit was exceeded.
    """
    if seconds is None:
        yield
        return
    late = threading.Event()

    def stop() -> None:
        late.set()
        db.interrupt()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        if late.is_set():
            raise CacheRefused(f"Reading {path} took longer than {seconds:.0f} s and was stopped.") from error
        raise
    finally:
        timer.cancel()


def _columns(db: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[str, str, bool]]]:
    """Maps each table to its columns as (name, type, nullable)."""
    tables: dict[str, list[tuple[str, str, bool]]] = {}
    for table, column, kind, nullable in db.execute(_COLUMNS).fetchall():
        tables.setdefault(table, []).append((column, kind, nullable))
    return tables


@functools.cache
def _known_columns(migrations: tuple[Migration, ...]) -> dict[str, list[tuple[str, str, bool]]]:
    with duckdb.connect() as db:
        db.execute(CREATE_MIGRATIONS)
        for step in migrations:
            db.execute(step.sql)
        return _columns(db)
