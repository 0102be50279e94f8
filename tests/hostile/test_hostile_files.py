"""Files from strangers: each is refused with a clear word, or shown as what it is; none reaches out, none hangs."""

import sys
import time
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from engine.cache import trust
from engine.cache.connection import reading
from engine.cache.schema import MIGRATIONS
from engine.errors import CacheError, CacheRefused
from tests.hostile import files as FILES

HERE = Path(__file__).resolve().parent
APP = HERE.parents[1] / "dashboard" / "app.py"
VIEWS = sorted(file.stem for file in (APP.parent / "views").glob("*.py") if file.stem != "__init__")
SECONDS = 10.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inside" / "shared.duckdb"


def made(name: str, path: Path) -> Path:
    """The hostile file in a folder of its own; what else is in there afterwards was written by it."""
    path.parent.mkdir()
    {**FILES.REFUSED, **FILES.HARMLESS}[name](path)
    return path


@pytest.mark.parametrize("name", FILES.REFUSED)
def test_is_refused_in_words_in_time_and_leaves_nothing_behind(name: str, path: Path) -> None:
    made(name, path)
    before = {file: file.lstat().st_size for file in path.parent.iterdir()}
    start = time.monotonic()
    with pytest.raises(CacheError) as refusal, reading(path, 1.0, SECONDS, inspect=True) as db:
        db.execute("SELECT count(*) FROM frames").fetchall()
    assert time.monotonic() - start < SECONDS
    assert path.name in str(refusal.value)
    assert FILES.SECRET not in str(refusal.value)
    assert {file: file.lstat().st_size for file in path.parent.iterdir()} == before


@pytest.mark.parametrize("name", FILES.HARMLESS)
def test_is_shown_as_what_it_is_on_every_page(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--cache", str(made(name, path)), "--read-only"])
    st.cache_data.clear()
    st.cache_resource.clear()
    for view in VIEWS:
        page = AppTest.from_file(str(APP), default_timeout=SECONDS)
        page.switch_page(f"views/{view}.py").run()
        assert not page.exception, view
        shown = "\n".join(element.proto.body for element in page.get("html") if "<style>" not in element.proto.body)
        assert "<script" not in shown, view
        assert "onerror='" not in shown, view
    assert list(path.parent.iterdir()) == [path]


def test_a_reading_connection_reaches_nothing_but_its_file(path: Path) -> None:
    made("paths for names", path)
    trace = path.parent / FILES.TRACE
    (path.parent / "secret.csv").write_text(FILES.SECRET)
    probes = (
        f"COPY (SELECT 1) TO '{trace}'",
        f"SELECT * FROM '{path.parent / 'secret.csv'}'",
        f"SELECT * FROM read_text('{path.parent / 'secret.csv'}')",
        "SELECT * FROM glob('/etc/*')",
        f"ATTACH '{path.parent / 'other.duckdb'}'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '90GB'",
    )
    for probe in probes:
        with pytest.raises(Exception, match=r".") as refusal, reading(path) as db:
            db.execute(probe).fetchall()
        assert FILES.SECRET not in str(refusal.value)
    assert not trace.exists()


def test_a_query_without_end_is_stopped(path: Path) -> None:
    made("paths for names", path)
    start = time.monotonic()
    with pytest.raises(CacheRefused, match="longer than 0 s"), reading(path, seconds=0.4) as db:
        db.execute("SELECT count(*) FROM range(10_000_000_000) a, range(1000) b WHERE hash(a, b) = 1").fetchall()
    assert time.monotonic() - start < SECONDS


def test_a_file_is_looked_at_again_when_it_has_changed(path: Path) -> None:
    made("paths for names", path)
    with reading(path, inspect=True):
        pass
    import duckdb

    with duckdb.connect(str(path)) as db:
        db.execute("CREATE MACRO median(x) AS 7")
    with pytest.raises(CacheRefused, match="macro 'median'"), reading(path, inspect=True):
        pass


def test_the_caches_of_this_lab_hold_nothing_foreign(path: Path) -> None:
    path.parent.mkdir()
    FILES.synthetic().write(path)
    with reading(path, inspect=True) as db:
        trust.refuse_foreign_objects(db, path)
        trust.refuse_foreign_tables(db, path, MIGRATIONS)


def test_a_study_far_larger_than_those_people_run_is_read(path: Path) -> None:
    """50,000 cells: twelve times those of the large made-up cache (`tests/dashboard/big_cache.py`)."""
    made("paths for names", path)
    import duckdb

    with duckdb.connect(str(path)) as db:
        db.execute(FILES._more("trajectories", "trajectory_id || i AS trajectory_id", 50_000))
        db.execute(
            "INSERT INTO steps (trajectory_id, step_index, progress) SELECT 't', i, 0.5 FROM range(1_000_000) t(i)"
        )
    with reading(path, inspect=True):
        pass
