"""Export of one study or a whole cache to a compact file, and import of such a file."""

import os
from pathlib import Path

from engine.cache import queries
from engine.cache.connection import Connection, QueryError, migrate, settle, writing
from engine.cache.merge import Merged, merge
from engine.cache.snapshot import folder_beside, snapshot
from engine.errors import CacheError, CacheMissing, CacheRefused, StudyError, did_you_mean


def export_cache(cache: Path, target: Path, study: str | None = None) -> Merged:
    """Writes a study with everything it depends on, or the whole cache, to a new compact file.

    Raises:
        CacheError: The cache cannot be read, or the file cannot be written.
        StudyError: There is no such study.
    """
    if target.exists():
        raise CacheError(f"{target} exists already; choose another name, or remove it first.")
    with snapshot(cache, target) as source, folder_beside(target) as folder:
        require_study(source, study)
        unfinished = folder / target.name
        migrate(unfinished)
        merged = merge(source, lambda: writing(unfinished), study)
        settle(unfinished)
        os.replace(unfinished, target)
    return merged


def import_cache(file: Path, cache: Path) -> Merged:
    """Imports another cache by the rules of `merge`; the file itself is only read.

    Raises:
        CacheError: One of the files cannot be used.
        CacheRefused: The file was not written by the lab.
    """
    if not file.exists():
        raise CacheMissing(f"There is no file {file}.")
    if cache.exists() and file.samefile(cache):
        raise CacheError(f"{file} is the cache itself; there is nothing to import.")
    with snapshot(file, cache, untrusted=True) as source:
        migrate(cache)
        try:
            return merge(source, lambda: writing(cache))
        except QueryError as error:
            # Rows that violate constraints: NULLs, duplicate keys, unknown values.
            text = str(error).partition("\n")[0]
            raise CacheRefused(f"{file} was not written by this lab: {text}") from error


def require_study(db: Connection, study: str | None) -> None:
    """Checks that the cache holds a study of this name; None passes.

    Raises:
        StudyError: It does not; the message suggests the nearest name.
    """
    names = queries.studies(db)["study_id"].tolist()
    if study is not None and study not in names:
        listed = ", ".join(names) or "none yet"
        raise StudyError(f"The cache holds no study '{study}'.{did_you_mean(study, names)} Studies: {listed}.")
