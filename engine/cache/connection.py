"""Short-lived connections to a cache file, so that one writer and many readers can share it.

DuckDB allows either one writing process or many reading ones. If the file is locked, opening is retried with jitter.
While a process holds the file it must not open it by any other route (copying or hashing it would drop the lock);
threads of one process are serialised by `read_write_lock`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import duckdb

from engine.cache import release_010, trust
from engine.cache.duckdb_errors import translated
from engine.cache.opening import alone, opened
from engine.cache.schema import CREATE_MIGRATIONS, MIGRATIONS, SCHEMA_VERSION, Migration
from engine.errors import CacheError, CacheMissing, CacheOutdated
from engine.paths import log_of

# The DuckDB types that other modules need for annotations and error handling.
Connection = duckdb.DuckDBPyConnection
QueryError = duckdb.Error

READ_PATIENCE_SECONDS = 8.0
# Of a writer; while a snapshot copies the file, nobody can write, so it waits longer for a large one.
WRITE_PATIENCE_SECONDS = 60.0
COPIED_BYTES_PER_SECOND = 50e6
REMEMBERED_CHECKS = 64


@contextlib.contextmanager
def reading(
    path: Path, patience: float = READ_PATIENCE_SECONDS, seconds: float | None = None, *, inspect: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens a read-only connection that has no access to anything but this file, and closes it on exit.

    Args:
        path: The cache.
        patience: Seconds to wait for a writer.
        seconds: Time limit of all queries together; None: no limit.
        inspect: Also validate the contents, once per state of the file; for files from untrusted sources. Its time
            limit grows with the file.

    Raises:
        CacheMissing: The file does not exist.
        CacheBusy: A writer held it for longer than `patience` seconds.
        CacheOutdated: It was written by an older version.
        CacheRefused: It contains objects that no cache has, or reading exceeded the time limit.
        CacheError: It is damaged, not a DuckDB file, or written by a newer version.
    """
    if not path.exists():
        raise CacheMissing(
            f"There is no cache at {path}. Create one with `python -m engine run quickstart --cache {path}`."
        )
    _require_regular_file(path)
    with (
        opened(path, read_only=True, patience=patience, exclusive=False) as connection,
        translated(path),
    ):
        _check(connection, path, seconds, inspect=inspect)
        with trust.time_limit(connection, seconds, path):
            yield connection


@contextlib.contextmanager
def holding(path: Path, patience: float = READ_PATIENCE_SECONDS) -> Iterator[None]:
    """Keeps writers away from a cache of any version while its file is copied once.

    Only once: closing the copied file drops every lock this process holds on it. For the same reason no other thread
    of this process reads it meanwhile.

    Raises:
        CacheMissing, CacheBusy, CacheError: As in `reading`.
    """
    if not path.exists():
        raise CacheMissing(f"There is no cache at {path}.")
    _require_regular_file(path)
    with opened(path, read_only=True, patience=patience, exclusive=True):
        yield


def stamp(path: Path) -> tuple[tuple[int, int], ...]:
    """Modification time (ns) and size of the file and its write-ahead log; equal stamps mean equal contents."""
    found = []
    for file in (path, log_of(path)):
        with contextlib.suppress(OSError):
            status = file.stat()
            found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)


def _check(
    connection: duckdb.DuckDBPyConnection, path: Path, seconds: float | None = None, *, inspect: bool = False
) -> None:
    """Checks version, structure and, with `inspect`, contents; each state of a file is checked once."""
    if _is_checked(path, "contents" if inspect else "structure"):
        return
    with trust.time_limit(connection, seconds, path):
        _refuse_foreign_objects(connection, path)
        _check_version(connection, path)
        trust.refuse_foreign_tables(connection, path, MIGRATIONS)
    if inspect:
        trust.inspect(connection, path)
    _remember(path, "contents" if inspect else "structure")


