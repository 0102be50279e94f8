"""The live view of a run: what it shows, at what cost, and that it changes nothing."""

import fcntl
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from engine.cache.live_state import WATCHED_SECONDS, CellPicture, LiveFile, LiveState, read_live, runs_folder
from engine.passes import live
from engine.passes.live import LiveProgress, shown_live
from engine.passes.run import run_study
from engine.progress import Progress
from tests.engine.helpers import parsed

if TYPE_CHECKING:
    from engine.sampling.models import Model
    from engine.sampling.previews import Preview

PICTURE = CellPicture("ddim:4", "DDIM 4", "disc", 0, 1, 4, b"jpeg", b"noise")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[LiveState]:
    """Every state that a run writes, with no pause between two."""
    states: list[LiveState] = []
    for name in ("SECONDS_APART", "UNWATCHED_SECONDS"):
        monkeypatch.setattr(live, name, 0.0)
    monkeypatch.setattr(LiveFile, "write", lambda self, state: states.append(state))
    return states


def test_previews_change_no_latents(sd_model: "Model") -> None:
    from engine.sampling.image_pass import sample_cells
    from engine.sampling.previews import Previews
    from engine.study.cells import cells
    from engine.study.source import find_model

    study = parsed(lanes=["ddim:6", "euler:5", "dpmpp_2m:4"], prompts=["a cat", "a dog", "a fox", "an owl"])
    planned = cells(study, find_model("gaussian"), "cpu")
    planned = [_on(cell, sd_model) for cell in planned]
    now, shown = [0.0], cast("list[Preview]", [])
    watching = Previews(shown.extend, lambda: True, lambda: now[0])

    def second_passes(calls: int) -> None:
        now[0] += 1

    plain = {s.cell.trajectory_id: s.final for s in sample_cells(sd_model, planned, study.frames, 4)}
    samples = sample_cells(sd_model, planned, study.frames, 4, second_passes, watching)
    watched = {s.cell.trajectory_id: s.final for s in samples}
    assert all(np.array_equal(cast(Any, plain[key]), cast(Any, watched[key])) for key in plain)
    assert len(plain) == len(planned)
    assert {preview.cell.lane.key for preview in shown} == {"ddim:6", "euler:5", "dpmpp_2m:4"}
    assert all(preview.image.startswith(b"\xff\xd8") for preview in shown)
    assert any(preview.noisy for preview in shown)  # once the linear decoder has been fitted
    assert all(0 < preview.call <= preview.calls for preview in shown)


def _on(cell: Any, model: "Model") -> Any:
    from dataclasses import replace

    size = model.pipe.unet.config.sample_size * model.pipe.vae_scale_factor
    return replace(cell, width=size, height=size)


def test_a_linear_decoder_is_found_from_a_few_pictures() -> None:
    from engine.sampling.previews import LinearDecoder

    rng, decoder = np.random.default_rng(0), LinearDecoder()
    colours = rng.normal(size=(4, 3))

    def decoded(latents: Any) -> Any:
        pixels = np.einsum("chw,cd->hwd", latents, colours) * 20 + 128
        return np.repeat(np.repeat(pixels, 8, 0), 8, 1).clip(0, 255).astype(np.uint8)

    def smooth() -> Any:
        return np.repeat(rng.normal(size=(4, 8, 1)), 8, 2).astype(np.float32)

    assert decoder.draw(smooth()[None]) is None
    for _ in range(12):
        latents = smooth()
        decoder.learn(latents, decoded(latents))
    latents = smooth()
    drawn = decoder.draw(latents[None])
    assert drawn is not None
    inside = (slice(4, -4), slice(4, -4))  # in the middle of a patch it has to be right, between two it is faded
    error = np.abs(drawn[0].astype(float) - decoded(latents))[inside][::8]
    assert drawn.shape == (1, 64, 64, 3)
    assert error.mean() < 8


