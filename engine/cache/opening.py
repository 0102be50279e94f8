"""The file itself: opened once it is free, closed off from everything else, and closed again."""

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb

from engine.cache import trust
from engine.cache.duckdb_errors import is_lock, translate
from engine.cache.read_write_lock import ReadWriteLock, lock_of
from engine.errors import CacheBusy

# The smallest DuckDB takes. With its default of 122,880 every commit rewrites up to that many pictures, in memory.
ROW_GROUP_ROWS = 2048
# Of a new file; a table has a block or two at least. Two cells of 64 pixels need 6.6 MB with DuckDB's 256 KB, 1.7 MB
# with these. Smaller ones (16 KB: 0.5 MB) make writing many pictures slower.
BLOCK_BYTES = 65_536


@contextlib.contextmanager
def opened(
    path: Path, *, read_only: bool, patience: float, alone: bool, block_bytes: int = BLOCK_BYTES
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The open file, once neither a thread of this process nor another process stands in the way.

    Between two tries the turn within the process is given up: its readers need not wait for what another process holds.

    Args:
        path: The cache.
        read_only: Open it for reading.
        patience: Seconds to wait.
        alone: No other thread of this process may have it open, not even for reading.
        block_bytes: What the file grows by, if it is a new one.
    """
    lock, deadline, pause = lock_of(path), time.monotonic() + patience, 0.01
    locked: duckdb.Error | None = None
    while True:
        with lock.hold(deadline, alone=alone) as mine:
            if mine:
                connection = _connect(path, lock, read_only, block_bytes)
                if isinstance(connection, duckdb.DuckDBPyConnection):
                    try:
                        yield connection
                    finally:
                        _close(connection, lock, read_only=read_only)
                    return
                locked = connection
        if time.monotonic() >= deadline:
            raise CacheBusy(
                f"The cache {path} is in use by another process or thread for over {patience:.0f} s. "
                "Close other programs that hold it open for writing."
            ) from locked
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 1.7, 0.15)


def _connect(
    path: Path, lock: ReadWriteLock, read_only: bool, block_bytes: int
) -> duckdb.DuckDBPyConnection | duckdb.Error:
    """The file opened, or the error that says that another process has it."""
    # By one name only: DuckDB would open a file again that it has open under another one.
    name = os.path.realpath(path)
    try:
        with lock.gate:
            return duckdb.connect(name, True, trust.CLOSED_OFF) if read_only else _attach(name, block_bytes)
    except duckdb.Error as error:
        if is_lock(error):
            return error
        raise translate(error, path) from error


def _close(connection: duckdb.DuckDBPyConnection, lock: ReadWriteLock, *, read_only: bool) -> None:
    # A writer has committed by now, or told of what kept it from that.
    with lock.gate, contextlib.nullcontext() if read_only else contextlib.suppress(duckdb.Error):
        connection.close()


def _attach(name: str, block_bytes: int) -> duckdb.DuckDBPyConnection:
    """Opens a file for writing, with row groups small enough that a commit never rewrites many pictures.

    The file is opened before everything else is closed off, and before anything is asked of it.
    """
    connection = duckdb.connect(config=trust.WITHOUT_EXTENSIONS)
    try:
        quoted = name.replace("'", "''")
        # The size of a file's blocks is settled once.
        size = "" if os.path.exists(name) else f", BLOCK_SIZE {block_bytes}"
        connection.execute(f"ATTACH '{quoted}' AS cache (TYPE duckdb, ROW_GROUP_SIZE {ROW_GROUP_ROWS}{size})")
        connection.execute("USE cache")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection
