"""`check` finds what is damaged in a cache, `repair` mends it, and both leave a whole cache alone."""

from pathlib import Path

import duckdb
import pytest

from engine.cache import queries
from engine.cache.connection import reading, writing
from engine.cache.integrity import check
from engine.cli import main
from tests.dashboard import synthetic


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache.duckdb"
    synthetic.write_scored(path, lanes=("ddim:50", "euler:30"), prompts=("owl", "cat"))
    return path


def run(command: str, cache: Path) -> int:
    return main([command, "--cache", str(cache)])


def test_a_whole_cache_is_whole_and_stays_as_it_is(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = cache.read_bytes()
    assert (run("check", cache), run("repair", cache)) == (0, 0)
    assert "is intact" in capsys.readouterr().out
    assert cache.read_bytes() == before


def test_a_run_goes_on_writing_while_pictures_are_decoded(cache: Path) -> None:
    def is_picture(*_: object) -> bool:
        with writing(cache, patience=0.5) as db:
            db.execute("UPDATE studies SET updated_at = now()::TIMESTAMP")
        return True

    assert check(cache, is_picture) == []


ONE = "trajectory_id = (SELECT min(trajectory_id) FROM trajectories)"
DAMAGE = {
    "rows of 'frames' without their cell": f"DELETE FROM trajectories WHERE {ONE}",
    "rows of 'study_metrics' without their study": "UPDATE study_metrics SET study_id = 'gone'",
    "without a final picture": f"DELETE FROM frames WHERE kind = 'final' AND {ONE}",
    "do not decode": f"UPDATE frames SET image = image[:40] WHERE kind = 'final' AND {ONE}",
    "not as they were written": "UPDATE frames SET image = xor(image::BIT, set_bit(bitstring('0', "
    f"(8 * octet_length(image))::INT), 300, 1))::BLOB WHERE kind = 'final' AND {ONE}",
    "without their model": f"UPDATE trajectories SET model_id = 'gone' WHERE {ONE}",
    "do not match their shape": f"INSERT INTO latents SELECT trajectory_id, '4x8x8', '12'::BLOB "
    f"FROM trajectories WHERE {ONE} ON CONFLICT DO UPDATE SET shape = '4x8x8', data = '12'::BLOB",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_mended_and_gone(what: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with duckdb.connect(str(cache)) as db:
        db.execute(DAMAGE[what].replace("image[:40]", "substr(image::BIT::VARCHAR, 1, 40)::BLOB"))
        before = db.execute("SELECT count(*) FROM trajectories").fetchall()[0][0]
    written = cache.read_bytes()
    assert run("check", cache) == 1
    assert what in capsys.readouterr().out
    assert cache.read_bytes() == written
    assert run("repair", cache) == 0
    assert run("check", cache) == 0
    with reading(cache) as db:
        cells = queries.cells(db, "quick")
        left = db.execute(
            "SELECT count(*) FROM scores WHERE trajectory_id NOT IN (FROM (SELECT trajectory_id FROM trajectories))"
        )
        assert left.fetchall() == [(0,)]
        again = queries.missing_cells(db, "quick")
    assert len(cells) in (before, before - 1)
    assert again == 8 - len(cells)
