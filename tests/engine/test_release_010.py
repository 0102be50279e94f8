"""A cache that release 0.1.0 made is converted, shows the same figures, and is never lost on the way.

tests/assets/release_010 holds what 0.1.0 made of study.toml on the bundled model (noise floors and two votes included,
copied into blocks of 16 KB), and the figures that 0.1.0 showed of it.
"""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import asdict

import duckdb
import pandas as pd
import pytest

from engine.analysis.comparison import compare
from engine.analysis.sets import set_rows
from engine.cache import lint_tables, queries, release_010, score_tables, step_tables, swap_tables, vote_table
from engine.cache.connection import migrate, reading
from engine.cache.exchange import import_cache
from engine.cache.schema import MIGRATIONS, SCHEMA_VERSION
from engine.cli import main
from engine.errors import CacheBusy, CacheError, CacheOutdated, CacheRefused
from engine.results import read_results
from tests.engine.helpers import ROOT, ask

ASSETS = ROOT / "tests" / "assets" / "release_010"
SHOWN = json.loads((ASSETS / "figures.json").read_text(encoding="utf-8"))
STUDY = "release"
DESCRIBED = ["metric", "metric_version", "label", "unit", "direction", "smallest_n"]
# What the stored scores say; margins, tests and verdicts follow rules that later releases have changed.
COMPARED = [
    "lane",
    "baseline",
    "metric",
    "label",
    "unit",
    "direction",
    "difference",
    "mean",
    "baseline_mean",
    "smallest_n",
    "deviation",
    "floor",
]
SWAPS = ["lane", "first_prompt", "second_prompt", "seed", "share", "calls", "swap_call"]


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.duckdb"
    path.write_bytes(gzip.decompress((ASSETS / "cache.duckdb.gz").read_bytes()))
    return path


def records(table, columns):
    frame = table[list(columns)].astype(object)
    return json.loads(frame.where(frame.notna(), None).to_json(orient="values", double_precision=15))


def mean(table, by, value="value"):
    """[*keys, number of rows, mean] of each group, sorted."""
    groups = sorted(table.groupby(list(by)), key=lambda item: item[0])
    return [[*key, len(group), float(group[value].mean())] for key, group in groups]


def figures(db):
    found = read_results(db, STUDY, None)
    lanes = list(dict.fromkeys(found.cells["study_lane"]))
    sketches = step_tables.sketches(db, STUDY, "owl", 0, lanes)
    paths = step_tables.paths(db, STUDY)
    for table in (sketches, paths):
        table["value"] = [float(abs(sketch).sum()) for sketch in table["sketch"]]
    steps = pd.concat([step_tables.step_curves(db, STUDY, lane) for lane in lanes])
    frames = pd.concat([score_tables.frame_curves(db, STUDY, lane) for lane in lanes])
    levels = ["call_index", "calls", "timestep", "sigma", "told_sigma", "log_snr", "final_sigma"]
    distances = ["first_distance", "second_distance", "first_probability", "error"]
    compared = compare(found.quality, found.metrics, found.baseline, found.floors)
    return {
        "comparison": [{name: asdict(row)[name] for name in COMPARED} for row in compared],
        "sets": set_rows(found.sets),
        "floors": {key: [float(floor), floor.source] for key, floor in found.floors.items()},
        "reference": found.reference_line,
        "quality": mean(found.quality, ["lane", "metric", "metric_version"]),
        "unscored": sorted(records(found.unscored, ["lane", "prompt", "seed", "metric", "reason"])),
        "metrics": records(
            found.metrics, [*DESCRIBED, "has_true_zero", "span", "margin", "description", "unavailable"]
        ),
        "set_metrics": records(found.set_metrics, [*DESCRIBED, "trusted_n", "description", "unavailable"]),
        "step_metrics": mean(found.step_metrics, ["lane", "metric"]),
        "frame_quality": mean(found.frame_quality, ["lane", "metric", "step_index"]),
        "frame_curves": mean(frames, ["lane", "metric", "step_index"]),
        "step_curves": mean(steps, ["lane", "metric", "step_index"]),
        "sketches": mean(sketches, ["lane", "step_index"]),
        "paths": mean(paths, ["role", "lane", "step_index"]),
        "timings": mean(found.samples, ["lane", "stage", "batch_size"], "seconds"),
        "schedules": records(lint_tables.schedules(db, STUDY), ["lane", *levels]),
        "findings": records(lint_tables.findings(db, STUDY), ["lane", "severity", "code", "message"]),
        "settings": records(lint_tables.settings(db, STUDY), ["lane", "setting", "value", "origin", "replaced"]),
        "noise": records(found.noise, ["lane", "variation", "metric", "n", "median", "largest", "reason"]),
        "commitment": records(swap_tables.commitment(db, STUDY), [*SWAPS, *distances]),
        "votes": records(
            vote_table.votes(db, STUDY), ["voter", "left_lane", "right_lane", "prompt", "seed", "choice", "seconds"]
        ),
        "progress": list(queries.progress(db, STUDY)),
    }


