"""A private copy of a cache, which exports and imports read without blocking a run."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engine.cache.connection import Connection, QueryError, holding, migrate, reading
from engine.errors import CacheError, CacheOutdated, CacheRefused
from engine.paths import log_of

PATIENCE_SECONDS = 60.0


@contextlib.contextmanager
def snapshot(path: Path, beside: Path, *, untrusted: bool = False) -> Iterator[Connection]:
    """Copies a cache between two commits, migrates the copy to the current schema, and opens it for reading.

    The file itself is only read. The copy takes as much disk space as the file and is removed on exit.

    Args:
        path: The cache.
        beside: The copy is made in the folder of this file.
        untrusted: Validate the contents before they are used.

    Raises:
        CacheError: As in `reading`; also if there is no space for the copy.
    """
    with folder_beside(beside) as folder:
        copy = folder / "snapshot.duckdb"
        try:
            with holding(path, PATIENCE_SECONDS):
                log = log_of(path)
                if log.exists():
                    shutil.copyfile(log, log_of(copy))
                shutil.copyfile(path, copy)  # last, since closing the file drops the lock
        except OSError as error:
            raise CacheError(f"{path} cannot be copied to {folder.parent}: {error}. Free some space there.") from error
        try:
            _migrate(copy, untrusted)
            with reading(copy, inspect=untrusted) as db:
                yield db
        except CacheError as error:
            # Name the original file, not the copy.
            raise type(error)(str(error).replace(str(copy), str(path))) from error


@contextlib.contextmanager
def folder_beside(beside: Path) -> Iterator[Path]:
    """A temporary folder in the folder of a file.

    Raises:
        CacheError: It cannot be made.
    """
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".snapshot-", dir=beside.parent)
    except OSError as error:
        raise CacheError(f"{beside.parent} cannot hold a temporary copy: {error}.") from error
    with folder as name:
        yield Path(name)


def _migrate(copy: Path, untrusted: bool) -> None:
    """Migrates a copy of an older version; `reading` refuses foreign objects before it checks the version."""
    try:
        with reading(copy):
            return
    except CacheOutdated:
        pass
    try:
        migrate(copy, inspect=untrusted)
    except QueryError as error:
        text = str(error).partition("\n")[0]
        raise CacheRefused(f"{copy} was not written by this lab: it cannot be migrated ({text}).") from error
