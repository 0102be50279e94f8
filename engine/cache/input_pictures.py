"""Picture files that pipelines start from, kept so that whoever has the cache can see them and run the study again."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb

from engine.cache import queries
from engine.cache.connection import reading
from engine.cache.rows import put
from engine.errors import CacheMissing, CacheOutdated, StudyError
from engine.picture_files import PICTURE_BYTES, PICTURE_PIXELS
from engine.study.pipeline_settings import PictureFile
from engine.study.study import FindStudyPicture


def put_inputs(db: duckdb.DuckDBPyConnection, pictures: Iterable[PictureFile]) -> None:
    """Writes files, each once, whatever studies name it."""
    put(db, "input_pictures", [{"sha256": picture.digest, "image": picture.data} for picture in pictures])


def refuse_large(pictures: Mapping[str, PictureFile]) -> None:
    """Refuses files that are larger than pictures in a cache may be.

    Raises:
        StudyError: One is.
    """
    for key, picture in pictures.items():
        width, height = picture.size
        if len(picture.data) > PICTURE_BYTES or width * height > PICTURE_PIXELS:
            raise StudyError(
                f"[pipeline]: '{key}' names {picture.name}, which has {width} x {height} pixels and "
                f"{len(picture.data) / 2**20:,.0f} MB; at most {PICTURE_PIXELS:,} pixels and "
                f"{PICTURE_BYTES // 2**20} MB are taken. Make it smaller."
            )


def inputs(db: duckdb.DuckDBPyConnection, digests: Iterable[str]) -> dict[str, bytes]:
    """Files by digest, as far as the cache keeps them; what doesn't have the digest it claims is left out."""
    rows = db.execute(
        f"SELECT sha256, image FROM input_pictures WHERE octet_length(image) <= {PICTURE_BYTES} "
        "AND list_contains(?, sha256)",
        [list(digests)],
    ).fetchall()
    return {digest: data for digest, data in rows if hashlib.sha256(data).hexdigest() == digest}


def inputs_of(spec: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """(file name, digest) of the pictures that a stored study starts from, by argument."""
    table = spec.get("pipeline")
    found: dict[str, tuple[str, str]] = {}
    for key, value in table.items() if isinstance(table, Mapping) else ():
        if isinstance(value, Mapping) and isinstance(value.get("file"), str) and isinstance(value.get("sha256"), str):
            found[str(key)] = (value["file"], value["sha256"])
    return found


def kept_in(cache: Path) -> FindStudyPicture:
    """Finds pictures in a cache: by digest, or by the name that a file had when the study last ran."""

    def find(study: str, file: str, digest: str) -> bytes | None:
        try:
            with reading(cache) as db:
                known = inputs_of(queries.spec(db, study) or {}).values()
                named = [digest] if digest else [sha256 for name, sha256 in known if name == file]
                return next(iter(inputs(db, named).values()), None)
        except (CacheMissing, CacheOutdated):
            return None

    return find