def _refuse_foreign_objects(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """As in `trust`; listing all functions takes a tenth of a second, so that each state of a file is asked once."""
    if not _is_checked(path, "objects"):
        trust.refuse_foreign_objects(connection, path)
        _remember(path, "objects")


Check = Literal["objects", "structure", "contents"]
_checked: dict[tuple[str, tuple[tuple[int, int], ...], Check], None] = {}


def _is_checked(path: Path, what: Check) -> bool:
    return (str(path), stamp(path), what) in _checked


def _remember(path: Path, what: Check) -> None:
    seen = str(path), stamp(path), what
    while len(_checked) >= REMEMBERED_CHECKS:
        _checked.pop(next(iter(_checked), seen), None)
    _checked[seen] = None


@contextlib.contextmanager
def writing(
    path: Path, patience: float | None = None, threads: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens a connection inside one transaction: committed on exit, rolled back if anything is raised.

    Like a reading connection it has no access to other files; rows to write come from memory.

    Args:
        path: The cache.
        patience: Seconds to wait for others that have it open; by default as long as copying the file may take.
        threads: That work on the rows; one a core unless given.

    Raises:
        CacheBusy, CacheOutdated, CacheRefused, CacheError: As in `reading`; also when the disk is full.
    """
    _require_regular_file(path)
    if patience is None:
        size = path.stat().st_size if path.exists() else 0
        patience = WRITE_PATIENCE_SECONDS + size / COPIED_BYTES_PER_SECOND
    with (
        opened(path, read_only=False, patience=patience, exclusive=True, threads=threads) as connection,
        translated(path),
    ):
        _check(connection, path)
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
    _remember(path, "objects")  # rows are all that was written


def migrate(
    path: Path,
    migrations: Sequence[Migration] = MIGRATIONS,
    *,
    inspect: bool = False,
) -> list[Migration]:
    """Creates the cache, or brings an older one up to date; returns the migrations applied.

    Each migration and its record are one transaction: if it fails, the file is left as it was before. A cache of
    release 0.1.0 is converted into a new file that replaces it once complete. A cache that is up to date is only read.

    Args:
        path: The cache.
        migrations: All migrations, oldest first.
        inspect: Validate the contents of a cache of release 0.1.0 before converting it; for untrusted files.

    Raises:
        CacheRefused: It contains objects that no cache has.
        CacheError: The file is not a cache, damaged, older than release 0.1.0, or written by a newer version.
    """
    _require_regular_file(path)
    if path.exists():
        with (
            opened(path, read_only=True, patience=WRITE_PATIENCE_SECONDS, exclusive=False) as connection,
            translated(path),
        ):
            if not _pending(connection, path, migrations):
                return []
            old = _version(connection, path)
        if old == release_010.SCHEMA:
            return _convert(path, migrations, inspect)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(f"The folder of the cache {path} cannot be created: {error}.") from error
    with _exclusive(path) as connection:
        return _apply(connection, _pending(connection, path, migrations))


def _convert(path: Path, migrations: Sequence[Migration], inspect: bool) -> list[Migration]:
    """Replaces a cache of release 0.1.0 with a converted one, while writers are kept away."""
    log = log_of(path)
    if log.exists():  # left by a killed process; it must not be replayed into the new file
        settle(path)
    with (
        alone(path, WRITE_PATIENCE_SECONDS),
        opened(path, read_only=True, patience=WRITE_PATIENCE_SECONDS, exclusive=True) as source,
        translated(path),
    ):
        trust.refuse_foreign_objects(source, path)
        if _version(source, path) != release_010.SCHEMA:
            return []  # another process has converted it meanwhile
        if log.exists():
            raise CacheError(f"A process writing to {path} was killed a moment ago; try again.")
        if inspect:
            trust.inspect(source, path)

        def build(new: Path) -> None:
            with _exclusive(new) as target:
                _apply(target, migrations, lambda: release_010.convert(source, target))
            settle(new)

        release_010.replace(path, build)
    return list(migrations)


def settle(path: Path) -> None:
    """Moves what is in a file's log into the file, so that the file alone holds everything.

    A commit may be in the log only, and closing moves it but passes over errors.

    Raises:
        CacheBusy, CacheError: As in `writing`.
    """
    with _exclusive(path) as connection:
        connection.execute("CHECKPOINT")


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with (
        opened(path, read_only=False, patience=WRITE_PATIENCE_SECONDS, exclusive=True) as connection,
        translated(path),
    ):
        yield connection


def _apply(
    connection: duckdb.DuckDBPyConnection, steps: Sequence[Migration], fill: Callable[[], None] = lambda: None
) -> list[Migration]:
    """Applies migrations, each with its record in one transaction; `fill` runs inside the last one."""
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


def _pending(connection: duckdb.DuckDBPyConnection, path: Path, migrations: Sequence[Migration]) -> list[Migration]:
    """The migrations that have not been applied to a file yet."""
    _refuse_foreign_objects(connection, path)
    version = _version(connection, path)
    _refuse_newer(version, path, migrations[-1].version)
    if 0 < version < release_010.SCHEMA:
        raise CacheError(
            f"The cache {path} has schema {version}, which predates release 0.1.0. Run `python -m engine migrate` of "
            "release 0.1.0 on it first."
        )
    return [step for step in migrations if step.version > version]


def _require_regular_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise CacheError(f"The cache {path} cannot be used: it is a folder, pipe or device, not a regular file.")


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
        raise CacheError(f"{path} is a DuckDB file, but not a cache of this lab (it has a table '{min(tables)}').")
    return 0


def _check_version(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    version = _version(connection, path)
    _refuse_newer(version, path, SCHEMA_VERSION)
    if version < SCHEMA_VERSION:
        raise CacheOutdated(
            f"The cache {path} has schema {version}; this program reads {SCHEMA_VERSION}. "
            f"Update it with `python -m engine migrate --cache {path}`."
        )


def _refuse_newer(version: int, path: Path, known: int) -> None:
    if version > known:
        raise CacheError(
            f"The cache {path} has schema {version}, newer than the {known} this program reads. Upgrade the lab."
        )
