"""What the pages show of a run that goes on, of a decision that is asked for, and where there is nothing yet."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from dashboard import access
from dashboard.jobs import demo, runner, starting
from dashboard.jobs.queue import Queue, QueueError
from dashboard.live import sections as live
from dashboard.live.data import payload
from dashboard.options import Options, parse
from engine.cache.live_state import CellPicture, LiveFile, LiveState
from engine.study.study import canonical, load_study
from tests.dashboard.reading_pages import words

OpenPage = Callable[..., AppTest]
LANES = {"ddim:50": "DDIM 50", "unipc:10": "UniPC 10"}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Queue]:
    """Queues that somebody should work through; nobody does."""
    asked: list[Queue] = []
    monkeypatch.setattr(runner, "ensure", asked.append)
    return asked


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(stream, "JPEG")
    return stream.getvalue()


def tile(call: int = 3, noisy: bytes = b"") -> CellPicture:
    return CellPicture("ddim:50", "DDIM 50", "red apple", 0, call, 50, jpeg(), noisy)


def test_a_run_is_told_in_one_line_with_a_tile_for_each_lane() -> None:
    state = LiveState(
        "quick", "images", 0.0, 700.0, LANES, ("unipc:10",), 12, 240, "cells", 164.7, 40.0, tiles=(tile(),)
    )
    shown = payload(state, 100.0)
    assert shown["line"] == (
        "Making pictures: 12 of 240 cells · 165 denoiser calls a second · 40 s left in this pass · "
        "over in 10 min at the latest"
    )
    first, second = shown["tiles"]
    assert (first["label"], first["step"], first["finished"]) == ("DDIM 50", "step 3 of 50", False)
    assert first["x0"].startswith("data:image/jpeg;base64,")
    assert (second["label"], second["waiting"]) == ("UniPC 10", "after calibration")


def test_what_is_no_picture_is_not_shown() -> None:
    shown = payload(
        LiveState("quick", lanes=LANES, tiles=(CellPicture("ddim:50", "", "x", 0, 1, 2, b"<svg>", b"junk"),)), 0
    )
    assert (shown["tiles"][0]["x0"], shown["tiles"][0]["xt"]) == ("", "")


def test_the_overview_is_the_run_while_it_goes_on(open_page: OpenPage, usual_cache: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.duckdb"
    cache.write_bytes(usual_cache.read_bytes())
    assert "Running" not in words(open_page("overview", cache))
    with LiveFile(cache) as file:
        file.write(LiveState("quick", "images", lanes=LANES, tiles=(tile(),)))
        page = open_page("overview", cache)
        assert not page.exception
        assert "Running: quick" in words(page)
        assert "stop_live" not in {button.key for button in page.button}  # not of the queue, and no right either
    assert "Running" not in words(open_page("overview", cache))


def test_while_times_are_taken_pages_look_only_now_and_then(tmp_path: Path) -> None:
    options = parse(["--cache", str(tmp_path / "c.duckdb")])
    with LiveFile(options.cache) as file:
        file.write(LiveState("quick", "images"))
        assert live.look(options).every == live.FIRST_SECONDS
        file.write(LiveState("quick", "images", tiles=(tile(),)))
        assert live.look(options).every == live.LIVE_SECONDS
        file.write(LiveState("quick", "timing"))
        assert live.look(options).every == live.TIMING_SECONDS
    assert live.look(options).every == live.IDLE_SECONDS


def test_a_decision_is_the_same_command_line_with_a_budget(tmp_path: Path, started: list[Queue]) -> None:
    options = parse(["--cache", str(tmp_path / "c.duckdb"), "--allow-runs"])
    job = starting.decide(options, "quickstart", "60p")
    command = runner.engine_command(job, options.cache)
    assert command[3:6] == ["decide", "--budget", "60p"]
    assert started[0].cache == options.cache
    with pytest.raises(QueueError, match="no budget"):
        starting.decide(options, "quickstart", "60 --cache /etc")
    with pytest.raises(QueueError, match="was not started here"):
        starting.decide(options, "of-a-stranger", "60p")


def test_a_study_of_the_same_name_that_asks_for_other_pictures_is_not_gone_on_with(
    tmp_path: Path, started: list[Queue]
) -> None:
    options = parse(["--cache", str(tmp_path / "c.duckdb"), "--allow-runs"])
    preset = load_study("quickstart")
    grown = replace(preset, prompts=("owl", "cat"), seeds=(0, 1))
    assert starting.decide(options, "quickstart", "60p", json.loads(canonical(grown.spec()))).study == "quickstart"
    for other in (replace(preset, model="gaussian"), replace(preset, guidance_scale=1.5)):
        with pytest.raises(QueueError, match="was not started here"):
            starting.decide(options, "quickstart", "60p", json.loads(canonical(other.spec())))


def test_nothing_is_decided_without_the_right(tmp_path: Path, started: list[Queue]) -> None:
    with pytest.raises(access.AccessDenied):
        starting.decide(parse(["--cache", str(tmp_path / "c.duckdb")]), "quickstart", "60p")
    assert started == []


def test_the_demo_is_started_once_and_not_again_when_it_is_done(tmp_path: Path, started: list[Queue]) -> None:
    queue = Queue(tmp_path / "c.duckdb")
    assert "being measured" in demo.begin(queue)
    assert "running already" in demo.begin(queue)
    (job,) = queue.jobs()
    assert (job.study, job.budget, len(started)) == ("quickstart", "12m", 2)


def test_an_empty_lab_says_what_it_is_and_starts_the_demo_by_one_click(
    open_page: OpenPage, tmp_path: Path, started: list[Queue]
) -> None:
    cache = tmp_path / "c.duckdb"
    page = open_page("overview", cache, "--allow-runs")
    text = words(page)
    assert "A diffusion model starts from noise" in text
    assert all(way in text for way in ("Measure the demo", "Open a colleague", "Point to a cache"))
    page.button("measure_demo").click().run()
    assert not page.exception
    (job,) = Queue(cache).jobs()
    assert (job.study, job.budget) == ("quickstart", "12m")
    assert "Running: quickstart" in words(page)


def test_an_empty_lab_for_readers_prints_a_link_that_works_once(
    open_page: OpenPage, tmp_path: Path, capsys: pytest.CaptureFixture[str], started: list[Queue]
) -> None:
    cache = tmp_path / "c.duckdb"
    page = open_page("overview", cache)
    link = capsys.readouterr().out.strip()
    token = link.partition("?allow=")[2]
    assert len(token) > 40
    assert token not in words(page)
    assert "measure_demo" not in {button.key for button in page.button}
    assert "the link that stands in the server" in words(page)
    page.query_params["allow"] = "guess"
    page.run()
    assert "measure_demo" not in {button.key for button in page.button}
    page.query_params["allow"] = token
    page.run()
    assert "measure_demo" in {button.key for button in page.button}
    assert "allow" not in page.query_params
    other = AppTest.from_file("../../dashboard/app.py", default_timeout=60)
    other.query_params["allow"] = token
    other.run()
    assert "measure_demo" not in {button.key for button in other.button}


@pytest.mark.parametrize(
    "options", [Options(Path("c"), True), Options(Path("c"), False, True), Options(Path("c"), True, True)]
)
def test_no_link_is_printed_where_runs_are_forbidden_or_allowed_anyway(options: Options) -> None:
    assert not access.can_be_granted(options)


def test_no_link_is_printed_where_people_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_sign_in_is_set_up", lambda: True)
    assert not access.can_be_granted(Options(Path("c"), False))
