"""What is read of a cache at most: rows and bytes of an answer, bytes and pixels of a picture, ranges of values.

A file of a few megabytes can unpack to gigabytes. So every answer that becomes a data frame comes through `fetch`,
which stops at a bound while rows arrive, and whatever is taken from a stranger's file is measured inside DuckDB before
(`refuse_unlikely`). Studies of any number of cells can be imported and exported: those go in groups.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from engine.errors import CacheRefused

# An answer as a data frame; what is worked out from it takes a few times as much.
ANSWER_ROWS = 1_000_000
ANSWER_BYTES = 256 * 2**20
# What is resampled: 100 lanes in 4 environments with 10 repeats of 6 stages at 4 batch sizes are 96,000 samples.
SAMPLE_ROWS = 100_000
VOTE_ROWS = 100_000
VECTORS_AT_ONCE = 4
# What is taken at once of another cache: what it says of studies, times and lanes. Cells come in groups.
TABLE_ROWS = 5_000_000
TABLE_BYTES = 384 * 2**20
ARROW_ROWS = 16_384
# An honest PNG of 4096 x 4096 pixels has at most 50 MB.
PICTURE_BYTES = 64 * 2**20
PICTURE_PIXELS = 4096 * 4096
# Beside the pixels of a PNG: colour profiles, comments. What we write has none.
PICTURE_EXTRAS = 65_536
# All pictures of one page, and of one document that shows them together.
PAGE_BYTES = 48 * 2**20
DOCUMENT_PIXELS = 256 * 2**20
# Cells are taken in groups of so many bytes, or one by one; a video of 100 steps in full size has 400 MB.
GROUP_BYTES = 64 * 2**20
CELL_BYTES = 512 * 2**20
ERROR_CHARACTERS = 2_000
TEXT_CHARACTERS = 1_000_000
TEXTS_CHARACTERS = 512 * 2**20
LIST_NUMBERS = 64
# Largest magnitude that a finite number can have, by column. NaN and infinity are told from numbers where they matter.
LARGEST_NUMBER = 1e100
LARGEST: Mapping[str, float] = {
    "log_snr": 200.0,  # of float32: sigma from 1e-38 up is 175
    "progress": 10.0,
    "timestep": 1e7,
    "guidance_scale": 1e6,
    "seconds": 1e9,
    "share": 10.0,
    "width": 65_536,
    "height": 65_536,
    "steps": 1e6,
    "nfe": 1e7,
    "calls": 1e7,
    "step_index": 1e7,
    "video_frame": 1e6,
    "batch_size": 1e6,
    "repeat": 1e7,
}
_REMEDY = "Ask for one study of it, made by `python -m engine export STUDY`, or query the file with SQL."

Columns = Sequence[tuple[str, str]]


def fetch(
    db: duckdb.DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    rows: int = ANSWER_ROWS,
    size: int = ANSWER_BYTES,
) -> pd.DataFrame:
    """The answer to a query as a data frame, read bit by bit and given up at the first bit that is too much.

    Args:
        db: An open connection.
        query: What to ask.
        parameters: Of the query.
        rows: Most rows.
        size: Most bytes in memory.

    Raises:
        CacheRefused: There are more, or a value is out of any range it can have.
    """
    result = db.execute(query, parameters if isinstance(parameters, Mapping) else list(parameters))
    parts: list[pd.DataFrame] = []
    count, used = 0, 0
    while not parts or len(parts[-1]):
        part = result.fetch_df_chunk(VECTORS_AT_ONCE)
        count, used = count + len(part), used + int(part.memory_usage(index=False, deep=True).sum())
        if count > rows:
            raise CacheRefused(f"The cache is refused: an answer has more than {rows:,} rows. {_REMEDY}")
        refuse_bytes(used, size)
        _refuse_values(part)
        parts.append(part)
    parts = parts[:-1] or parts
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    whole = pd.concat(parts, ignore_index=True)
    for name in whole.select_dtypes("object").columns:
        # A bit whose texts are all NULL is told of as objects.
        texts = next((part[name].dtype for part in parts if isinstance(part[name].dtype, pd.StringDtype)), None)
        whole[name] = whole[name] if texts is None else whole[name].astype(texts)
    return whole


def fetch_arrow(db: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any]) -> pa.Table:
    """The same as a table of Arrow, for what other caches say of studies: `TABLE_ROWS` and `TABLE_BYTES` at most.

    Raises:
        CacheRefused: There is more.
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


def refuse_bytes(used: int, size: int = ANSWER_BYTES) -> None:
    """Says so if an answer is too large.

    Raises:
        CacheRefused: It is.
    """
    if used > size:
        raise CacheRefused(f"The cache is refused: an answer takes more than {size // 2**20:,} MB. {_REMEDY}")


def _refuse_values(part: pd.DataFrame) -> None:
    for name in part.columns.intersection(list(LARGEST)):
        numbers = part[name]
        if pd.api.types.is_numeric_dtype(numbers):
            values = np.abs(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
            largest = float(values[np.isfinite(values)].max(initial=0.0))
            if largest > LARGEST[name]:
                raise CacheRefused(_of_values(name, largest, LARGEST[name]))


def refuse_unlikely(db: duckdb.DuckDBPyConnection, table: str, columns: Columns) -> None:
    """Measures a stranger's table inside DuckDB, in one go: values larger than any study makes them.

    Args:
        db: An open connection.
        table: Its name.
        columns: (name, type) of each.

    Raises:
        CacheRefused: Something is too large.
    """
    bounds = [bound for name, kind in columns for bound in _bounds(table, name, kind)]
    if not bounds:
        return
    found = db.execute(f"SELECT {', '.join(expression for expression, _, _ in bounds)} FROM {table}").fetchall()[0]
    for value, (_, limit, words) in zip(found, bounds, strict=True):
        if value is not None and value > limit:
            raise CacheRefused(
                f"{words.format(value=value)}, more than the {limit:,} that are read from a shared cache. {_REMEDY}"
            )


def _bounds(table: str, name: str, kind: str) -> list[tuple[str, float, str]]:
    """(what to measure, its limit, words for it) of a column."""
    where = f"'{table}.{name}' has"
    if kind == "BLOB":
        return [(f'max(octet_length("{name}"))', PICTURE_BYTES, where + " a value of {value:,} bytes")]
    if kind == "DOUBLE[]":
        return [(f'max(len("{name}"))', LIST_NUMBERS, where + " a list of {value:,} numbers")]
    if kind in ("VARCHAR", "JSON") or kind.endswith("[]"):
        length = f'length("{name}"::VARCHAR)'
        return [
            (f"max({length})", TEXT_CHARACTERS, where + " a text of {value:,} characters"),
            (f"sum({length})", TEXTS_CHARACTERS, where + " {value:,} characters"),
        ]
    if kind == "DOUBLE" or name in LARGEST:
        size = f'abs("{name}"::DOUBLE)'
        return [
            (
                f"max({size}) FILTER (isfinite({size}))",
                LARGEST.get(name, LARGEST_NUMBER),
                where + " a value of {value:g}",
            )
        ]
    return []


def _of_values(name: str, value: float, limit: float) -> str:
    return (
        f"The cache is refused: '{name}' has a value of {value:g}, out of any range it can have (up to {limit:g}). "
        "Ask for a file made by `python -m engine export`."
    )
