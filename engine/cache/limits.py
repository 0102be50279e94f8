"""Bounds on what is read from a cache: rows and bytes of a result, bytes and pixels of a picture, ranges of values.

A file of a few megabytes can unpack to gigabytes. Every result that becomes a data frame therefore comes through
`fetch`, which counts rows and bytes as they arrive, and an untrusted file is measured inside DuckDB before anything is
read from it (`refuse_oversized`). Imports and exports work in groups of cells, so studies may have any size.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from engine.errors import CacheRefused
from engine.paths import log_of
from engine.picture_files import PICTURE_BYTES

# A query result as a data frame; computations on it need a few times as much memory.
ANSWER_ROWS = 1_000_000
ANSWER_BYTES = 256 * 2**20
# Cells of a study; with four scores each they reach `ANSWER_ROWS`. Imports and exports take up to `TABLE_ROWS`.
CELL_ROWS = 250_000
# Samples to bootstrap: 100 lanes in 4 environments with 10 repeats of 6 stages at 4 batch sizes are 96,000.
SAMPLE_ROWS = 100_000
VOTE_ROWS = 100_000
VECTORS_AT_ONCE = 4
# Tables of another cache that are imported as a whole: studies, timings, lanes. Cells come in groups.
TABLE_ROWS = 5_000_000
TABLE_BYTES = 384 * 2**20
ARROW_ROWS = 16_384
# DuckDB compresses, and encoded pictures hardly shrink: only many that are equal take less in the file.
PICTURE_RATIO = 20
# All pictures of one page, and of one document.
PAGE_BYTES = 48 * 2**20
DOCUMENT_PIXELS = 256 * 2**20
# Cells are imported, and their pictures loaded, in groups of up to this size, or one by one; a full-size video of 100
# steps has 400 MB.
GROUP_BYTES = 64 * 2**20
CELL_BYTES = 512 * 2**20
ERROR_CHARACTERS = 2_000
TEXT_CHARACTERS = 1_000_000
# Texts that hold every prompt of a study, or evidence on each.
LONG_TEXTS = frozenset({"studies.spec", "lints.dry_run", "decisions.terms", "decisions.evidence"})
LONG_TEXT_CHARACTERS = 8_000_000
TEXTS_CHARACTERS = 512 * 2**20
LIST_NUMBERS = 64
# Largest magnitude of a finite value, by column. NaN and infinity are handled where they matter.
LARGEST_NUMBER = 1e100
LARGEST: Mapping[str, float] = {
    "log_snr": 200.0,  # the smallest float32 sigma, 1e-38, gives 175
    "progress": 10.0,
    "timestep": 1e7,
    "guidance_scale": 1e6,
    "seconds": 1e9,
    "share": 10.0,
}
_REMEDY = "Ask for a single study, made by `python -m engine export STUDY`, or query the file with SQL."

Columns = Sequence[tuple[str, str]]


def fetch(
    db: duckdb.DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    rows: int = ANSWER_ROWS,
    size: int = ANSWER_BYTES,
    order: str = "",
    unread: Sequence[str] = (),
) -> pd.DataFrame:
    """Runs a query and returns the result as a data frame, read in chunks up to a limit.

    Args:
        db: An open connection.
        query: A SELECT statement.
        parameters: Its parameters.
        rows: Maximum number of rows.
        size: Maximum size in memory (bytes).
        order: Columns to sort by, for queries that may find millions of rows: DuckDB sorts in memory, so rows are
            counted before, up to the limit.
        unread: Columns of the query that are for sorting only.

    Raises:
        CacheRefused: A limit is exceeded, or a value is outside the range of its column.
    """
    values = parameters if isinstance(parameters, Mapping) else list(parameters)
    if order:
        found = db.execute(f"SELECT count(*) FROM (SELECT 1 FROM ({query}) LIMIT {rows + 1})", values).fetchall()
        _refuse_rows(int(found[0][0]), rows)
        shown = f"* EXCLUDE ({', '.join(unread)})" if unread else "*"
        query = f"SELECT {shown} FROM ({query}) ORDER BY {order}"
    result = db.execute(query, values)
    parts: list[pd.DataFrame] = []
    count, used = 0, 0
    while not parts or len(parts[-1]):
        part = result.fetch_df_chunk(VECTORS_AT_ONCE)
        count, used = count + len(part), used + int(part.memory_usage(index=False, deep=True).sum())
        _refuse_rows(count, rows)
        refuse_bytes(used, size)
        _refuse_values(part)
        parts.append(part)
    parts = parts[:-1] or parts
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    whole = pd.concat(parts, ignore_index=True)
    for name in (name for name in whole.columns if pd.api.types.is_object_dtype(whole[name])):
        # A chunk whose texts are all NULL arrives with dtype object.
        texts = next((part[name].dtype for part in parts if isinstance(part[name].dtype, pd.StringDtype)), None)
        whole[name] = whole[name] if texts is None else whole[name].astype(texts)
    return whole


def fetch_arrow(db: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any]) -> pa.Table:
    """Returns a query result as an Arrow table of at most `TABLE_ROWS` rows and `TABLE_BYTES` bytes.

    Raises:
        CacheRefused: A limit is exceeded.
    """
    reader = db.sql(query, params=parameters).to_arrow_reader(ARROW_ROWS)
    batches: list[pa.RecordBatch] = []
    count, used = 0, 0
    for batch in reader:
        count, used = count + batch.num_rows, used + batch.nbytes
        if count > TABLE_ROWS:
            raise CacheRefused(f"The cache is refused: a table has more than {TABLE_ROWS:,} rows. {_REMEDY}")
        refuse_bytes(used, TABLE_BYTES)
        batches.append(batch)
    return pa.Table.from_batches(batches, reader.schema)


def in_groups(cells: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Yields the ids of cells, given with their sizes (bytes), in groups of at most `GROUP_BYTES`, or one by one."""
    group: list[str] = []
    used = 0
    for cell, size in cells:
        if group and used + size > GROUP_BYTES:
            yield group
            group, used = [], 0
        group.append(cell)
        used += size
    if group:
        yield group


