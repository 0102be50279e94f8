"""Files that unpack to far more than they are: what is read of them is bounded, by rows, bytes and pixels."""

from collections.abc import Sized
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from engine.cache import exchange, limits, merge, queries, score_tables, step_tables, vote_table
from engine.cache.connection import Connection, reading
from engine.cache.exchange import import_cache
from engine.cli import main
from engine.errors import CacheError, CacheRefused
from engine.measuring.stored_cells import StoredCells
from engine.picture_files import decoded, open_picture
from engine.results import read_details, read_results
from engine.sharing.pictures import load_pictures
from tests.hostile.costly import COSTLY, STUDY, png


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared.duckdb"


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("many steps", "ANSWER_ROWS"),
        ("many times", "SAMPLE_ROWS"),
        ("many environments", "SAMPLE_ROWS"),
        ("many cells and scores", "ANSWER_ROWS"),
        ("many votes", "VOTE_ROWS"),
    ],
)
def test_no_answer_has_more_rows_than_its_bound(
    name: str, limit: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bound of 20,000: at most one bit more than that becomes a data frame."""
    COSTLY[name].make(path, 60_000)
    read: list[int] = []
    measured = limits._refuse_values

    def count(part: pd.DataFrame) -> None:
        read.append(len(part))
        measured(part)

    monkeypatch.setattr(limits, "_refuse_values", count)
    ask = {
        "ANSWER_ROWS": lambda db: [step_tables.step_metrics(db, STUDY), score_tables.picture_scores(db, STUDY)],
        "SAMPLE_ROWS": lambda db: queries.timings(db, STUDY),
        "VOTE_ROWS": lambda db: vote_table.votes(db, STUDY),
    }[limit]
    fetch = limits.fetch
    for module in (queries, step_tables, score_tables, vote_table):
        monkeypatch.setattr(
            module, "fetch", lambda db, query, values, *_, **named: fetch(db, query, values, rows=20_000, **named)
        )
    with pytest.raises(CacheRefused, match="more than 20,000 rows"), reading(path) as db:
        ask(db)
    assert sum(read) <= 20_000


def test_rows_are_counted_up_to_the_bound_before_they_are_sorted() -> None:
    with duckdb.connect() as db, pytest.raises(CacheRefused, match="more than 1,000 rows"):
        limits.fetch(db, "SELECT i FROM range(1_000_000_000_000) t(i)", rows=1000, order="i DESC")


def test_pages_read_no_votes_and_no_configurations(path: Path) -> None:
    COSTLY["many votes"].make(path, limits.VOTE_ROWS + 1)
    with reading(path) as db:
        results = read_results(db, STUDY)
        with pytest.raises(CacheRefused, match="more than 100,000 rows"):
            read_details(db, STUDY, ["ddim:50"])
    assert results.votes.empty
    assert "scheduler_config" not in results.cells


def test_an_answer_is_given_up_at_its_bound_of_bytes() -> None:
    with duckdb.connect() as db, pytest.raises(CacheRefused, match="more than 1 MB"):
        limits.fetch(db, "SELECT repeat('x', 1000) AS x FROM range(1_000_000)", size=2**20)


def test_a_bounded_answer_is_what_duckdb_gives_at_once() -> None:
    query = """
        SELECT i::INT AS i, CASE WHEN i > 9000 THEN NULL ELSE i::INT END AS n, i::VARCHAR AS s, i % 2 = 0 AS b,
               CASE WHEN i > 20 THEN NULL ELSE 'x' END AS o, TIMESTAMP '2026-01-01' + to_seconds(i) AS t, i / 3 AS d
        FROM range({rows}) x(i) ORDER BY i
    """
    for rows in (0, 1, 10_000, 20_000):
        with duckdb.connect() as db:
            pd.testing.assert_frame_equal(
                limits.fetch(db, query.format(rows=rows)), db.execute(query.format(rows=rows)).df()
            )


def test_a_value_out_of_range_is_refused_wherever_it_is_read() -> None:
    with duckdb.connect() as db:
        for value in ("1e308", "-1e9"):
            with pytest.raises(CacheRefused, match="'log_snr' has a value"):
                limits.fetch(db, f"SELECT {value}::DOUBLE AS log_snr")
        found = limits.fetch(db, "SELECT unnest(['NaN'::DOUBLE, 'inf', -40, NULL]) AS log_snr")
    np.testing.assert_array_equal(found["log_snr"].to_numpy(float, na_value=np.nan), [np.nan, np.inf, -40, np.nan])


def test_errors_are_read_up_to_a_length(path: Path) -> None:
    COSTLY["long errors"].make(path, 50_000)
    with reading(path) as db:
        assert queries.cells(db, STUDY)["error"].str.len().max() == limits.ERROR_CHARACTERS


def test_pictures_that_unpack_to_far_more_than_the_file_are_refused_before_they_are_read(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    COSTLY["huge frames"].make(path, 16 * 2**20)
    monkeypatch.setattr(merge, "rows_of", lambda *_: pytest.fail("read"))
    with pytest.raises(CacheRefused, match=r"'frames.image' has 134,.* far more than pictures in a file of this size"):
        import_cache(path, tmp_path / "mine.duckdb")
    monkeypatch.setattr(queries, "fetch", lambda *_, **__: pytest.fail("read"))
    with reading(path) as db:
        done = [row[0] for row in db.execute("SELECT trajectory_id FROM trajectories WHERE status = 'done'").fetchall()]
        for ask in (queries.frames, queries.frame_bytes):
            with pytest.raises(CacheRefused, match=r"pictures have 134,.* far more than a file of this size holds"):
                ask(db, done, ["final"])


def test_pictures_are_loaded_in_groups_of_bounded_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    COSTLY["huge frames"].make(path, 2**20)
    monkeypatch.setattr(limits, "GROUP_BYTES", 3 * 2**20)
    asked, framed = [], queries.framed
    monkeypatch.setattr(queries, "framed", lambda db, index: asked.append(len(index)) or framed(db, index))
    with reading(path) as db:
        load_pictures(db, queries.cells(db, STUDY)["trajectory_id"].tolist(), "", 64)
    assert asked == [3, 3, 2]


def test_pictures_that_are_too_much_together_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    COSTLY["huge frames"].make(path, 2**20)
    with reading(path) as db:
        ids = queries.cells(db, STUDY)["trajectory_id"].tolist()
        with pytest.raises(CacheRefused, match="more than 4 MB"):
            queries.frames(db, ids, ["final"], 4 * 2**20)


def test_what_a_picture_holds_beside_pixels_is_measured_before_pillow_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded(png(64)) is not None
    packed = [png(64, (kind, bytes(10))) for kind in (b"zTXt", b"iTXt", b"iCCP")]
    for data in (*packed, png(64, (b"tEXt", bytes(70_000))), png(64, *[(b"eXIf", bytes(1000))] * 70), bytes(2**26 + 1)):
        with monkeypatch.context() as patched:
            patched.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("opened"))
            assert open_picture(data) is None
    assert open_picture(png(64) + bytes(90_000)) is None
    assert open_picture(png(4097)) is None


@pytest.mark.parametrize("name", COSTLY)
def test_small_ones_are_imported_whole_or_refused_in_words(
    name: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    COSTLY[name].make(path, 40)
    mine = tmp_path / "mine.duckdb"
    code = main(["import", str(path), "--cache", str(mine)])
    said = capsys.readouterr()
    assert code == 0, said.err
    with duckdb.connect(str(path), read_only=True) as one, duckdb.connect(str(mine), read_only=True) as other:
        for table in ("trajectories", "frames", "study_trajectories", "timings", "votes"):
            query = f"SELECT count(*) FROM {table}"
            assert one.execute(query).fetchall() == other.execute(query).fetchall(), table


def test_an_import_takes_many_small_cells_at_once_and_compares_only_those_it_has(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    COSTLY["many cells and scores"].make(path, 5_000)
    opened, compared = [], []
    writing, pictures = exchange.writing, merge._pictures

    def count(cache: Path) -> AbstractContextManager[Connection]:
        opened.append(cache)
        return writing(cache)

    def compare(db: Connection, ids: Sized) -> dict[str, merge._Picture]:
        compared.append(len(ids))
        return pictures(db, ids)

    monkeypatch.setattr(exchange, "writing", count)
    monkeypatch.setattr(merge, "_pictures", compare)
    added = import_cache(path, tmp_path / "mine.duckdb")
    assert (added.cells, len(opened), compared) == (5_008, 3, [5_008])
    again = import_cache(path, tmp_path / "mine.duckdb")
    assert (again.cells, again.equal, compared[1:]) == (0, 5_008, [5_008, 5_008])


def test_a_cell_too_large_for_memory_leaves_nothing_behind(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    COSTLY["huge frames"].make(path, 2**20)
    monkeypatch.setattr("engine.cache.merge.CELL_BYTES", 2**19)
    with pytest.raises(CacheRefused, match="MB of rows and pictures"):
        import_cache(path, tmp_path / "mine.duckdb")
    with reading(tmp_path / "mine.duckdb") as db:
        assert db.execute("SELECT count(*) FROM trajectories").fetchall() == [(0,)]


def test_pictures_are_opened_as_carefully_where_metrics_are_computed(path: Path) -> None:
    COSTLY["pictures with comments"].make(path, 60)
    with reading(path) as db:
        done = [row[0] for row in db.execute("SELECT trajectory_id FROM trajectories WHERE status = 'done'").fetchall()]
        stored = StoredCells({}, queries.frames(db, done, ["final"]))
    with pytest.raises(CacheError, match="`python -m engine check` counts such pictures"):
        stored.final(done[0])
