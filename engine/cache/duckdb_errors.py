"""DuckDB errors as readable cache errors with remedies."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb

from engine.cache import trust
from engine.errors import CacheError

# TransactionException: a commit could not be written.
_FILE_ERRORS = (
    duckdb.IOException,
    duckdb.TransactionException,
    duckdb.SerializationException,
    duckdb.FatalException,
    duckdb.InternalException,
    duckdb.OutOfMemoryException,
)


def is_lock(error: duckdb.Error) -> bool:
    """Whether the error means that the file is open elsewhere."""
    # Not just "lock": errors of damaged files contain "... in block at location ...".
    text = str(error).lower()
    same_process = "different configuration" in text or "already attached" in text
    return same_process or "set lock" in text or "being used by another process" in text


def holder_of(error: duckdb.Error) -> str:
    """The program that holds the lock of a file, e.g. "python3.11 (process 123)"; "" if DuckDB doesn't say."""
    match = re.search(r"held in (.+?) \(PID (\d+)\)", str(error))
    return f"{Path(match[1]).name} (process {match[2]})" if match else ""


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raises file problems as CacheError; errors in our own queries keep their type and traceback."""
    try:
        yield
    except duckdb.Error as error:
        # Damaged blocks raise the base class itself; other subclasses (parser, binder, ...) are bugs of ours.
        if type(error) is duckdb.Error or isinstance(error, _FILE_ERRORS):
            raise translate(error, path) from error
        raise
    except RuntimeError as error:
        # DuckDB raises this on Ctrl-C during a query.
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from error
        raise


def translate(error: duckdb.Error, path: Path) -> CacheError:
    """The cause and the remedy of a file problem."""
    text = str(error).partition("\n")[0]
    low = text.lower()
    if "no space left" in low or "file too large" in low or "could not write" in low or "disk quota" in low:
        return CacheError(
            f"The disk is full: {path} could not be written ({text}). Everything committed before is safe; "
            "free some space, or choose another --cache, and run again to continue."
        )
    # DuckDB takes some other formats for databases of its extensions.
    if "not a valid duckdb" in low or "sqlite" in low or "loading external extensions" in low:
        return CacheError(f"{path} is not a DuckDB file. Choose another --cache, or move the file away.")
    if "version" in low and ("newer" in low or "storage" in low):
        return CacheError(f"{path} was written by a newer DuckDB: {text}. Upgrade with `pip install -U duckdb`.")
    if "permission denied" in low or "read-only" in low:
        return CacheError(
            f"No permission for the cache {path}: {text}. Give another --cache (from Python: cache=...) in a folder "
            f"that you may write to, or the right to write to {path.parent}."
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return CacheError(
            f"Reading {path} needs more memory than the limit of {trust.READ_CONFIG['memory_limit']}: {text}."
        )
    if "corrupt" in low or "checksum" in low or "could not read enough bytes" in low:
        return CacheError(f"{path} is damaged: {text}. Restore a copy, or move the file away and run the study again.")
    return CacheError(f"The cache {path} cannot be used: {text}")
