"""Exports a study as a folder of Parquet files for DuckDB, pandas and the Hugging Face library `datasets`."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.cache import dataset, queries
from engine.cache.connection import Connection
from engine.errors import CacheError
from engine.sharing.study_file import study_toml

ROWS_AT_ONCE = 256
_KINDS = {
    "final": "final pictures, lossless",
    "x0": "clean-image estimates by step",
    "xt": "noisy images by step",
}


def export_parquet(db: Connection, study: str, folder: Path) -> list[Path]:
    """Writes `frames/kind=KIND/NN-LANE.parquet`, `tables/NAME.parquet`, the study file and a README; returns all files.

    Raises:
        CacheError: The folder is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CacheError(f"{folder} exists and is not an empty folder; choose another name, or remove it first.")
    made = folder.exists()
    try:
        return _write(db, study, folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            folder.mkdir(exist_ok=True)
        if isinstance(error, OSError):
            raise CacheError(f"{folder} could not be written: {error}.") from error
        raise


def _write(db: Connection, study: str, folder: Path) -> list[Path]:
    (folder / "tables").mkdir(parents=True)
    files = []
    for name, rows in dataset.plain_tables(db, study):
        files.append(folder / "tables" / f"{name}.parquet")
        pq.write_table(rows, files[-1], compression="zstd")
    kinds: set[str] = set()
    for place, (lane, ids) in enumerate(dataset.lanes(db, study).items()):
        for kind in dataset.frame_kinds(db, ids):
            kinds.add(kind)
            files.append(folder / "frames" / f"kind={_plain(kind)}" / f"{place:02}-{_plain(lane)}.parquet")
            _write_frames(db, study, kind, lane, ids, files[-1])
    spec = {**(queries.spec(db, study) or {}), "name": study}  # an import may have given it another name
    for name, text in (("study.toml", study_toml(spec)), ("README.md", _card(study, kinds))):
        files.append(folder / name)
        files[-1].write_text(text, encoding="utf-8")
    return files


def _write_frames(db: Connection, study: str, kind: str, lane: str, ids: list[str], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    try:
        for rows in dataset.frames(db, study, kind, lane, ids):
            if writer is None:
                schema = rows.schema.with_metadata({"huggingface": json.dumps({"info": {"features": _features(rows)}})})
                writer = pq.ParquetWriter(file, schema, compression="zstd")
            writer.write_table(rows.replace_schema_metadata(writer.schema.metadata), row_group_size=ROWS_AT_ONCE)
    finally:
        if writer is not None:
            writer.close()


def _features(rows: pa.Table) -> dict[str, Any]:
    """How the library `datasets` reads the columns; an image is a struct of bytes and path."""
    names = {pa.string(): "string", pa.int32(): "int32", pa.int64(): "int64", pa.float64(): "float64"}
    return {
        column.name: {"_type": "Image"} if column.name == "image" else {"dtype": names[column.type], "_type": "Value"}
        for column in rows.schema
    }


def _plain(name: str) -> str:
    """The name with only characters that every file system accepts."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:60].strip(".-") or "unnamed"


def _card(study: str, kinds: set[str]) -> str:
    """The README; its front matter tells the Hugging Face hub which files belong together."""
    order = sorted(kinds, key=lambda kind: (kind != "final", kind))
    configs = [
        f'- config_name: "{_plain(kind)}"\n  data_files: "frames/kind={_plain(kind)}/*.parquet"' for kind in order
    ]
    said = [f"- `frames/kind={_plain(kind)}`: {_KINDS.get(kind, 'pictures')}" for kind in order]
    head = ["---", *(["configs:", *configs] if configs else []), "---"]
    return "\n".join(
        [
            *head,
            f"# Study {study}",
            "",
            "Written by `python -m engine export`. One row per picture, with lane, prompt, seed, step and noise level.",
            "",
            *said,
            "- `tables/`: all other tables of the cache, with the rows of this study (`engine/cache/schema.py` "
            "documents the columns).",
            "- `study.toml`: the study file, to reproduce it.",
            "",
            "```python",
            "import duckdb, pandas, datasets",
            "duckdb.sql(\"FROM read_parquet('frames/**/*.parquet', hive_partitioning=true)\")",
            "pandas.read_parquet('frames')",
            "datasets.load_dataset('.', 'final', split='train')[0]['image']",
            "```",
            "",
        ]
    )
