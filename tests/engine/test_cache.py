"""The cache file: migrations, locks, damage, full disks, and rows that come back as they went in."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import duckdb
import pytest

from engine.cache import connection, queries
from engine.cache.connection import migrate, reading, writing
from engine.cache.records import FrameRow, LatentsRow
from engine.cache.schema import MIGRATIONS, SCHEMA_VERSION, Migration
from engine.cli import main
from engine.errors import CacheBusy, CacheError, CacheMissing, CacheOutdated
from engine.passes.run import run_study
from tests.engine import helpers
from tests.engine.helpers import ask, parsed, row, start, start_engine, write_rows, write_study

NEXT = Migration(SCHEMA_VERSION + 1, "a new column", "ALTER TABLE trajectories ADD COLUMN mood VARCHAR DEFAULT 'calm'")
BROKEN = Migration(SCHEMA_VERSION + 2, "half of it fails", "CREATE TABLE half (a INTEGER); SELECT no_such_column")
HOLDER = """
import duckdb, sys
with duckdb.connect(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "c.duckdb"


@pytest.fixture
def holder(cache):
    """Another process that has the cache open for writing until its input ends."""
    write_rows(cache, row("a"))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.communicate(timeout=60)


def version(path):
    with duckdb.connect(str(path), read_only=True) as db:
        return db.execute("SELECT max(version) FROM schema_migrations").fetchall()[0][0]


def tables(path):
    with duckdb.connect(str(path), read_only=True) as db:
        return {name for (name,) in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}


def as_if_newer(patch):
    """As in a later release, which has one more migration."""
    patch.setattr(connection, "SCHEMA_VERSION", NEXT.version)
    patch.setattr(connection, "MIGRATIONS", (*MIGRATIONS, NEXT))
    patch.setattr(connection.migrate, "__defaults__", ((*MIGRATIONS, NEXT),))


def test_migrations_run_once_each(cache):
    assert migrate(cache) == list(MIGRATIONS)
    before = ask(cache, "SELECT * FROM schema_migrations")
    assert migrate(cache) == []
    assert ask(cache, "SELECT * FROM schema_migrations") == before
    assert migrate(cache, (*MIGRATIONS, NEXT)) == [NEXT]
    assert version(cache) == NEXT.version


def test_a_failing_migration_leaves_the_version_before(cache):
    write_rows(cache, row("a"))
    with pytest.raises(duckdb.Error):
        migrate(cache, (*MIGRATIONS, NEXT, BROKEN))
    assert version(cache) == NEXT.version
    assert "half" not in tables(cache)
    mended = Migration(BROKEN.version, "whole", "CREATE TABLE half (a INTEGER)")
    assert migrate(cache, (*MIGRATIONS, NEXT, mended)) == [mended]
    assert "half" in tables(cache)


def test_a_failing_first_migration_leaves_no_tables(cache):
    with pytest.raises(duckdb.Error):
        migrate(cache, (Migration(1, "fails", BROKEN.sql),))
    assert tables(cache) == set()
    assert migrate(cache) == list(MIGRATIONS)


def test_a_newer_schema_is_refused_by_name(cache, tmp_path, capsys):
    migrate(cache, (*MIGRATIONS, NEXT))
    for opened in (reading, writing):
        with pytest.raises(CacheError, match=f"schema {NEXT.version}, newer than the {SCHEMA_VERSION}"), opened(cache):
            pass
    with pytest.raises(CacheError, match="Upgrade the lab"):
        migrate(cache)
    study = write_study(tmp_path / "a.toml")
    for command in (["run", str(study)], ["plan", str(study)], ["migrate"]):
        assert main([*command, "--cache", str(cache)]) == 2
        assert "Upgrade the lab" in capsys.readouterr().err


def test_an_older_schema_is_told_of_and_migrate_mends_it(cache, tmp_path, monkeypatch, capsys):
    write_rows(cache, row("a"))
    as_if_newer(monkeypatch)
    words = f"schema {SCHEMA_VERSION}; this program reads {NEXT.version}"
    with pytest.raises(CacheOutdated, match=words), reading(cache):
        pass
    study = write_study(tmp_path / "a.toml")
    assert main(["plan", str(study), "--cache", str(cache)]) == 2
    assert f"python -m engine migrate --cache {cache}" in capsys.readouterr().err
    assert main(["migrate", "--cache", str(cache)]) == 0
    assert "a new column" in capsys.readouterr().out
    assert main(["migrate", "--cache", str(cache)]) == 0
    assert "up to date" in capsys.readouterr().out
    assert ask(cache, "SELECT trajectory_id, mood FROM trajectories") == [("a", "calm")]


def test_a_run_on_an_older_cache_migrates_it_and_computes_nothing_again(cache, monkeypatch):
    first = run_study(parsed(), cache, device="cpu")
    as_if_newer(monkeypatch)
    second = run_study(parsed(), cache, device="cpu")
    assert (second.cached, second.done) == (first.done, 0)
    assert version(cache) == NEXT.version


def test_a_missing_cache_is_told_of(cache, capsys):
    with pytest.raises(CacheMissing, match="python -m engine run quickstart --cache"), reading(cache):
        pass
    assert main(["migrate", "--cache", str(cache)]) == 2
    assert "There is no cache" in capsys.readouterr().err
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"hello " * 1000, b"SQLite format 3\0" + bytes(4096)])
def test_a_file_that_is_no_duckdb_is_refused_and_left_alone(cache, tmp_path, content, capsys):
    cache.write_bytes(content)
    study = write_study(tmp_path / "a.toml")
    for command in (["run", str(study)], ["plan", str(study)], ["migrate"]):
        assert main([*command, "--cache", str(cache)]) == 2
        assert "is not a DuckDB file" in capsys.readouterr().err
    assert cache.read_bytes() == content