def _refuse_rows(count: int, rows: int) -> None:
    if count > rows:
        raise CacheRefused(f"The cache is refused: a query result has more than {rows:,} rows. {_REMEDY}")


def refuse_bytes(used: int, size: int = ANSWER_BYTES) -> None:
    """Refuses a result of more than `size` bytes.

    Raises:
        CacheRefused: It is larger.
    """
    if used > size:
        raise CacheRefused(f"The cache is refused: a query result takes more than {size // 2**20:,} MB. {_REMEDY}")


def refuse_unpacked(db: duckdb.DuckDBPyConnection, pictures: int) -> None:
    """Refuses pictures of `pictures` bytes in total if they are far more than the file of the connection holds.

    Raises:
        CacheRefused: They are.
    """
    asked = db.execute("SELECT path FROM duckdb_databases() WHERE database_name = current_database()").fetchone()
    if asked is None or asked[0] is None:
        return  # in memory
    path = Path(asked[0])
    files = (path, log_of(path))  # a commit is in the log before it is in the file
    if pictures > most_unpacked(sum(file.stat().st_size for file in files if file.exists())):
        raise CacheRefused(
            f"The cache is refused: pictures have {pictures:,} bytes, far more than a file of this size holds. "
            f"{_REMEDY}"
        )


def most_unpacked(file_bytes: int) -> int:
    """The most bytes that the pictures in a file of this size may have."""
    return GROUP_BYTES + PICTURE_RATIO * file_bytes


def _refuse_values(part: pd.DataFrame) -> None:
    for name in part.columns.intersection(list(LARGEST)):
        numbers = part[name]
        if pd.api.types.is_numeric_dtype(numbers):
            values = np.abs(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
            largest = float(values[np.isfinite(values)].max(initial=0.0))
            if largest > LARGEST[name]:
                raise CacheRefused(
                    f"The cache is refused: '{name}' has a value of {largest:g}, outside its range (up to "
                    f"{LARGEST[name]:g}). Ask for a file made by `python -m engine export`."
                )


def refuse_oversized(db: duckdb.DuckDBPyConnection, table: str, columns: Columns, file_bytes: int) -> None:
    """Refuses a table with values larger than any study produces; one query, evaluated inside DuckDB.

    Args:
        db: An open connection.
        table: Name of the table.
        columns: (name, type) of each column.
        file_bytes: Size of the file.

    Raises:
        CacheRefused: A value is too large, or pictures unpack to far more than the file holds.
    """
    bounds = [bound for name, kind in columns for bound in _bounds(table, name, kind, file_bytes)]
    if not bounds:
        return
    found = db.execute(f"SELECT {', '.join(expression for expression, _, _ in bounds)} FROM {table}").fetchall()[0]
    for value, (_, limit, words) in zip(found, bounds, strict=True):
        if value is not None and value > limit:
            raise CacheRefused(f"{words.format(value=value)}; the limit for shared caches is {limit:,}. {_REMEDY}")


def _bounds(table: str, name: str, kind: str, file_bytes: int) -> list[tuple[str, float, str]]:
    """The checks of a column: (SQL expression, limit, message)."""
    where = f"'{table}.{name}' has"
    if kind == "BLOB":
        length, most = f'octet_length("{name}")', most_unpacked(file_bytes)
        return [
            (f"max({length})", PICTURE_BYTES, where + " a value of {value:,} bytes"),
            (f"sum({length})", most, where + " {value:,} bytes, far more than pictures in a file of this size have"),
        ]
    if kind == "DOUBLE[]":
        return [(f'max(len("{name}"))', LIST_NUMBERS, where + " a list of {value:,} numbers")]
    if kind in ("VARCHAR", "JSON") or kind.endswith("[]"):
        length = f'length("{name}"::VARCHAR)'
        most = LONG_TEXT_CHARACTERS if f"{table}.{name}" in LONG_TEXTS else TEXT_CHARACTERS
        return [
            (f"max({length})", most, where + " a text of {value:,} characters"),
            (f"sum({length})", TEXTS_CHARACTERS, where + " {value:,} characters"),
        ]
    if kind == "DOUBLE":
        size = f'abs("{name}"::DOUBLE)'
        return [
            (
                f"max({size}) FILTER (isfinite({size}))",
                LARGEST.get(name, LARGEST_NUMBER),
                where + " a value of {value:g}",
            )
        ]
    return []
