"""Caches that travel: one study, or everything, into a new compact file; and another cache into this one."""

import contextlib
import os
from pathlib import Path

from engine.cache import queries
from engine.cache.connection import Connection, QueryError, migrate, writing
from engine.cache.inventory import named, scope
from engine.cache.merge import Merged, merge
from engine.cache.opening import BLOCK_BYTES
from engine.cache.snapshot import snapshot
from engine.errors import CacheError, CacheMissing, CacheRefused, StudyError, did_you_mean

# Files with fewer bytes of pictures are mailed rather than written fast: small blocks leave fewer of them half empty.
SMALL_BYTES = 32 * 2**20
SMALL_BLOCK_BYTES = 16_384


def export_cache(cache: Path, target: Path, study: str | None = None) -> Merged:
    """Writes a study with all it needs, or the whole cache, to a new file without gaps.

    Raises:
        CacheError: The cache cannot be read, or the file not be written.
        StudyError: There is no such study.
    """
    if target.exists():
        raise CacheError(f"{target} exists already; give another name, or remove it first.")
    unfinished = target.with_name(f".{target.name}.unfinished")
    with snapshot(cache, target) as source:
        require_study(source, study)
        try:
            _remove(unfinished)
            migrate(unfinished, block_bytes=_block_bytes(source, study))
            with writing(unfinished) as db:
                merged = merge(source, lambda: contextlib.nullcontext(db), study)
            os.replace(unfinished, target)
        finally:
            _remove(unfinished)
    return merged


def import_cache(file: Path, cache: Path) -> Merged:
    """Takes over what another cache holds (the rules stand in `merge`); the file itself is only read.

    Raises:
        CacheError: One of the files cannot be used.
        CacheRefused: The file is not what a lab writes.
    """
    if not file.exists():
        raise CacheMissing(f"There is no file {file}.")
    if cache.exists() and file.samefile(cache):
        raise CacheError(f"{file} is the cache itself; there is nothing to import.")
    with snapshot(file, cache, stranger=True) as source:
        migrate(cache)
        try:
            return merge(source, lambda: writing(cache))
        except QueryError as error:
            # Rows that break the rules of the tables: NULLs, keys that occur twice, unknown words.
            text = str(error).partition("\n")[0]
            raise CacheRefused(f"{file} is no cache written by this lab: {text}") from error


def require_study(db: Connection, study: str | None) -> None:
    """Refuses a name that no study has.

    Raises:
        StudyError: Names the nearest one.
    """
    names = queries.studies(db)["study_id"].tolist()
    if study is not None and study not in names:
        listed = ", ".join(names) or "none yet"
        raise StudyError(f"The cache holds no study '{study}'.{did_you_mean(study, names)} Studies: {listed}.")


def _block_bytes(source: Connection, study: str | None) -> int:
    frames = named("frames")
    where, values = ("true", {}) if study is None else (scope(frames), {"study": study})
    pictures = source.execute(f"SELECT sum(octet_length(image)) FROM frames WHERE {where}", values).fetchall()
    return SMALL_BLOCK_BYTES if (pictures[0][0] or 0) < SMALL_BYTES else BLOCK_BYTES


def _remove(file: Path) -> None:
    for name in (file, file.with_name(file.name + ".wal")):
        name.unlink(missing_ok=True)
