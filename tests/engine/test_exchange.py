"""Exports: a study with all it needs, or everything, in a file of its own; and the inventory they are drawn from."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.cache import merge
from engine.cache.connection import writing
from engine.cache.exchange import export_cache, import_cache
from engine.cache.inventory import TABLES
from engine.cache.records import FrameRow
from engine.cache.writer import CacheWriter
from engine.errors import CacheError, StudyError
from engine.study.source import find_model
from tests.engine.exchanging import CELLS, COLUMNS, HERE, KEYS, LANES, STUDIES, contents, count, run, score, write
from tests.engine.helpers import ask, parsed, row, write_rows


@pytest.fixture
def here(tmp_path):
    return tmp_path / "here.duckdb"


@pytest.fixture
def there(tmp_path):
    return tmp_path / "there.duckdb"


# --- The inventory against the migrations ---------------------------------------------------------------------------


def test_the_inventory_knows_every_table_of_the_migrations():
    assert {table.name for table in TABLES} == set(COLUMNS)
    assert len({(table.name, table.kind) for table in TABLES}) == len(TABLES)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_unit_is_made_of_columns_that_are_never_null_and_lie_within_the_key(table):
    columns = COLUMNS[table.name]
    parted = table.only != "true"  # the rest of the table has no such columns
    assert parted or all(not columns[name][1] for name in table.unit)
    if table.name in KEYS:
        assert set(table.unit) <= set(KEYS[table.name])
    if table.kind in ("cell", "score"):
        assert "trajectory_id" in table.unit
    assert parted or ("study_id" in columns) == (table.kind == "study")
    assert bool(table.of_study) == (table.kind == "shared")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_whatever_names_a_cell_hangs_on_it(table):
    if "trajectory_id" in COLUMNS[table.name] and table.name != "study_trajectories":
        assert table.kind in {"cell", "score"} or table.only == "scope = 'lane'"


# --- Any cache at all -----------------------------------------------------------------------------------------------


def caches(seed):
    return st.fixed_dictionaries(
        {
            "cells": st.sets(st.sampled_from(CELLS)).map(sorted),
            "studies": st.sets(st.sampled_from(STUDIES)).map(sorted),
            "lanes": st.sets(st.sampled_from(LANES)).map(sorted),
            "seed": st.just(seed),
        }
    )


@pytest.fixture
def fresh(tmp_path):
    """A new path for each example."""

    def make(name, counter=[0]):  # noqa: B006
        counter[0] += 1
        return tmp_path / f"{name}{counter[0]}.duckdb"

    return make


ANY = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY
@given(held=caches(1))
def test_export_delete_import_brings_back_every_row_and_blob(fresh, held):
    cache, file = write(fresh("cache"), held), fresh("export")
    before = contents(cache)
    export_cache(cache, file)
    assert contents(cache) == before
    cache.unlink()
    import_cache(file, cache)
    assert contents(cache) == before


@ANY
@given(one=caches(1), other=caches(2))
def test_two_overlapping_caches_merge_to_their_union_and_again_to_the_same(fresh, one, other):
    here, there = write(fresh("here"), one), write(fresh("there"), other)
    both = {name: sorted({*rows, *contents(there)[name]}) for name, rows in contents(here).items()}
    first = import_cache(there, here)
    assert contents(here) == both
    assert first.differing == {}
    again = import_cache(there, here)
    assert contents(here) == both
    assert not any(again.rows.values())


def test_the_caches_of_the_properties_fill_every_table(tmp_path):
    everything = write(tmp_path / "c.duckdb", {"cells": CELLS, "studies": STUDIES, "lanes": LANES, "seed": 3})
    assert {name for name, rows in contents(everything).items() if not rows} == set()


# --- A study with all it needs --------------------------------------------------------------------------------------


def test_an_export_of_one_study_holds_that_study_alone(here, there):
    small, large = run(here, parsed()), run(here, parsed(name="large", prompts=["disc", "ring"], lanes=["ddim:4"]))
    score(here, [*small, *large], 0.5)
    export_cache(here, there, "small")
    assert ask(there, "SELECT study_id FROM studies") == [("small",)]
    assert {key for (key,) in ask(there, "SELECT trajectory_id FROM trajectories")} == {c.trajectory_id for c in small}
    assert count(there, "frames") == 2 * len(small)
    assert count(there, "scores") == len(small)
    assert count(there, "environments") == count(there, "models") == 1


def test_an_export_takes_the_references_along(here, there):
    planned = run(here, parsed())
    write_rows(here, row("reference"), row("check"), row("stranger"))
    with writing(here) as db:
        db.execute("INSERT INTO study_references VALUES ('small', 'reference', 'check', 0.05, 0.01)")
    export_cache(here, there, "small")
    held = {key for (key,) in ask(there, "SELECT trajectory_id FROM trajectories")}
    assert held == {"reference", "check", *(cell.trajectory_id for cell in planned)}


def test_an_export_is_compact(here, there):
    writer, source = CacheWriter(here), find_model("gaussian")
    noise = random.Random(0)
    for number in range(30):
        pictures = tuple(
            FrameRow("x0", step, 0.5, None, None, 8, 8, "webp", noise.randbytes(4000)) for step in range(8)
        )
        writer.trajectories([row(f"cell{number}", frames=pictures)], source, HERE)
        writer.trajectories([row(f"cell{number}", frames=pictures)], source, HERE)
    export_cache(here, there)
    assert contents(there) == contents(here)
    assert there.stat().st_size < 0.8 * here.stat().st_size


def test_an_unknown_study_is_named_with_the_nearest_and_nothing_is_written(here, there, tmp_path):
    run(here, parsed())
    with pytest.raises(StudyError, match="Did you mean 'small'"):
        export_cache(here, there, "smal")
    assert [path.name for path in tmp_path.iterdir()] == [here.name]


def test_an_export_overwrites_nothing(here, there):
    run(here, parsed())
    there.write_bytes(b"mine")
    with pytest.raises(CacheError, match="exists already"):
        export_cache(here, there)
    assert there.read_bytes() == b"mine"


def test_a_failed_export_leaves_no_file(here, there, tmp_path, monkeypatch):
    run(here, parsed())
    monkeypatch.setattr(merge, "rows_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_cache(here, there)
    assert [path.name for path in tmp_path.iterdir()] == [here.name]


def test_a_cell_that_is_written_anew_leaves_nothing_of_the_old_one(here):
    write(here, {"cells": CELLS[:2], "studies": [], "lanes": [], "seed": 4})
    CacheWriter(here).trajectories([row(CELLS[0])], find_model("gaussian"), HERE)
    for table in TABLES:
        if table.kind in ("cell", "score"):
            left = ask(here, f"SELECT count(*) FROM {table.name} WHERE trajectory_id = ?", CELLS[0])[0][0]
            assert left == {"trajectories": 1, "frames": 2, "steps": 2}.get(table.name, 0), table.name