def test_a_folder_is_no_cache(tmp_path, capsys):
    assert main(["run", str(write_study(tmp_path / "a.toml")), "--cache", str(tmp_path)]) == 2
    assert "cannot be used" in capsys.readouterr().err


def test_a_cache_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["run", str(write_study(tmp_path / "a.toml")), "--cache", str(tmp_path / "file" / "c.duckdb")]) == 2
    assert "cannot be created" in capsys.readouterr().err


def test_another_duckdb_database_is_refused_and_left_alone(cache, tmp_path, capsys):
    with duckdb.connect(str(cache)) as db:
        db.execute("CREATE TABLE customers AS SELECT 1 AS id")
    study = write_study(tmp_path / "a.toml")
    for command in (["run", str(study)], ["plan", str(study)], ["migrate"]):
        assert main([*command, "--cache", str(cache)]) == 2
        assert "table 'customers'" in capsys.readouterr().err
    assert tables(cache) == {"customers"}


def test_a_damaged_cache_is_told_of_at_once(cache, monkeypatch):
    noise = [FrameRow("final", 0, 1.0, None, None, 64, 64, "png", os.urandom(200_000), number) for number in range(10)]
    write_rows(cache, row("a", frames=tuple(noise)))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited for a damaged file"))
    whole = cache.read_bytes()
    # The header, what names the tables, and pictures; other places may be unused.
    catalog = [found.start() for found in re.finditer(b"guidance_energy", whole)]
    for places in ([100], catalog, *([whole.index(frame.image[:64])] for frame in noise[::4])):
        damaged = bytearray(whole)
        for place in places:
            damaged[place : place + 64] = bytes(byte ^ 255 for byte in whole[place : place + 64])
        cache.write_bytes(damaged)
        with pytest.raises(CacheError, match="is damaged") as caught, reading(cache) as db:
            db.execute("SELECT max(md5(image)) FROM frames").fetchall()
        assert not isinstance(caught.value, CacheBusy)