def test_latents_that_are_packed_are_not_learnt_from() -> None:
    from engine.sampling.previews import LinearDecoder

    decoder = LinearDecoder()
    decoder.learn(np.zeros((16, 64), np.float32), np.zeros((32, 32, 3), np.uint8))
    assert decoder.draw(np.zeros((1, 16, 64), np.float32)) is None


def test_previews_take_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.sampling import previews
    from engine.sampling.previews import HEAD_START_SECONDS, SHARE, Previews

    now, looks = [0.0], [0]
    watching = Previews(lambda found: None, lambda: True, lambda: now[0])

    def slow(self: Previews, pipe: object, front: Sequence[object]) -> list[object]:
        looks[0] += 1
        now[0] += 2.0  # of a large model on a slow machine
        return []

    monkeypatch.setattr(Previews, "_front", lambda self: [object()])
    monkeypatch.setattr(previews.Previews, "_pictures", slow)
    for _ in range(20_000):
        watching.look(cast(Any, None))
        now[0] += 0.1
    assert 2 <= looks[0] <= 1 + (HEAD_START_SECONDS + SHARE * now[0]) / 2.0


def test_previews_are_drawn_seldom_while_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.sampling.previews import SECONDS_APART, UNWATCHED_SECONDS, Previews

    now, seen, shown = [0.0], [False], cast("list[float]", [])
    watching = Previews(lambda found: shown.append(now[0]), lambda: seen[0], lambda: now[0])
    monkeypatch.setattr(Previews, "_front", lambda self: [object()])
    monkeypatch.setattr(Previews, "_pictures", lambda self, pipe, front: [])

    def pass_seconds(seconds: float) -> list[float]:
        shown.clear()
        ends = now[0] + seconds
        while now[0] < ends:
            watching.look(cast(Any, None))
            now[0] += 0.05
        return shown

    assert len(pass_seconds(4 * UNWATCHED_SECONDS)) == pytest.approx(4, abs=1)
    seen[0] = True
    assert len(pass_seconds(4 * SECONDS_APART)) == pytest.approx(4, abs=1)
    assert shown[0] == pytest.approx(now[0] - 4 * SECONDS_APART, abs=0.6), "the first one at once"


def test_a_page_that_looks_is_noticed_for_some_seconds(tmp_path: Path) -> None:
    cache = tmp_path / "c.duckdb"
    with LiveFile(cache) as file:
        assert not file.is_watched()
        read_live(cache)
        assert file.is_watched()
        looked = time.time() - 2 * WATCHED_SECONDS
        os.utime(runs_folder(cache) / "looked", (looked, looked))
        assert not file.is_watched()


