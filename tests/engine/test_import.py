"""Imports: the rules of merging two caches, and what may happen to the files meanwhile."""

import hashlib
import json
import subprocess
import sys
import time

import duckdb
import pytest

from engine.cache import exchange, limits, snapshot
from engine.cache.connection import migrate, reading, writing
from engine.cache.decision_tables import write_terms
from engine.cache.exchange import export_cache, import_cache
from engine.cache.records import FrameRow
from engine.cache.schema import MIGRATIONS, SCHEMA_VERSION, Migration
from engine.cache.score_tables import ScoreRow, write_scores
from engine.cache.writer import CacheWriter
from engine.errors import CacheBusy, CacheError, CacheMissing, CacheRefused
from engine.study.source import find_model
from tests.engine.exchanging import HERE, THERE, contents, count, outcome, run, score
from tests.engine.helpers import ROOT, ask, parsed, row, write_rows

WRITER = """
import sys
from pathlib import Path
from tests.engine.helpers import row, write_one_by_one, write_rows
write_rows(Path(sys.argv[1]), row("first"))
print("begun", flush=True)
write_one_by_one(Path(sys.argv[1]), "run", 11)
"""
HOLDER = """
import duckdb, sys, time
with duckdb.connect(sys.argv[1]) as db:
    print("held", flush=True)
    sys.stdin.readline()
    time.sleep(0.5)
"""


@pytest.fixture
def here(tmp_path):
    return tmp_path / "here.duckdb"


@pytest.fixture
def there(tmp_path):
    return tmp_path / "there.duckdb"


# --- The rules of merging -------------------------------------------------------------------------------------------


def test_what_another_machine_computed_of_the_same_cell_stays_out_with_its_scores(here, there):
    mine, theirs = run(here, parsed(), latents=b"a"), run(there, parsed(), THERE, latents=b"b")
    score(here, mine[:1], 0.5)
    score(there, theirs, 0.9)
    before = contents(here)
    merged = import_cache(there, here)
    assert (len(merged.others), merged.cells, merged.equal) == (2, 0, 0)
    after = contents(here)
    assert {name for name in before if before[name] != after[name]} == {"environments"}


@pytest.mark.parametrize(("theirs", "taken"), [(b"a", 1), (b"b", 0)])
def test_votes_and_set_metrics_come_only_for_the_same_pictures(here, there, theirs, taken):
    run(here, parsed(), latents=b"a")
    one, other = run(there, parsed(), latents=theirs)
    with writing(there) as db:
        db.execute(
            "INSERT INTO votes VALUES ('v', 'small', 'someone', 'none', ?, ?, 'a', 'b', 'disc', 0, 'left', 1.5, "
            "now()::TIMESTAMP)",
            [one.trajectory_id, other.trajectory_id],
        )
        db.execute(
            "INSERT INTO scores (scope, study_id, lane, against, metric, metric_version, value, set_id) "
            "VALUES ('lane', 'small', 'a', 'b', 'kid', '1', 0.5, 'set')"
        )
    import_cache(there, here)
    assert (count(here, "votes"), count(here, "scores")) == (taken, taken)


def test_the_same_picture_brings_scores_that_were_missing(here, there):
    mine, theirs = run(here, parsed()), run(there, parsed())
    score(here, mine[:1], 0.5)
    score(there, theirs, 0.9)
    merged = import_cache(there, here)
    assert merged.equal == 2
    assert sorted(ask(here, "SELECT value FROM scores")) == [(0.5,), (0.9,)]


def without_value(cell):
    return ScoreRow("picture", "clip_score", "1", reason="failed: no CLIP", trajectory_id=cell.trajectory_id)


def of_lane(value):
    pair = {"study_id": "small", "lane": "a", "against": "b"}
    return ScoreRow("lane", "kid", "1", value, None if value else "failed: no weights", **pair)


def test_a_value_takes_the_place_of_a_reason_for_having_none(here, there):
    mine, theirs = run(here, parsed()), run(there, parsed())
    write_scores(here, [without_value(mine[0]), of_lane(None)])
    score(there, theirs, 0.9)
    write_scores(there, [of_lane(0.9)])
    import_cache(there, here)
    assert ask(here, "SELECT value, reason FROM scores") == [(0.9, None)] * 3


def test_a_reason_does_not_take_the_place_of_a_value(here, there):
    mine, theirs = run(here, parsed()), run(there, parsed())
    score(here, mine, 0.5)
    write_scores(there, [without_value(theirs[0])])
    before = contents(here)
    import_cache(there, here)
    assert contents(here) == before


def test_a_finished_cell_takes_the_place_of_a_failed_one(here, there):
    run(here, parsed(), failed=["ddim:4"])
    run(there, parsed(), THERE)
    merged = import_cache(there, here)
    assert (merged.replaced, merged.equal) == (1, 1)
    assert ask(here, "SELECT DISTINCT status, error FROM trajectories") == [("done", None)]
    assert count(here, "frames") == 4
    assert import_cache(there, here).replaced == 0


def test_a_failed_cell_does_not_take_the_place_of_a_finished_one(here, there):
    run(here, parsed())
    run(there, parsed(), failed=["ddim:4"])
    before = contents(here)
    import_cache(there, here)
    assert contents(here) == before


def test_more_frames_of_the_same_picture_are_taken_and_scores_stay_but_for_those_of_frames(here, there):
    mine, theirs = run(here, parsed()), run(there, parsed())
    score(here, mine, 0.5)
    ours = {"trajectory_id": mine[0].trajectory_id, "kind": "x0"}
    of_frames = [ScoreRow("frame", "sharpness", "1", 0.7, step_index=step, **ours) for step in range(3)]
    unmeasured = ScoreRow("frame", "ssim", "1", reason="its step frames were decoded otherwise", **ours)
    write_scores(here, [*of_frames, unmeasured])
    more = tuple(FrameRow("x0", step, (step + 1) / 4, None, None, 8, 8, "webp", b"w") for step in range(4))
    final = FrameRow("final", 3, 1.0, None, None, 8, 8, "png", b"png")
    CacheWriter(there).trajectories(
        [outcome(cell, b"same", frame_count=4, frames=(*more, final)) for cell in theirs], find_model("gaussian"), HERE
    )
    assert import_cache(there, here).replaced == 2
    assert count(here, "frames") == 10
    assert ask(here, "SELECT scope, metric, value FROM scores") == [("picture", "clip_score", 0.5)] * 2
    before = contents(there)
    assert import_cache(here, there).replaced == 0  # fewer frames never take the place of more
    assert contents(there)["frames"] == before["frames"]


def test_times_of_another_machine_stand_beside_those_of_this_one(here, there):
    for path, environment in ((here, HERE), (there, THERE)):
        planned = run(path, parsed(), environment)
        with writing(path) as db:
            db.execute(
                "INSERT INTO timings BY NAME SELECT ? AS environment_id, model_id, scheduler, steps, lane, config_id, "
                "width, height, dtype, true AS guided, 1 AS batch_size, 0 AS repeat, 'total' AS stage, "
                "0.5 AS seconds, 4 AS nfe, created_at FROM trajectories",
                [environment.environment_id],
            )
        assert len(planned) == 2
    import_cache(there, here)
    found = ask(here, "SELECT device_name, count(*) FROM timings JOIN environments USING (environment_id) GROUP BY ALL")
    assert sorted(found) == [("Example CPU", 2), ("Example GPU 9000", 2)]


def test_a_study_with_other_cells_of_the_same_name_is_kept_beside(here, there):
    run(here, parsed())
    run(there, parsed(), THERE, dtype="float16")
    merged = import_cache(there, here)
    names = {"small", "small-example-gpu-9000"}
    assert {name for (name,) in ask(here, "SELECT study_id FROM studies")} == names
    assert {name for (name,) in ask(here, "SELECT name FROM studies")} == names
    assert "stored as 'small-example-gpu-9000'" in merged.studies[0]
    after = contents(here)
    assert "it was there already" in import_cache(there, here).studies[0]
    assert contents(here) == after


def test_a_third_study_of_the_name_gets_a_digest(here, there, tmp_path):
    run(here, parsed())
    run(there, parsed(), THERE, dtype="float16")
    import_cache(there, here)
    third = tmp_path / "third.duckdb"
    run(third, parsed(prompts=["ring"]), THERE)
    import_cache(third, here)
    names = sorted(name for (name,) in ask(here, "SELECT study_id FROM studies"))
    assert names[:2] == ["small", "small-example-gpu-9000"]
    assert names[2].startswith("small-example-gpu-9000-")
    assert len(names) == 3


def test_a_study_that_has_grown_takes_the_place_of_the_smaller(here, there):
    run(here, parsed())
    run(there, parsed(seeds=[0, 1]), THERE)
    assert "replaces" in import_cache(there, here).studies[0]
    assert count(here, "study_trajectories") == 4
    assert json.loads(ask(here, "SELECT spec FROM studies")[0][0])["seeds"] == [0, 1]
    run(there, parsed())
    assert "has all of its cells" in import_cache(there, here).studies[0]
    assert count(here, "study_trajectories") == 4


def test_what_was_measured_on_the_smaller_study_as_a_whole_goes_with_it(here, there):
    for path, study, kid in ((here, parsed(), 9.0), (there, parsed(seeds=[0, 1]), None)):
        run(path, study)
        write_scores(path, [of_lane(kid)])
        write_terms(path, "small", {"fixed by": str(len(study.seeds))}, keep_evidence=False)
    import_cache(there, here)
    assert ask(here, "SELECT value, reason FROM scores") == [(None, "failed: no weights")]
    assert json.loads(ask(here, "SELECT terms FROM decisions")[0][0]) == {"fixed by": "2"}


def test_other_settings_of_the_same_cells_are_told_of(here, there):
    run(here, parsed(description="mine"))
    run(there, parsed(description="theirs"))
    assert "its settings differ" in import_cache(there, here).studies[0]
    assert json.loads(ask(here, "SELECT spec FROM studies")[0][0])["description"] == "mine"


def test_a_known_model_learns_its_number_of_parameters(here, there):
    run(here, parsed())
    run(there, parsed())
    CacheWriter(there).set_parameters(find_model("gaussian"), 42)
    import_cache(there, here)
    assert ask(here, "SELECT parameters FROM models") == [(42,)]


def test_a_shared_row_of_other_content_stays_as_it_is_here_and_is_counted(here, there):
    for path, margin in ((here, 0.1), (there, 0.2)):
        run(path, parsed())
        with writing(path) as db:
            db.execute(
                "INSERT INTO metrics VALUES "
                "('picture', 'm', '1', 'M', '', 'higher', 10, NULL, false, NULL, ?, false, false, '')",
                [margin],
            )
    assert import_cache(there, here).differing == {"metrics": 1}
    assert ask(here, "SELECT margin FROM metrics") == [(0.1,)]


# --- Files ----------------------------------------------------------------------------------------------------------


def state(path):
    return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns


def test_a_file_of_today_stays_as_it_was(here, there):
    run(there, parsed())
    before = state(there)
    import_cache(there, here)
    export_cache(there, here.with_name("copy.duckdb"))
    assert state(there) == before


def test_a_log_that_was_not_yet_written_back_comes_along(here, there, tmp_path):
    run(there, parsed())
    killed = (
        "import duckdb, os, sys\ndb = duckdb.connect(sys.argv[1])\n"
        "db.execute(\"UPDATE studies SET name = 'late'\")\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", killed, str(there)], check=True)
    assert there.with_name(there.name + ".wal").exists()
    import_cache(there, here)
    assert ask(here, "SELECT name FROM studies") == [("late",)]
    export_cache(there, tmp_path / "export.duckdb")
    assert count(tmp_path / "export.duckdb", "trajectories") == 2


def test_a_newer_file_is_refused_by_its_own_name(here, there):
    migrate(there, (*MIGRATIONS, Migration(SCHEMA_VERSION + 1, "later", "CREATE TABLE later (a INTEGER)")))
    with pytest.raises(CacheError, match=r"there\.duckdb has schema .* newer"):
        import_cache(there, here)
    assert not here.exists()


