"""Writes rows by column name, through Arrow, with the keys and rules of the inventory. All writes go through here."""

import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from engine.cache import inventory
from engine.cache.inventory import CacheTable

# For dozens of rows, Arrow is a hundred times faster than inserting one by one.
Records: TypeAlias = "Sequence[Mapping[str, Any]] | pa.Table"


def put(db: duckdb.DuckDBPyConnection, name: str, records: Records) -> int:
    """Writes records; rows with the same key are replaced or kept, as the inventory says.

    Args:
        db: A connection inside a transaction.
        name: Name of the table.
        records: Values by column; missing columns become NULL.

    Returns:
        Number of rows added.
    """
    table = inventory.named(name)
    if table.on_write == "keep":
        return put_missing(db, table, records)
    return _insert(db, table, records, f"DELETE FROM {name} t USING incoming i WHERE {_same(table.key or table.unit)}")


def put_missing(db: duckdb.DuckDBPyConnection, table: CacheTable, records: Records) -> int:
    """Writes the records of units that are not in the table yet; returns the number of rows added."""
    return _insert(db, table, records, "", f"ANTI JOIN (SELECT * FROM {table.name}) t ON {_same(table.unit)}")


def put_new(db: duckdb.DuckDBPyConnection, table: CacheTable, rows: "Records | pa.RecordBatchReader") -> int:
    """Writes rows of units that are known not to be in the table yet; returns the number of rows added."""
    return _add(db, table, rows) if isinstance(rows, pa.RecordBatchReader) else _insert(db, table, rows)


def clear(db: duckdb.DuckDBPyConnection, name: str, values: Collection[str], column: str = "trajectory_id") -> None:
    """Deletes the rows whose `column` is among the values."""
    if values:
        db.execute(f"DELETE FROM {name} WHERE {column} IN (SELECT unnest(?::VARCHAR[]))", [list(values)])


def now() -> datetime.datetime:
    """The current time in UTC, without time zone, as the cache stores it."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def _same(columns: Sequence[str]) -> str:
    return " AND ".join(f"t.{column} IS NOT DISTINCT FROM i.{column}" for column in columns)


def _insert(
    db: duckdb.DuckDBPyConnection, table: CacheTable, records: Records, before: str = "", without: str = ""
) -> int:
    if isinstance(records, pa.Table):
        incoming = records
    else:
        names = dict.fromkeys(name for record in records for name in record)
        incoming = pa.Table.from_pylist([{name: record.get(name) for name in names} for record in records])
    for name in {*table.key, *table.unit} - set(incoming.column_names):
        incoming = incoming.append_column(name, pa.nulls(incoming.num_rows))
    return _add(db, table, incoming, before, without) if incoming.num_rows else 0


def _add(
    db: duckdb.DuckDBPyConnection,
    table: CacheTable,
    incoming: pa.Table | pa.RecordBatchReader,
    before: str = "",
    without: str = "",
) -> int:
    db.register("incoming", incoming)
    if before:
        db.execute(before)
    added = db.execute(f"INSERT INTO {table.name} BY NAME SELECT i.* FROM incoming i {without}").fetchall()
    db.unregister("incoming")
    return int(added[0][0])