def test_a_cache_cut_short_is_told_of(cache):
    picture = FrameRow("final", 0, 1.0, None, None, 64, 64, "png", os.urandom(2_000_000))
    write_rows(cache, row("a", frames=(picture,)))
    os.truncate(cache, cache.stat().st_size // 2)
    with pytest.raises(CacheError, match="is damaged"), reading(cache) as db:
        db.execute("SELECT max(md5(image)) FROM frames").fetchall()


def test_a_mistake_of_ours_keeps_its_traceback(cache):
    write_rows(cache, row("a"))
    with pytest.raises(duckdb.BinderException), reading(cache) as db:
        db.execute("SELECT no_such_column FROM trajectories")


def test_a_cache_in_use_is_waited_for_and_then_reported(cache, holder):
    for opened, told in ((reading, "open for writing"), (writing, "only reads it keeps writers out")):
        with pytest.raises(CacheBusy) as caught, opened(cache, patience=0.2):
            pass
        assert f"(process {holder.pid}) for over 0 s" in str(caught.value)
        assert told in str(caught.value)


def test_a_cache_that_comes_free_is_read(cache, holder, monkeypatch):
    pauses = []
    real_sleep = time.sleep

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            holder.communicate(timeout=60)
        real_sleep(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with reading(cache, patience=60) as db:
        assert queries.finished(db, ["a"]) == {"a": (1, frozenset({"x0"}), "full")}
    assert len(pauses) >= 3


def test_a_busy_cache_ends_a_run_with_exit_code_2(cache, holder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(connection.reading.__wrapped__, "__defaults__", (0.1, None))
    assert main(["plan", str(write_study(tmp_path / "a.toml")), "--cache", str(cache)]) == 2
    assert "in use by python" in capsys.readouterr().err


def test_two_writers_in_two_processes_lose_nothing(cache):
    writers = [start(helpers.write_one_by_one, cache, prefix, 25) for prefix in "ab"]
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    wanted = [(f"{prefix}{number}", 2, 2) for prefix in "ab" for number in range(25)]
    found = ask(
        cache,
        """
        SELECT t.trajectory_id, (SELECT count(*) FROM frames f WHERE f.trajectory_id = t.trajectory_id),
               (SELECT count(*) FROM steps m WHERE m.trajectory_id = t.trajectory_id)
        FROM trajectories t
    """,
    )
    assert sorted(found) == sorted(wanted)


def test_a_disk_that_fills_up_ends_the_run_and_keeps_what_was_committed(cache, tmp_path):
    assert main(["run", str(write_study(tmp_path / "a.toml")), "--cache", str(cache), "--progress", "none"]) == 0
    before = ask(cache, "SELECT trajectory_id, created_at FROM trajectories ORDER BY ALL")
    assert len(before) == 2
    study = write_study(tmp_path / "b.toml", seeds=list(range(1, 300)), frames={"count": 12})
    room = cache.stat().st_size + 600_000
    child = start_engine(tmp_path, "run", study, "--cache", cache, "--progress", "json", max_file_bytes=room)
    code, said = child.wait(), child.err.read_text()
    assert code == 2, said
    assert said.startswith("error: The disk is full")
    assert "run again to continue" in said
    assert "Traceback" not in said
    after = ask(cache, "SELECT trajectory_id, created_at FROM trajectories ORDER BY ALL")
    assert set(before) <= set(after)
    assert len(after) > len(before), "some groups fit"
    finals = ask(cache, "SELECT count(*) FROM frames WHERE kind = 'final'")[0][0]
    assert finals == len(after)


def test_a_run_that_would_fill_the_disk_is_refused(cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 10_000))
    with pytest.raises(CacheError, match="only 0 MB are free") as caught:
        run_study(parsed(), cache, device="cpu")
    assert "--set frames.count=4" in str(caught.value)
    assert not cache.exists()


def test_a_thread_that_writes_is_waited_for_by_another_that_reads(cache):
    write_rows(cache, row("a"))
    with writing(cache):
        for opened in (reading, writing):
            with pytest.raises(CacheBusy), opened(cache, patience=0.1):
                pass


def test_what_is_raised_inside_a_transaction_undoes_it(cache):
    write_rows(cache, row("a"))
    with pytest.raises(ZeroDivisionError), writing(cache) as db:  # noqa: PT012
        db.execute("DELETE FROM trajectories")
        raise ZeroDivisionError
    assert ask(cache, "SELECT trajectory_id FROM trajectories") == [("a",)]


def test_what_duckdb_makes_of_ctrl_c_is_a_keyboard_interrupt(cache):
    """A real signal is not sent: DuckDB looks for it only now and then, and the test would sometimes hang."""
    migrate(cache)
    with pytest.raises(KeyboardInterrupt), reading(cache):
        raise RuntimeError("Query interrupted")
    with pytest.raises(RuntimeError, match="another"), reading(cache):
        raise RuntimeError("another matter")


def test_a_cell_written_twice_is_there_once_as_written_last(cache):
    write_rows(cache, row("a"), row("b"))
    with writing(cache) as db:
        db.execute(
            "INSERT INTO scores (scope, trajectory_id, metric, metric_version, value) "
            "VALUES ('picture', 'a', 'clip', '1', 0.5), ('picture', 'b', 'clip', '1', 0.5)"
        )
    write_rows(cache, row("a", nfe=7, frames=row("a").frames[1:]))
    assert ask(cache, "SELECT trajectory_id, nfe FROM trajectories ORDER BY ALL") == [("a", 7), ("b", 2)]
    frames = ask(cache, "SELECT trajectory_id, kind FROM frames ORDER BY ALL")
    assert frames == [("a", "final"), ("b", "final"), ("b", "x0")]
    metrics = ask(cache, "SELECT trajectory_id, count(*) FROM steps GROUP BY ALL ORDER BY ALL")
    assert metrics == [("a", 2), ("b", 2)]
    assert ask(cache, "SELECT trajectory_id FROM scores") == [("b",)], "scores of the pictures before are gone"


def test_a_cell_whose_row_someone_deleted_is_there_once_when_it_is_made_again(cache):
    latents = LatentsRow("1x1x1", bytes(4))
    write_rows(cache, row("a", latents=latents), row("b", latents=latents))
    with writing(cache) as db:
        db.execute("DELETE FROM trajectories WHERE trajectory_id = 'a'")
    write_rows(cache, row("a", latents=latents))
    for table in ("trajectories", "latents", "frames", "steps"):
        counts = dict(ask(cache, f"SELECT trajectory_id, count(*) FROM {table} GROUP BY ALL"))
        assert counts["a"] == counts["b"] > 0