def plain(value):
    """As JSON keeps it."""
    return json.loads(json.dumps(value, default=lambda number: number.item()))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / "c.duckdb"
    path.write_bytes(gzip.decompress((ASSETS / "cache.duckdb.gz").read_bytes()))
    assert migrate(path) == list(MIGRATIONS)
    return path


@pytest.fixture(scope="module")
def found(converted):
    with reading(converted, inspect=True) as db:
        return plain(figures(db))


@pytest.mark.parametrize("figure", SHOWN)
def test_a_converted_cache_shows_the_same_figures(figure, found):
    assert SHOWN[figure]
    assert json.dumps(found[figure]) == json.dumps(SHOWN[figure])


def test_every_row_that_says_something_is_kept(old, converted):
    with duckdb.connect(str(old), read_only=True) as before:

        def rows(query):
            return before.execute(query).fetchall()

        steps = "SELECT trajectory_id, step_index FROM step_metrics UNION SELECT trajectory_id, step_index FROM "
        assert len(ask(converted, "SELECT * FROM steps")) == len(rows(f"{steps} step_sketches"))
        for name in ("trajectories", "frames", "latents", "timings", "studies", "votes", "environments", "models"):
            kept_columns = ", ".join(column for column, *_ in rows(f"DESCRIBE {name}"))
            assert sorted(map(repr, ask(converted, f"SELECT {kept_columns} FROM {name}"))) == sorted(
                map(repr, rows(f"SELECT {kept_columns} FROM {name}"))
            )
        for scope, name in (("picture", "quality"), ("frame", "frame_quality"), ("lane", "set_quality")):
            query = f"SELECT metric, metric_version, value FROM {name} WHERE value IS NOT NULL"
            kept = ask(
                converted, f"SELECT metric, metric_version, value FROM scores WHERE scope = '{scope}' AND value >= 0"
            )
            assert sorted(kept) == sorted(row for row in rows(query) if row[2] >= 0)


def test_an_old_cache_is_told_of_and_the_command_converts_it(old, capsys):
    with pytest.raises(CacheOutdated, match=f"schema 6; this program reads {SCHEMA_VERSION}"), reading(old):
        pass
    assert main(["migrate", "--cache", str(old)]) == 0
    assert "Done." in capsys.readouterr().out
    assert main(["migrate", "--cache", str(old)]) == 0
    assert "up to date" in capsys.readouterr().out
    assert [path.name for path in old.parent.iterdir()] == [old.name]


@pytest.mark.parametrize("broken", ["engine.cache.release_010.convert", "os.replace", "os.fsync"])
def test_a_conversion_that_fails_leaves_the_old_cache_as_it_was(broken, old, monkeypatch):
    before = old.read_bytes()

    def fails(*_):
        raise OSError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(broken, fails)
        with pytest.raises(OSError, match="no more"):
            migrate(old)
    assert old.read_bytes() == before
    assert [path.name for path in old.parent.iterdir()] == [old.name]
    assert migrate(old)


