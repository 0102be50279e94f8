"""The bench measures what it says, on a small cache; the limits themselves are for two idle cores."""

import io
import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from PIL import Image

from dashboard.bench import __main__ as bench
from dashboard.bench import large_cache, live_view
from dashboard.bench.server import running
from dashboard.bench.viewer import session
from engine.cache.live_state import CellPicture, LiveFile, LiveState
from engine.errors import LabError


def test_the_made_up_cache_has_the_frames_and_metrics_it_says(tmp_path: Path) -> None:
    large_cache.write_large_cache(tmp_path / "cache.duckdb", share=1 / large_cache.PROMPTS)
    with duckdb.connect(str(tmp_path / "cache.duckdb"), read_only=True) as db:
        counts = [
            db.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
            for table in ("frames", "steps", "trajectories", "latents", "scores")
        ]
    cells = len(large_cache.LANES) * large_cache.SEEDS
    assert large_cache.PROMPTS * counts[0] == 100_000
    assert large_cache.PROMPTS * counts[1] * (len(large_cache.STEP_METRICS) + large_cache.OCTAVES) == 1_000_000
    assert counts[2:] == [cells, cells, len(large_cache.METRICS) * cells]


def test_a_viewer_sees_what_a_browser_is_sent(usual_cache: Path) -> None:
    with running(usual_cache) as server:
        assert server.memory_mb() > 10
        with session(server.url) as viewer:
            first, again = viewer.view(), viewer.view("compare")
        assert any("24 of 24" in text for text in first.texts)
        assert not any("24 of 24" in text for text in again.texts)
        assert first.errors == again.errors == []
        assert 0 < first.seconds < 60
        assert first.bytes > 10_000
        assert server.processor_seconds() > 0


def test_figures_go_to_the_table_and_the_file(
    usual_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "WITH_PICTURES", ())
    file = tmp_path / "bench.json"
    code = bench.main(["--cache", str(usual_cache), "--views", "2", "--repeats", "1", "--json", str(file)])
    result = json.loads(file.read_text())
    pages = {page["page"]: page for page in result["pages"]}
    assert {"overview", "compare", "cost", "runs", "learn"} <= set(pages)
    for page in pages.values():
        assert 0 < page["median_ms"] <= page["worst_ms"]
        assert page["views"] == 2
        assert page["kilobytes"] > 1
    assert result["views"] == 2 * len(pages)
    assert result["memory_mb"] >= result["memory_idle_mb"] > 10
    assert code == (0 if result["holds"] else 1)
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*pages, "Streamlit", "median", "start to first page", "two idle cores"))


@pytest.mark.parametrize(
    ("page", "memory", "start", "holds"),
    [
        ({}, 400, 2, True),
        ({"median_ms": 301.0}, 400, 2, False),
        ({"worst_ms": 1001.0}, 400, 2, False),
        ({"first_picture_s": 2.1}, 400, 2, False),
        ({"first_picture_s": 1.9}, 400, 2, True),
        ({}, 500, 2, False),
        ({}, 400, 3.5, False),
    ],
)
def test_every_limit_counts(page: dict[str, float], memory: float, start: float, holds: bool) -> None:
    usual = {"page": "x", "first_ms": 2000.0, "median_ms": 200.0, "worst_ms": 900.0, "cpu_ms": 100.0, "kilobytes": 9.0}
    figures = bench.PageFigures(**{**usual, "views": 5, **page})  # type: ignore[arg-type]
    assert bench._holds([figures], memory, start) is holds


def test_a_cache_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--cache", str(tmp_path / "none.duckdb")]) == 2
    assert "There is no cache" in capsys.readouterr().err


def test_without_a_cache_a_made_up_one_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Path] = []

    def small(path: Path) -> None:
        large_cache.write_large_cache(path, share=1 / large_cache.PROMPTS)

    def measure(cache: Path, views: int, repeats: int) -> dict[str, object]:
        with duckdb.connect(str(cache), read_only=True) as db:
            assert db.execute("SELECT name FROM studies").fetchall() == [(large_cache.NAME,)]
        measured.append(cache)
        raise LabError("far enough")

    monkeypatch.setattr(bench, "write_large_cache", small)
    monkeypatch.setattr(bench, "measure", measure)
    assert bench.main([]) == 2
    assert len(measured) == 1


def test_a_client_that_polls_is_sent_the_pictures_of_a_run_as_they_come(tmp_path: Path) -> None:
    cache = tmp_path / "cache.duckdb"
    tile = CellPicture("ddim:50", "DDIM 50", "owl", 0, 3, 50, jpeg())
    with running(cache) as server, LiveFile(cache) as file:
        file.write(LiveState("quick", "images", tiles=(tile,)))
        found = live_view._tiles(server)
        assert next(found)["step"] == "step 3 of 50"
        file.write(LiveState("quick", "images", tiles=(replace(tile, call=50),)))
        assert next(shown for shown in found if shown["finished"])["step"] == "50 steps"


@pytest.mark.long
def test_the_demo_shows_a_picture_and_watching_it_has_its_price(tmp_path: Path) -> None:
    for option in ("--first-picture", "--watching"):
        file = tmp_path / "bench.json"
        code = bench.main([option, "--repeats", "1", "--json", str(file)])
        result = json.loads(file.read_text())
        assert code == (0 if result["holds"] else 1)
        figures = result["calls_per_second" if option == "--watching" else "seconds"]
        assert all(value > 0 for values in figures.values() for value in values)
    assert -0.5 < result["cost"] < 0.9


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(stream, "JPEG")
    return stream.getvalue()
