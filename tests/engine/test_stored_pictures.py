"""Pictures of a report: fetched while the cache is open, decoded afterwards, one at a time and no larger than shown."""

import io

import pytest
from PIL import Image

from engine.cache.connection import reading, writing
from engine.cache.records import FrameRow
from engine.sharing import pictures
from engine.sharing.export import View, export
from engine.sharing.pictures import load_pictures
from tests.engine.helpers import row, write_rows

LARGE = (1024, 768)


def encoded(form):
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(LARGE).convert("RGB").save(stream, form)
    return stream.getvalue()


@pytest.fixture
def cache(tmp_path):
    webp, png = encoded("WEBP"), encoded("PNG")
    path = tmp_path / "c.duckdb"
    for cell in "ab":
        steps = [FrameRow("x0", step, (step + 1) / 20, None, None, *LARGE, "webp", webp) for step in range(20)]
        write_rows(path, row(cell, frames=(*steps, FrameRow("final", 20, 1.0, None, None, *LARGE, "png", png))))
    return path


@pytest.fixture
def decoded(monkeypatch):
    """How many pictures have been decoded so far."""
    count, real = [], pictures.decoded

    def decoded(data):
        count.append(len(data))
        return real(data)

    monkeypatch.setattr(pictures, "decoded", decoded)
    return count


def test_nothing_is_decoded_while_the_cache_is_open(cache, decoded):
    with reading(cache) as db:
        found = load_pictures(db, ["a", "b", "none"], "x0", 256, 12, 192)
        assert decoded == []
    assert list(found) == ["a", "b", "none"]
    assert len(found["a"].steps) == 12
    assert len(decoded) == 13
    assert found["a"] is found["a"]
    assert len(decoded) == 13
    assert (found["none"].steps, found["none"].final) == ((), None)


def test_pictures_are_kept_no_larger_than_they_are_shown(cache):
    with reading(cache) as db:
        found = load_pictures(db, ["a"], "x0", 256, 12, 192)["a"]
    assert found.final.size == (256, 192)
    assert {image.size for _, image in found.steps} == {(192, 144)}
    assert [progress for progress, _ in found.steps][::11] == [0.05, 1.0]


def test_a_small_picture_stays_as_it_is(cache):
    with reading(cache) as db:
        assert load_pictures(db, ["a"], "", 4096)["a"].final.size == LARGE


def test_a_run_may_write_while_sheets_are_drawn(tmp_path, cache, monkeypatch):
    """Drawing happens with the cache closed: this thread could not write otherwise."""
    from engine.sharing import sheets

    drawn, real = [], sheets.draw_grid

    def draw_grid(**wanted):
        with writing(cache, patience=0.1) as db:
            db.execute("UPDATE studies SET updated_at = created_at")
        drawn.append(real(**wanted))
        return drawn[-1]

    with writing(cache) as db:
        db.execute("INSERT INTO studies VALUES ('s', 's', '{\"baseline\": \"ddim:2\"}', now(), now(), '')")
        db.execute("INSERT INTO study_trajectories VALUES ('s', 'a', 'ddim:2', 0)")
    monkeypatch.setattr(sheets, "draw_grid", draw_grid)
    export(cache, "s", "png", tmp_path / "s.png", View())
    assert len(drawn) == 1
