"""DuckDB's errors, translated for people."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb

from engine.cache import trust
from engine.errors import CacheError

# TransactionException: a commit that could not be written.
_FILE_TROUBLE = (
    duckdb.IOException,
    duckdb.TransactionException,
    duckdb.SerializationException,
    duckdb.FatalException,
    duckdb.InternalException,
    duckdb.OutOfMemoryException,
)


def is_lock(error: duckdb.Error) -> bool:
    """Whether somebody else has the file open."""
    # Not just "lock": damaged files are told of as "... in block at location ...".
    text = str(error).lower()
    mine = "different configuration" in text or "already attached" in text  # opened here, but not by this module
    return mine or "set lock" in text or "being used by another process" in text


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Tells of what is wrong with the file as CacheError; mistakes in our own queries keep their traceback."""
    try:
        yield
    except duckdb.Error as error:
        # The base class itself is what damaged blocks raise; other kinds (parser, binder, ...) are bugs of ours.
        if type(error) is duckdb.Error or isinstance(error, _FILE_TROUBLE):
            raise translate(error, path) from error
        raise
    except RuntimeError as error:
        # What DuckDB makes of Ctrl-C during a query.
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from error
        raise


def translate(error: duckdb.Error, path: Path) -> CacheError:
    """What is wrong with the file, and the remedy."""
    text = str(error).partition("\n")[0]
    low = text.lower()
    if "no space left" in low or "file too large" in low or "could not write" in low or "disk quota" in low:
        return CacheError(
            f"The disk is full: {path} could not be written ({text}). What was committed before is safe; "
            "free some space, or give another --cache, and run again to go on."
        )
    if (
        "not a valid duckdb" in low or "sqlite" in low or "loading external extensions" in low
    ):  # of other kinds of files
        return CacheError(f"{path} is not a DuckDB file. Give another --cache, or move the file away.")
    if "version" in low and ("newer" in low or "storage" in low):
        return CacheError(f"{path} was written by a newer DuckDB: {text}. Upgrade with `pip install -U duckdb`.")
    if "permission denied" in low or "read-only" in low:
        return CacheError(f"No permission for the cache {path}: {text}.")
    if isinstance(error, duckdb.OutOfMemoryException):
        return CacheError(
            f"Reading {path} needs more memory than the {trust.CLOSED_OFF['memory_limit']} it is given: {text}."
        )
    if "corrupt" in low or "checksum" in low or "could not read enough bytes" in low:
        return CacheError(f"{path} is damaged: {text}. Restore a copy, or move the file away and run the study again.")
    return CacheError(f"The cache {path} cannot be used: {text}")
