"""Opening the database file: waits until it is free, and locks the connection down."""

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb

from engine.cache import trust
from engine.cache.duckdb_errors import holder_of, is_lock, translate
from engine.cache.read_write_lock import ReadWriteLock, lock_of
from engine.errors import CacheBusy
from engine.paths import log_of, take_lock

# DuckDB's minimum. With its default of 122,880, every commit rewrites up to that many pictures in memory.
ROW_GROUP_ROWS = 2048
# The rows of a commit are a row group of their own until DuckDB merges small ones, by default whenever it closes a
# file: up to 2047 latents, and as many pictures, are read and written again for each 16 new cells. At 512 px that is
# 134 MB of latents alone, so that row groups of files larger than this stay as they were written.
MERGED_BYTES = 64_000_000
# Block size of a new file: DuckDB's minimum. Every table takes at least one or two blocks and every commit one more.
# Two cells of 64 px need 6.6 MB with DuckDB's default of 256 KB and 0.6 MB with this, which writes pictures of 512 px
# 9 to 16 % more slowly than 64 KB.
BLOCK_BYTES = 16_384


def remove(path: Path) -> None:
    """Deletes a database file and its log, if they exist."""
    for file in (path, log_of(path)):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path, patience: float) -> Iterator[None]:
    """Keeps out other processes that ask for this with a file of the same folder, where the system has such locks.

    Raises:
        CacheBusy: Another process did not finish within `patience` seconds.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            stack.callback(os.close, folder)
            if not take_lock(folder, patience):
                raise CacheBusy(f"Another process has been converting {path} for over {patience:.0f} s; try again.")
        yield


@contextlib.contextmanager
def opened(
    path: Path,
    *,
    read_only: bool,
    patience: float,
    exclusive: bool,
    threads: int | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens the file once no thread of this process and no other process blocks it.

    The lock within the process is released between attempts, so that its readers don't wait for another process.

    Args:
        path: The cache.
        read_only: Open it for reading.
        patience: Seconds to wait.
        exclusive: No other thread of this process may have the file open, not even for reading.
        threads: Of a writing connection; one a core unless given.

    Raises:
        CacheBusy: It was not free within `patience` seconds.
    """
    lock, deadline, pause = lock_of(path), time.monotonic() + patience, 0.01
    locked: duckdb.Error | None = None
    while True:
        with lock.hold(deadline, exclusive=exclusive) as acquired:
            if acquired:
                connection = _connect(path, lock, read_only, threads)
                if isinstance(connection, duckdb.DuckDBPyConnection):
                    try:
                        yield connection
                    finally:
                        _close(connection, lock, read_only=read_only)
                    return
                locked = connection
        if time.monotonic() >= deadline:
            raise CacheBusy(_busy(path, patience, locked, read_only=read_only)) from locked
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 1.7, 0.15)


def _busy(path: Path, patience: float, error: duckdb.Error | None, *, read_only: bool) -> str:
    """Who holds the file, as far as DuckDB says, and what to do about it."""
    who = (error and holder_of(error)) or "another process or thread"
    closing = "Close other programs that have it open for writing."
    if not read_only:
        closing = (
            "Close other programs that have it open; a notebook that only reads it keeps writers out, too. "
            "What was committed before is safe: run again to continue."
        )
    return f"The cache {path} has been in use by {who} for over {patience:.0f} s. {closing}"


def _connect(
    path: Path, lock: ReadWriteLock, read_only: bool, threads: int | None
) -> duckdb.DuckDBPyConnection | duckdb.Error:
    """Connects to the file; returns DuckDB's error if another process has locked it."""
    # Always under the real path: DuckDB would open the same file a second time under another name.
    name = os.path.realpath(path)
    try:
        with lock.gate:
            return duckdb.connect(name, True, trust.READ_CONFIG) if read_only else _attach(name, threads)
    except duckdb.Error as error:
        if is_lock(error):
            return error
        raise translate(error, path) from error


def _close(connection: duckdb.DuckDBPyConnection, lock: ReadWriteLock, *, read_only: bool) -> None:
    # A writer has already committed or raised, so an error on closing adds nothing.
    with lock.gate, contextlib.nullcontext() if read_only else contextlib.suppress(duckdb.Error):
        connection.close()


def _attach(name: str, threads: int | None) -> duckdb.DuckDBPyConnection:
    """Opens a file for writing, with row groups small enough that a commit never rewrites many pictures.

    Access to other files is disabled right after attaching, before any query reads the file.
    """
    config = trust.WITHOUT_EXTENSIONS | ({"threads": threads} if threads else {})
    if os.path.exists(name) and os.path.getsize(name) > MERGED_BYTES:
        config["max_vacuum_tasks"] = 0
    connection = duckdb.connect(config=config)
    try:
        quoted = name.replace("'", "''")
        # The block size can only be set when the file is created.
        size = "" if os.path.exists(name) else f", BLOCK_SIZE {BLOCK_BYTES}"
        connection.execute(f"ATTACH '{quoted}' AS cache (TYPE duckdb, ROW_GROUP_SIZE {ROW_GROUP_ROWS}{size})")
        connection.execute("USE cache")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection
