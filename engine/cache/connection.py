"""Opening a cache file for moments: nobody keeps a connection, so that one writer and many readers share it.

DuckDB lets either one process write or many read. Whoever finds the file locked waits with jitter and tries again.
The process that holds the file must not open it by any other route (copying or hashing it would drop its lock), and its
threads take turns (`read_write_lock`).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb

from engine.cache import release_010, trust
from engine.cache.duckdb_errors import translated
from engine.cache.opening import BLOCK_BYTES, opened
from engine.cache.schema import CREATE_MIGRATIONS, MIGRATIONS, SCHEMA_VERSION, Migration
from engine.errors import CacheError, CacheMissing, CacheOutdated

# What others need of DuckDB to hold a connection and to tell its errors.
Connection = duckdb.DuckDBPyConnection
QueryError = duckdb.Error

READ_PATIENCE_SECONDS = 8.0
WRITE_PATIENCE_SECONDS = 60.0
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
    _refuse_no_file(path)
    with (
        opened(path, read_only=True, patience=patience, alone=False) as connection,
        translated(path),
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
    _refuse_no_file(path)
    with opened(path, read_only=True, patience=patience, alone=True):
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
    trust.refuse_foreign_objects(connection, path)
    _check_version(connection, path)
    trust.refuse_foreign_tables(connection, path, MIGRATIONS)
    if inspect:
        trust.inspect(connection, path)
    while len(_checked) >= REMEMBERED_CHECKS:
        _checked.pop(next(iter(_checked), seen), None)
    _checked[seen] = None


_checked: dict[tuple[str, tuple[tuple[int, int], ...], bool], None] = {}


@contextlib.contextmanager
def writing(path: Path, patience: float = WRITE_PATIENCE_SECONDS) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection inside one transaction: committed on leaving, rolled back if anything is raised.

    It reaches nothing but its file, as one that reads; what it writes comes from memory.

    Raises:
        CacheBusy, CacheOutdated, CacheRefused, CacheError: As in `reading`; also when the disk is full.
    """
    _refuse_no_file(path)
    with opened(path, read_only=False, patience=patience, alone=True) as connection, translated(path):
        _check(connection, path, inspect=False)
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def migrate(
    path: Path,
    migrations: Sequence[Migration] = MIGRATIONS,
    *,
    block_bytes: int = BLOCK_BYTES,
    inspect: bool = False,
) -> list[Migration]:
    """Creates the cache, or brings an older one up to date; returns the steps taken.

    Each migration and its record are one transaction: a failing one leaves the file as it was before it. A cache of
    release 0.1.0 stays as it is until a converted one can take its place. A cache that is up to date is only read.

    Args:
        path: The cache.
        migrations: All steps there are.
        block_bytes: What the file grows by, if it is a new one.
        inspect: Look at the contents of a cache of release 0.1.0 before it is converted: it comes from a stranger.

    Raises:
        CacheRefused: It holds what no cache holds.
        CacheError: The file is no cache, damaged, older than release 0.1.0, or written by a newer version.
    """
    _refuse_no_file(path)
    if path.exists():
        with opened(path, read_only=True, patience=WRITE_PATIENCE_SECONDS, alone=False) as connection, translated(path):
            if not _lacking(connection, path, migrations):
                return []
            old = _version(connection, path)
        if old == release_010.SCHEMA:
            return _convert(path, migrations, block_bytes, inspect)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(f"The folder of the cache {path} cannot be made: {error}.") from error
    with _alone(path, block_bytes) as connection:
        return _migrated(connection, _lacking(connection, path, migrations))


def _convert(path: Path, migrations: Sequence[Migration], block_bytes: int, inspect: bool) -> list[Migration]:
    """Puts a converted cache in the place of one of release 0.1.0; nobody writes to that meanwhile."""
    log = path.with_name(path.name + ".wal")
    if log.exists():  # of a process that was killed; it must not be taken for the new file's
        with _alone(path, block_bytes) as connection:
            connection.execute("CHECKPOINT")
    with (
        opened(path, read_only=True, patience=WRITE_PATIENCE_SECONDS, alone=True) as source,
        translated(path),
    ):
        trust.refuse_foreign_objects(source, path)
        if _version(source, path) != release_010.SCHEMA:
            return []  # another process was faster
        if log.exists():
            raise CacheError(f"A process that wrote to {path} was killed just now; try again.")
        if inspect:
            trust.inspect(source, path)

        def build(new: Path) -> None:
            with _alone(new, block_bytes) as target:
                _migrated(target, migrations, lambda: release_010.convert(source, target))

        release_010.replace(path, build)
    return list(migrations)


@contextlib.contextmanager
def _alone(path: Path, block_bytes: int) -> Iterator[duckdb.DuckDBPyConnection]:
    with (
        opened(
            path, read_only=False, patience=WRITE_PATIENCE_SECONDS, alone=True, block_bytes=block_bytes
        ) as connection,
        translated(path),
    ):
        yield connection


def _migrated(
    connection: duckdb.DuckDBPyConnection, steps: Sequence[Migration], fill: Callable[[], None] = lambda: None
) -> list[Migration]:
    """Takes steps, each with its record; the last one with the rows that fill its tables."""
    for step in steps:
        connection.execute("BEGIN")
        connection.execute(CREATE_MIGRATIONS)
        connection.execute(step.sql)
        connection.execute(
            "INSERT INTO schema_migrations (version, name, applied_at) VALUES (?, ?, now() AT TIME ZONE 'UTC')",
            [step.version, step.name],
        )
        if step is steps[-1]:
            fill()
        connection.execute("COMMIT")
    return list(steps)


def _lacking(connection: duckdb.DuckDBPyConnection, path: Path, migrations: Sequence[Migration]) -> list[Migration]:
    """The migrations that a file has not seen yet."""
    trust.refuse_foreign_objects(connection, path)
    version = _version(connection, path)
    _refuse_newer(version, path, migrations[-1].version)
    if 0 < version < release_010.SCHEMA:
        raise CacheError(
            f"The cache {path} has schema {version}, from before release 0.1.0. Run `python -m engine migrate` of "
            "release 0.1.0 on it first."
        )
    return [step for step in migrations if step.version > version]


def _refuse_no_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise CacheError(f"The cache {path} cannot be used: it is no file but a folder, a pipe or a device.")


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