def test_a_conversion_that_is_killed_leaves_the_old_cache_as_it_was_and_can_be_repeated(old):
    before = old.read_bytes()
    code = (
        "import os, sys, pathlib; from engine.cache import connection, release_010\n"
        "real = release_010.convert\n"
        "def killed(*given):\n    real(*given)\n    os._exit(9)\n"
        "release_010.convert = killed\n"
        "connection.migrate(pathlib.Path(sys.argv[1]))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(old)], cwd=ROOT, check=False).returncode == 9
    assert old.read_bytes() == before
    assert len(list(old.parent.iterdir())) > 1, "what it had made"
    assert migrate(old)
    assert [path.name for path in old.parent.iterdir()] == [old.name]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_a_disk_that_fills_up_during_a_conversion_takes_nothing_away(share, old, converted):
    before, room = old.read_bytes(), int(share * converted.stat().st_size)
    code = (
        "import pathlib, resource, sys; from engine.cache import connection; from engine.errors import CacheError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\n"
        "try:\n    connection.migrate(pathlib.Path(sys.argv[1]))\nexcept CacheError as error:\n    sys.exit(str(error))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(old)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert (ended.returncode, "The disk is full" in ended.stderr) == (1, True), ended.stderr
    assert old.read_bytes() == before
    assert [path.name for path in old.parent.iterdir()] == [old.name]


def test_only_one_process_converts_a_cache_at_a_time(old, monkeypatch):
    code = (
        "import pathlib, sys; from engine.cache.opening import alone\n"
        "with alone(pathlib.Path(sys.argv[1]), 1):\n    print('held', flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(old)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with monkeypatch.context() as patch:
            patch.setattr("engine.cache.connection.WRITE_PATIENCE_SECONDS", 0.2)
            with pytest.raises(CacheBusy, match="Another process has been converting"):
                migrate(old)
        other.communicate("\n", timeout=60)
    assert migrate(old)


def test_what_a_killed_writer_left_in_the_log_is_converted_too(old):
    code = (
        "import duckdb, os, sys; db = duckdb.connect(sys.argv[1])\n"
        "db.execute(\"UPDATE votes SET voter = 'from the log'\"); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(old)], check=False).returncode == 9
    assert old.with_name(old.name + ".wal").exists()
    assert migrate(old)
    assert set(ask(old, "SELECT voter FROM votes")) == {("from the log",)}
    assert [path.name for path in old.parent.iterdir()] == [old.name]


def test_a_file_that_another_process_puts_there_meanwhile_stays(old, monkeypatch):
    real = release_010.convert

    def replaced(*given):
        real(*given)
        other = old.with_name("other")
        other.write_bytes(b"of another process")
        os.replace(other, old)

    monkeypatch.setattr(release_010, "convert", replaced)
    with pytest.raises(CacheError, match="replaced"):
        migrate(old)
    assert old.read_bytes() == b"of another process"


def test_an_export_of_release_010_is_imported_and_only_read(old, tmp_path):
    before = old.read_bytes()
    merged = import_cache(old, tmp_path / "here.duckdb")
    assert old.read_bytes() == before
    assert (merged.cells, merged.rows["votes"]) == (50, 2)
    with reading(tmp_path / "here.duckdb") as db:
        assert plain(figures(db))["comparison"] == SHOWN["comparison"]


@pytest.mark.parametrize(
    ("change", "message"),
    [("DROP TABLE unscored", "not written by this lab"), ("CREATE VIEW v AS SELECT 1", "the view 'v'")],
)
def test_a_strangers_old_file_that_is_no_cache_is_refused(change, message, old, tmp_path):
    with duckdb.connect(str(old)) as db:
        db.execute(change)
    with pytest.raises(CacheRefused, match=message):
        import_cache(old, tmp_path / "here.duckdb")
    assert [path.name for path in tmp_path.iterdir()] == [old.name]


def test_rows_that_go_missing_are_noticed(old, monkeypatch):
    monkeypatch.setattr("engine.cache.rows.put_new", lambda *_: 0)
    with pytest.raises(CacheError, match=r"0 of the .* rows"):
        migrate(old)


def test_a_cache_from_before_release_010_is_refused_with_the_remedy(old):
    with duckdb.connect(str(old)) as db:
        db.execute("DELETE FROM schema_migrations WHERE version = 6")
    with pytest.raises(CacheError, match=r"release 0\.1\.0 on it first"):
        migrate(old)
