"""A private copy of a cache at one moment: what exports and imports read, so that no run has to wait for them."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engine.cache.connection import Connection, QueryError, holding, migrate, reading
from engine.errors import CacheError, CacheOutdated, CacheRefused

PATIENCE_SECONDS = 60.0


@contextlib.contextmanager
def snapshot(path: Path, beside: Path, *, stranger: bool = False) -> Iterator[Connection]:
    """Copies a cache while no run writes to it, brings the copy to today's schema, and opens it for reading.

    The file itself is only read. The copy needs as much room as the file, and is removed on leaving.

    Args:
        path: The cache.
        beside: The copy is made in the folder of this file.
        stranger: Somebody else wrote the cache: its contents are looked at before they are used.

    Raises:
        CacheError: As in `reading`; or there is no room for the copy.
    """
    with _folder(beside) as folder:
        copy = folder / "snapshot.duckdb"
        try:
            with holding(path, PATIENCE_SECONDS):
                log = path.with_name(path.name + ".wal")
                if log.exists():
                    shutil.copyfile(log, copy.with_name(copy.name + ".wal"))
                shutil.copyfile(path, copy)  # last: closing it ends the hold
        except OSError as error:
            raise CacheError(f"{path} cannot be copied to {folder.parent}: {error}. Free some space there.") from error
        try:
            _bring_up_to_date(copy, stranger)
            with reading(copy, inspect=stranger) as db:
                yield db
        except CacheError as error:
            # People know the file by its own name.
            raise type(error)(str(error).replace(str(copy), str(path))) from error


@contextlib.contextmanager
def _folder(beside: Path) -> Iterator[Path]:
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".snapshot-", dir=beside.parent)
    except OSError as error:
        raise CacheError(f"No copy can be made in {beside.parent}: {error}.") from error
    with folder as name:
        yield Path(name)


def _bring_up_to_date(copy: Path, stranger: bool) -> None:
    """Migrates an older copy; `reading` refuses foreign objects before it looks at the version."""
    try:
        with reading(copy):
            return
    except CacheOutdated:
        pass
    try:
        migrate(copy, inspect=stranger)
    except QueryError as error:
        text = str(error).partition("\n")[0]
        raise CacheRefused(f"{copy} is no cache written by this lab: it cannot be migrated ({text}).") from error