def test_a_page_that_looks_just_then_keeps_no_run_from_being_shown(tmp_path: Path) -> None:
    cache = tmp_path / "c.duckdb"
    runs_folder(cache).mkdir()
    with (runs_folder(cache) / "live.lock").open("wb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        ended = threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN))
        ended.start()
        with LiveFile(cache) as file:
            assert file.held
        ended.join()


def test_what_keeps_a_preview_from_being_drawn_ends_previews_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.sampling.previews import Previews

    tried = []

    def fail(self: Previews) -> list[object]:
        tried.append(1)
        raise ValueError("no such latents")

    monkeypatch.setattr(Previews, "_front", fail)
    watching = Previews(lambda found: None, lambda: True, lambda: 1.0)
    watching.look(cast(Any, None))
    watching.look(cast(Any, None))
    assert tried == [1]


def test_a_run_shows_each_of_its_lanes_and_then_nothing(tmp_path: Path, seen: list[LiveState]) -> None:
    cache = tmp_path / "c.duckdb"
    run_study(parsed(lanes=["ddim:4", "euler:3"], timing={"repeats": 1}), cache)
    assert {tile.lane for state in seen for tile in state.tiles} == {"ddim:4", "euler:3"}
    assert dict(seen[0].lanes) == {"ddim:4": "DDIM 4", "euler:3": "Euler 3"}
    assert [state.what for state in seen if state.is_timing] == ["timing"]  # told once, then silence
    finished = {tile.lane: tile for tile in seen[-1].tiles}
    assert all(tile.call == tile.calls for tile in finished.values())
    assert read_live(cache) is None


def test_a_state_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    cache = tmp_path / "c.duckdb"
    with shown_live(parsed(), cache, Progress(), 60) as told:
        told.start("images", 4, "cells")
        told.standing("Keep ddim:4 for now.", {"euler:3": "keeps the picture in 3 of 3"}, ("euler:3",))
        told.picture(PICTURE)
        told.standing("Keep ddim:4 for now.", {"euler:3": "keeps the picture in 4 of 4"}, ("euler:3",))
        found = read_live(cache)
        assert found is not None
        assert (found.study, found.what, found.total, found.waiting) == ("small", "images", 4, ("euler:3",))
        assert found.standings == {"euler:3": "keeps the picture in 4 of 4"}
        assert found.ends is not None
        assert found.ends - found.began == pytest.approx(60)
        (tile,) = found.tiles
        assert (tile.image, tile.noisy, tile.call) == (b"jpeg", b"noise", 1)
    assert read_live(cache) is None


def test_the_first_of_two_engines_is_shown(tmp_path: Path) -> None:
    cache, told = tmp_path / "c.duckdb", Progress()
    with shown_live(parsed(name="first"), cache, told), shown_live(parsed(name="second"), cache, told) as other:
        assert other is told
        state = read_live(cache)
        assert state is not None
        assert state.study == "first"
    with shown_live(parsed(name="third"), cache, told) as other:
        assert isinstance(other, LiveProgress)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"study": 1, "tiles": 3}', '{"study": "x", "tiles": [{"image": "?"}]}']
)
def test_a_file_that_cannot_be_read_shows_nothing(tmp_path: Path, text: str) -> None:
    cache = tmp_path / "c.duckdb"
    with LiveFile(cache):
        (runs_folder(cache) / "live.json").write_text(text)
        assert read_live(cache) is None


def test_a_folder_that_cannot_be_written_keeps_no_run_from_going_on(tmp_path: Path) -> None:
    cache = tmp_path / "c.duckdb"
    runs_folder(cache).write_text("a file")
    assert run_study(parsed(), cache).done == 2


def test_lanes_are_shown_at_the_prompt_that_is_on_its_way(tmp_path: Path, seen: list[LiveState]) -> None:
    def picture(lane: str, prompt: str, call: int) -> CellPicture:
        return CellPicture(lane, lane, prompt, 0, call, 4, b"x")

    with shown_live(parsed(), tmp_path / "c.duckdb", Progress()) as told:
        for lane, prompt, call in (("a", "disc", 1), ("b", "disc", 4), ("b", "ring", 4), ("a", "disc", 2)):
            told.picture(picture(lane, prompt, call))
    assert [(tile.lane, tile.prompt, tile.call) for tile in seen[-1].tiles] == [("a", "disc", 2), ("b", "disc", 4)]


def test_a_lane_is_told_how_often_it_kept_the_picture_or_what_dropped_it() -> None:
    from engine.analysis.calibration import other_guard
    from engine.analysis.decision import LaneDecision, Status
    from engine.analysis.guards import weigh
    from engine.study.decision_settings import DecisionSettings

    def row(lane: str, status: Status, *events: float) -> LaneDecision:
        guards = (weigh(other_guard(DecisionSettings()), events, 0.05, 0.05),) if events else ()
        return LaneDecision(lane, lane, status, False, 0.5, 0.05, 1.0, len(events), guards, (None, None), "Because.")

    lanes = [row("a", "open", *[0.0] * 38), row("b", "dropped", *[1.0] * 6), row("c", "refused"), row("d", "open")]
    told = live.standings(cast(Any, SimpleNamespace(lanes=lanes)))
    assert told == {
        "a": "keeps the picture in 38 of 38 so far",
        "b": "not as good: other pictures",
        "d": "open",
    }