def test_a_study_of_very_many_prompts_is_imported(here, there):
    run(there, parsed())
    with writing(there) as db:
        spec = json.loads(db.execute("SELECT spec FROM studies").fetchone()[0])
        spec["prompts"] = [
            f"a prompt of ordinary length, as people write them, number {number}" for number in range(30_000)
        ]
        db.execute("UPDATE studies SET spec = ?", [json.dumps(spec)])
    assert import_cache(there, here).cells == 2


def test_a_file_that_takes_long_to_inspect_may_be_read_under_a_shorter_limit(here, monkeypatch):
    run(here, parsed())
    monkeypatch.setattr(limits, "refuse_oversized", lambda *_: time.sleep(0.05))
    with reading(here, seconds=0.3, inspect=True) as db:
        assert db.execute("SELECT count(*) FROM trajectories").fetchall() == [(2,)]


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (lambda path: None, CacheMissing, "There is no file"),
        (lambda path: path.write_bytes(b"not a database" * 100), CacheError, "not a DuckDB file"),
        (lambda path: duckdb.connect(str(path)).execute("CREATE TABLE flowers (a INTEGER)"), CacheError, "not a cache"),
        (
            lambda path: migrate(path) and duckdb.connect(str(path)).execute("CREATE VIEW v AS SELECT 1"),
            CacheRefused,
            "v",
        ),
    ],
)
def test_what_is_no_cache_is_refused_and_nothing_is_made(here, there, bad, error, words):
    bad(there)
    with pytest.raises(error, match=words):
        import_cache(there, here)
    assert not here.exists()


def test_rows_that_break_the_rules_of_the_tables_are_refused(here, there):
    write_rows(there, row("b"))
    with duckdb.connect(str(there)) as db:
        db.execute(
            "CREATE OR REPLACE TABLE latents "
            "(trajectory_id VARCHAR NOT NULL, shape VARCHAR NOT NULL, data BLOB NOT NULL)"
        )
        db.execute("INSERT INTO latents SELECT 'b', '1', 'x'::BLOB FROM range(2)")
    with pytest.raises(CacheRefused, match=r"there\.duckdb .* duplicate key"):
        import_cache(there, here)


def test_the_cache_is_not_imported_into_itself(here):
    run(here, parsed())
    with pytest.raises(CacheError, match="the cache itself"):
        import_cache(here, here)


@pytest.mark.parametrize("held", ["source", "target"])
def test_a_run_that_is_writing_is_waited_for(here, there, held):
    run(here, parsed())
    run(there, parsed(seeds=[0, 1]))
    path = {"source": there, "target": here}[held]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        process.stdin.write("\n")
        process.stdin.flush()
        started = time.monotonic()
        import_cache(there, here)
        assert time.monotonic() - started > 0.3
    assert count(here, "trajectories") == 4


def test_an_import_and_a_run_write_to_one_cache_in_turns(here, there, monkeypatch):
    run(there, parsed(seeds=list(range(12))))
    monkeypatch.setattr(limits, "GROUP_BYTES", 0)  # one cell each
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(here)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout.readline() == "begun\n"
        import_cache(there, here)
        assert process.wait(120) == 0
    assert count(here, "trajectories") == 24 + 12
    assert count(here, "frames") == 2 * 36


def test_a_writer_that_never_lets_go_is_named(here, there, monkeypatch):
    run(there, parsed())
    monkeypatch.setattr(snapshot, "PATIENCE_SECONDS", 0.1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(there)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(CacheBusy, match="in use"):
            import_cache(there, here)
        process.communicate("\n")


def test_an_interrupted_import_shows_no_study_and_is_finished_by_repeating_it(here, there, monkeypatch):
    run(there, parsed(seeds=[0, 1, 2]))
    monkeypatch.setattr(limits, "GROUP_BYTES", 0)  # one cell each
    opened = []

    def writing_twice(path):
        opened.append(path)
        if len(opened) == 3:
            raise KeyboardInterrupt
        return writing(path)

    monkeypatch.setattr(exchange, "writing", writing_twice)
    with pytest.raises(KeyboardInterrupt):
        import_cache(there, here)
    assert (count(here, "trajectories"), count(here, "studies")) == (1, 0)
    monkeypatch.undo()
    import_cache(there, here)
    assert contents(here) == contents(there)
