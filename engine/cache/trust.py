"""Files from strangers: a cache is opened so that nothing in it can run, reach out, or pass for something else.

Every reading connection is closed off from files, network and extensions, and every file is looked at before its
first answer: base tables of the known schema only. A view named `frames` could read a local file, a macro named
`median` could falsify a figure, a generated column could compute for ever; a cache has none of these. `inspect` looks
at the contents too.
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
# What a reading connection may do: read this one file, with bounded memory. Locked, so that no statement changes it.
CLOSED_OFF: Settings = {
    **WITHOUT_EXTENSIONS,
    "enable_external_access": "false",
    "memory_limit": "1GB",
    "max_temp_directory_size": "0B",
    "lock_configuration": "true",
}
# A file is looked at for so long, and longer by its size: a large study is honest. A page waits for 10 s at most.
INSPECTION_SECONDS = 10.0
INSPECTED_BYTES_A_SECOND = 20e6

# What a cache never has, and what lists it. Named in full and without functions or operators, LIKE and + included: any
# of them may be a macro of the file.
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
    """Looks for objects that no cache has. Nothing else may be asked of a file before.

    Raises:
        CacheRefused: There are some.
    """
    found = {kind: [str(row[0]) for row in db.execute(query).fetchall()] for kind, query in _FOREIGN.items()}
    found["schema"] = [str(name) for (name,) in db.execute(_SCHEMAS).fetchall() if name != "main"]
    found["table whose columns compute"] = [
        str(name) for name, sql in db.execute(_TABLES).fetchall() if "GENERATED ALWAYS" in str(sql).upper()
    ]
    for kind, names in found.items():
        if names:
            raise CacheRefused(
                f"{path} is no cache written by this lab: it holds the {kind} '{names[0][:80]}', which could run when "
                "it is read. Ask for a file made by `python -m engine export`."
            )


def refuse_foreign_tables(db: duckdb.DuckDBPyConnection, path: Path, migrations: tuple[Migration, ...]) -> None:
    """Compares tables and columns with those that the migrations make; the file must be of their version.

    Raises:
        CacheRefused: They differ.
    """
    known, found = _known_columns(migrations), _columns(db)
    for table in sorted(known.keys() | found.keys()):
        if known.get(table) != found.get(table):
            what = "an unknown table" if table not in known else "no table" if table not in found else "another table"
            raise CacheRefused(f"{path} is no cache written by this lab: it holds {what} '{table[:80]}'.")


def inspect(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Measures the contents of a stranger's file: texts, lists, blobs and numbers small enough to be shown.

    Raises:
        CacheRefused: Something is larger than any study makes it, or two scores are of the same thing.
    """
    with within(db, INSPECTION_SECONDS + path.stat().st_size / INSPECTED_BYTES_A_SECOND, path):
        for table, columns in _columns(db).items():
            try:
                limits.refuse_unlikely(db, table, [(name, kind) for name, kind, _ in columns])
            except CacheRefused as error:
                raise CacheRefused(f"{path} is refused: {error}") from error
        if "scores" in _columns(db):
            _refuse_twice(db, path)


def _refuse_twice(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    for table in TABLES:
        if table.name == "scores":
            # By hash: millions of scores fit into the memory there is.
            unit = ", ".join((*table.unit, "kind", "step_index", "video_frame"))
            twice = db.execute(
                f"SELECT count(*) - count(DISTINCT hash({unit})) FROM scores WHERE {table.only} AND scope <> 'frame'"
            ).fetchall()[0][0]
            if twice:
                raise CacheRefused(f"{path} is no cache written by this lab: {twice:,} scores are there twice.")


@contextlib.contextmanager
def within(db: duckdb.DuckDBPyConnection, seconds: float | None, path: Path) -> Iterator[None]:
    """Interrupts whatever runs on the connection after so many seconds; None: never.

    Raises:
        CacheRefused: It took longer.
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
    """(name, type, may be NULL) of every column, by table."""
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
