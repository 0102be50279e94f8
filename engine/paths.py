"""Paths of the project's own files and of the default cache, and how files are written and locked."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import platformdirs

# Holds the packages engine, dashboard and data: a checkout, or the site-packages of an installed wheel.
ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
CLAIMS = DATA / "claims.toml"


def default_cache(root: Path) -> Path:
    """The cache that commands and pages use by default.

    In a checkout, recognised by its pyproject.toml, it is in the folder `data`. An installed package must not write
    into site-packages, so it uses the user's data folder, e.g. ~/.local/share/scheduler-lab on Linux.
    """
    if (root / "pyproject.toml").is_file():
        return root / "data" / "cache.duckdb"
    return platformdirs.user_data_path("scheduler-lab", appauthor=False) / "cache.duckdb"


DEFAULT_CACHE = default_cache(ROOT)


def log_of(path: Path) -> Path:
    """DuckDB's write-ahead log of a database file."""
    return path.with_name(path.name + ".wal")


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file under a temporary name and renames it, so that readers and failures never see a part of it.

    Args:
        path: The file.
        write: Writes the whole file under the path it is given.

    Raises:
        OSError: It cannot be written; the old file is unchanged.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def take_lock(file: IO[Any] | int, seconds: float = 1.0) -> bool:
    """Takes the lock of an open file until it is closed; tries for a while, since whoever looks holds it for a moment.

    Args:
        file: The file, or a descriptor of it.
        seconds: How long to try.

    Returns:
        Whether it was taken; not if another process holds it.

    Raises:
        ImportError: The system has no such locks.
        OSError: The file cannot be locked.
    """
    import fcntl  # not on every system

    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        time.sleep(0.02)
