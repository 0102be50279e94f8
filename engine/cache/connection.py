"""Opening a cache file for moments: nobody keeps a connection, so that one writer and many readers share it.

DuckDB lets either one process write or many read. Whoever finds the file locked waits with jitter and tries again.
The process that holds the file must not open it by any other route (copying or hashing it would drop its lock), and its
threads take turns (`turns`).
"""

import contextlib
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from engine.cache import trust
from engine.cache.migration import Migration
from engine.cache.schema import CREATE_MIGRATIONS, MIGRATIONS, SCHEMA_VERSION
from engine.cache.trouble import explain, explained, is_lock
from engine.cache.turns import Turns, turns_at
from engine.errors import CacheBusy, CacheError, CacheMissing, CacheOutdated

# What others need of DuckDB to hold a connection and to tell its errors.
Connection = duckdb.DuckDBPyConnection
QueryError = duckdb.Error

READ_PATIENCE_SECONDS = 8.0
WRITE_PATIENCE_SECONDS = 60.0
# The smallest DuckDB takes. With its default of 122,880 every commit rewrites up to that many pictures, in memory.
ROW_GROUP_ROWS = 2048
REMEMBERED_CHECKS = 64


@contextlib.contextmanager
def reading(
    path: Path, patience: float = READ_PATIENCE_SECONDS, seconds: float | None = None, *, inspect: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection that can reach nothing but this file, closed on leaving.

    Args:
        path: The cache.
        patience: Seconds to wait for a writer.
        seconds: After so many the query that runs is stopped; None: never.
        inspect: Look at the contents too, once for each state of the file: it comes from a stranger.

    Raises:
        CacheMissing: There is no such file.
        CacheBusy: A writer held it for longer than `patience` seconds.
        CacheOutdated: An older version wrote it.
        CacheRefused: It holds what no cache holds, or reading took too long.
        CacheError: It is damaged, no DuckDB file, or written by a newer version.
    """
    if not path.exists():
        raise CacheMissing(f"There is no cache at {path}. `python -m engine run quickstart --cache {path}` makes one.")
    if not path.is_file():
        raise CacheError(f"The cache {path} cannot be read: it is no file but a folder, a pipe or a device.")
    with (
        _opened(path, read_only=True, patience=patience, alone=False) as connection,
        explained(path),
        trust.within(connection, seconds, path),
    ):
        _check(connection, path, inspect)
        yield connection


@contextlib.contextmanager
def holding(path: Path, patience: float = READ_PATIENCE_SECONDS) -> Iterator[None]:
    """Keeps writers off a cache of any version, so that its file can be copied once.

    Once, because a process that closes a file loses its locks on it, by whatever route it had opened the file. For the
    same reason other threads of this process don't read meanwhile.

    Raises:
        CacheMissing, CacheBusy, CacheError: As in `reading`.
    """
    if not path.exists():
        raise CacheMissing(f"There is no cache at {path}.")
    with _opened(path, read_only=True, patience=patience, alone=True):
        yield


def stamp(path: Path) -> tuple[tuple[int, int], ...]:
    """When the file and its log were last changed (in ns), and their sizes; equal stamps mean equal contents."""
    found = []
    for file in (path, path.with_name(path.name + ".wal")):
        with contextlib.suppress(OSError):
            status = file.stat()
            found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)


def _check(connection: duckdb.DuckDBPyConnection, path: Path, inspect: bool) -> None:
    """Version, structure and, if asked for, contents; the same state of a file is looked at once."""
    seen = (str(path), stamp(path), inspect)
    if seen in _checked:
        return
    _refuse_newer(_version(connection, path), path, SCHEMA_VERSION)  # a newer lab may know more kinds of things
    trust.refuse_foreign_objects(connection, path)
    _check_version(connection, path)
    trust.refuse_foreign_tables(connection, path, MIGRATIONS)
    if inspect:
        with trust.within(connection, trust.INSPECTION_SECONDS, path):
            trust.inspect(connection, path)
    while len(_checked) >= REMEMBERED_CHECKS:
        _checked.pop(next(iter(_checked), seen), None)
    _checked[seen] = None


_checked: dict[tuple[str, tuple[tuple[int, int], ...], bool], None] = {}


@contextlib.contextmanager
def writing(path: Path, patience: float = WRITE_PATIENCE_SECONDS) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection inside one transaction: committed on leaving, rolled back if anything is raised.

    Raises:
        CacheBusy, CacheOutdated, CacheError: As in `reading`; also when the disk is full.
    """
    with _opened(path, read_only=False, patience=patience, alone=True) as connection, explained(path):
        _check_version(connection, path)
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def migrate(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> list[Migration]:
    """Creates the cache, or brings an older one up to date; returns the steps taken.

    Each migration and its record are one transaction: a failing one leaves the file as it was before it.

    Raises:
        CacheError: The file is no cache, damaged, or written by a newer version.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(f"The folder of the cache {path} cannot be made: {error}.") from error
    with (
        _opened(path, read_only=False, patience=WRITE_PATIENCE_SECONDS, alone=True) as connection,
        explained(path),
    ):
        version = _version(connection, path)
        _refuse_newer(version, path, migrations[-1].version)
        todo = [step for step in migrations if step.version > version]
        for step in todo:
            connection.execute("BEGIN")
            connection.execute(CREATE_MIGRATIONS)
            connection.execute(step.sql)
            connection.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, now() AT TIME ZONE 'UTC')", [step.version, step.name]
            )
            connection.execute("COMMIT")
        return todo


@contextlib.contextmanager
def _opened(path: Path, *, read_only: bool, patience: float, alone: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """The open file, once neither a thread of this process nor another process stands in the way.

    Between two tries the turn within the process is given up: its readers need not wait for what another process holds.

    Args:
        path: The cache.
        read_only: Open it for reading.
        patience: Seconds to wait.
        alone: No other thread of this process may have it open, not even for reading.
    """
    turns, deadline, pause = turns_at(path), time.monotonic() + patience, 0.01
    locked: duckdb.Error | None = None
    while True:
        with turns.turn(deadline, alone=alone) as mine:
            if mine:
                connection = _connect(path, turns, read_only=read_only)
                if isinstance(connection, duckdb.DuckDBPyConnection):
                    try:
                        yield connection
                    finally:
                        _close(connection, turns, read_only=read_only)
                    return
                locked = connection
        if time.monotonic() >= deadline:
            raise CacheBusy(
                f"The cache {path} is in use by another process or thread for over {patience:.0f} s. "
                "Close other programs that hold it open for writing."
            ) from locked
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 1.7, 0.15)


def _connect(path: Path, turns: Turns, *, read_only: bool) -> duckdb.DuckDBPyConnection | duckdb.Error:
    """The file opened, or the error that says that another process has it."""
    # By one name only: DuckDB would open a file again that it has open under another one.
    name = os.path.realpath(path)
    try:
        with turns.door:
            return duckdb.connect(name, True, trust.CLOSED_OFF) if read_only else _attach(name)
    except duckdb.Error as error:
        if is_lock(error):
            return error
        raise explain(error, path) from error


def _close(connection: duckdb.DuckDBPyConnection, turns: Turns, *, read_only: bool) -> None:
    # A writer has committed by now, or told of what kept it from that.
    with turns.door, contextlib.nullcontext() if read_only else contextlib.suppress(duckdb.Error):
        connection.close()


def _attach(name: str) -> duckdb.DuckDBPyConnection:
    """Opens a file for writing, with row groups small enough that a commit never rewrites many pictures."""
    connection = duckdb.connect()
    try:
        quoted = name.replace("'", "''")
        connection.execute(f"ATTACH '{quoted}' AS cache (TYPE duckdb, ROW_GROUP_SIZE {ROW_GROUP_ROWS})")
        connection.execute("USE cache")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    tables = [
        row[0]
        for row in connection.execute(
            "SELECT table_name FROM system.main.duckdb_tables() WHERE database_name = system.main.current_database()"
        ).fetchall()
    ]
    if "schema_migrations" in tables:
        steps = connection.execute("SELECT version FROM main.schema_migrations").fetchall()
        return max((int(step) for (step,) in steps), default=0)
    if tables:
        raise CacheError(f"{path} is a DuckDB file, but no cache of this lab (it holds the table '{min(tables)}').")
    return 0


def _check_version(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    version = _version(connection, path)
    _refuse_newer(version, path, SCHEMA_VERSION)
    if version < SCHEMA_VERSION:
        raise CacheOutdated(
            f"The cache {path} has schema {version}, this program reads {SCHEMA_VERSION}. "
            f"`python -m engine migrate --cache {path}` brings it up to date."
        )


def _refuse_newer(version: int, path: Path, known: int) -> None:
    if version > known:
        raise CacheError(
            f"The cache {path} has schema {version}, newer than the {known} of this program. "
            "Upgrade the lab to read it."
        )
