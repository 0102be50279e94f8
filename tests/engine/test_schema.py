"""The schema explains itself, agrees with the inventory, and rows are written in one way only."""

import re

import duckdb
import pytest

from engine.cache import rows
from engine.cache.inventory import TABLES
from engine.cache.schema import CREATE_MIGRATIONS, MIGRATIONS
from tests.engine.helpers import ROOT

SQL = CREATE_MIGRATIONS + "".join(step.sql for step in MIGRATIONS)


@pytest.fixture
def db():
    with duckdb.connect() as connection:
        connection.execute(SQL)
        yield connection


def test_every_column_is_explained(db):
    explained = {}
    for line in SQL.splitlines():
        if opened := re.match(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", line):
            table = opened[1]
        elif column := re.match(r" +(\w+) [A-Z].*[,)\w\]] +-- *(\S.*)$", line):
            explained[table, column[1]] = column[2]
        elif added := re.match(r"ALTER TABLE (\w+) ADD COLUMN (\w+) [^;]*; -- *(\S.*)$", line):
            explained[added[1], added[2]] = added[3]
    query = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal"
    columns = set(db.execute(query).fetchall())
    assert explained.keys() == columns
    assert len({table for table, _ in columns}) <= 21


def test_the_inventory_names_the_tables_and_columns_of_the_schema(db):
    query = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal"
    columns = set(db.execute(query).fetchall())
    assert {table.name for table in TABLES} == {table for table, _ in columns} - {"schema_migrations"}
    for table in TABLES:
        assert {(table.name, column) for column in (*table.unit, *table.key)} <= columns
        assert table.kind != "study" or (table.name, "study_id") in columns
        db.execute(f"SELECT count(*) FROM {table.name} WHERE {table.only}")


def test_rows_are_written_by_column_name_and_in_one_place():
    written = {
        file.name: re.findall(r"INSERT (?:OR \w+ )?INTO [^\"']*", file.read_text(encoding="utf-8"))
        for file in (ROOT / "engine").rglob("*.py")
    }
    assert {name: len(found) for name, found in written.items() if found} == {"rows.py": 1, "connection.py": 1}
    assert "BY NAME" in written["rows.py"][0]
    assert "(version, name, applied_at)" in written["connection.py"][0]


def test_a_row_written_again_is_replaced_or_kept_as_the_inventory_says(db):
    environment = {
        "environment_id": "e",
        "device": "cpu",
        "device_name": "x",
        "memory": "",
        "torch": "",
        "diffusers": "",
    }
    lane = {"scope": "lane", "study_id": "s", "lane": "a", "against": "b", "metric": "kid", "metric_version": "1"}
    picture = {"scope": "picture", "trajectory_id": "t", "metric": "ssim", "metric_version": "1"}
    assert rows.put(db, "environments", [{**environment, "details": "{}"}]) == 1
    assert rows.put(db, "environments", [{**environment, "details": "[]"}]) == 0
    rows.put(db, "scores", [{**lane, "value": 1.0}, {**lane, "against": "c", "value": 2.0}, {**picture, "value": 3.0}])
    rows.put(db, "scores", [{**lane, "reason": "too few"}, {**picture, "value": 4.0}])
    assert db.execute("SELECT details FROM environments").fetchall() == [("{}",)]
    found = db.execute("SELECT coalesce(against, ''), value, reason FROM scores ORDER BY 1").fetchall()
    assert found == [("", 4.0, None), ("b", None, "too few"), ("c", 2.0, None)]
    assert rows.put(db, "scores", []) == 0
