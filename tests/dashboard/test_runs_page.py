"""The Runs page: form, errors, plan, starting, cancelling, history; and nothing of it without the right."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard import access
from dashboard.access import AccessDenied, decide
from dashboard.jobs import runner, starting
from dashboard.jobs.form import Draft, PresetRequest
from dashboard.jobs.queue import Queue, QueueError, stamp, write_json
from dashboard.options import Options, parse
from tests.dashboard.reading_pages import words

OpenPage = Callable[..., AppTest]
TOML = 'name = "mine"\nmodel = "gaussian"\nprompts = ["disc"]\nlanes = ["ddim:4"]\n[timing]\nrepeats = 0\n'
LISTED = {"is_logged_in": True, "email": "Ann@example.org", "email_verified": True}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Queue]:
    """Queues that somebody should work through; nobody does, so that the page's states stay as they are."""
    asked: list[Queue] = []
    monkeypatch.setattr(runner, "ensure", asked.append)
    return asked


def buttons(page: AppTest) -> set[str]:
    return {str(button.key) for button in page.button}


def end(queue: Queue, number: str, state: str, **outcome: Any) -> None:
    folder = queue.folder / number
    write_json(folder / "running.json", {"started_at": stamp()})
    write_json(folder / "outcome.json", {"state": state, "ended_at": stamp(), **outcome})


def test_a_reader_is_told_how_to_get_the_right_and_offered_nothing(open_page: OpenPage, usual_cache: Path) -> None:
    page = open_page("runs", usual_cache)
    assert "--allow-runs" in words(page)
    assert buttons(page) == set()
    assert not page.text_area
    read_only = open_page("runs", usual_cache, "--allow-runs", "--read-only")
    assert "--read-only" in words(read_only)
    assert buttons(read_only) == set()


def test_a_preset_is_planned_and_started(open_page: OpenPage, tmp_path: Path, started: list[Queue]) -> None:
    cache = tmp_path / "cache.duckdb"
    page = open_page("runs", cache, "--allow-runs")
    assert "There is no cache yet" in words(page)
    assert page.selectbox("run_preset").value == "quickstart"
    assert "start" not in buttons(page)
    page.button("check").click().run()
    assert "quickstart: 13 lanes x 15 prompts x 2 seeds" in words(page)
    page.button("start").click().run()
    assert not page.exception
    (job,) = Queue(cache).jobs()
    assert (job.study, job.state) == ("quickstart", "queued")
    assert "13 lanes" in job.plan
    assert started[0].cache == cache
    assert "Run 1, quickstart: waiting since" in words(page)
    assert "start" not in buttons(page)


def test_a_server_without_torch_says_that_it_cannot_run_and_starts_nothing(
    open_page: OpenPage, tmp_path: Path, started: list[Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, find = tmp_path / "cache.duckdb", importlib.util.find_spec
    Queue(cache).submit("waiting", TOML, "", "")

    def find_no_torch(name: str, package: str | None = None) -> object:
        return None if name in {"torch", "diffusers"} else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_no_torch)
    page = open_page("runs", cache, "--allow-runs")
    assert not page.exception
    assert "Runs cannot be started here" in words(page)
    assert "its Python has no torch and diffusers" in words(page)
    assert "check" not in buttons(page)
    options = parse(["--cache", str(cache), "--allow-runs"])
    with pytest.raises(QueueError, match="cannot make any"):
        starting.plan(options, PresetRequest("quickstart"))
    with pytest.raises(QueueError, match="cannot make any"):
        starting.start(options, starting.Plan("mine", TOML, ""))
    assert started == []


def test_errors_are_said_at_the_form_and_nothing_typed_is_lost(
    open_page: OpenPage, tmp_path: Path, started: list[Queue]
) -> None:
    page = open_page("runs", tmp_path / "cache.duckdb", "--allow-runs")
    page.segmented_control("run_from").select("My own").run()
    page.selectbox("run_model").select("gaussian")
    page.text_area("run_prompts").input("disc\nring")
    page.text_input("run_name").input("not a name")
    page.text_input("run_steps_ddim").input("4")
    page.text_input("run_steps_dpmpp_2m").input("many").run()
    page.button("check").click().run()
    assert "This study cannot be run" in words(page)
    assert "Steps of dpmpp_2m: &#39;many&#39; is no whole number" in words(page)
    assert "start" not in buttons(page)
    assert page.text_area("run_prompts").value == "disc\nring"
    page.text_input("run_steps_dpmpp_2m").input("3, 5").run()
    page.button("check").click().run()
    assert "&#39;name&#39; may hold" in words(page)
    page.text_input("run_name").input("mine").run()
    page.selectbox("run_baseline").select("dpmpp_2m:3").run()
    page.button("check").click().run()
    assert not page.exception
    assert "mine: 3 lanes x 2 prompts x 1 seeds" in words(page)
    page.button("start").click().run()
    toml = (Queue(tmp_path / "cache.duckdb").folder / "000001" / "study.toml").read_text()
    assert 'baseline = "dpmpp_2m:3"' in toml
    assert "mine: 3 lanes" not in words(page)


def test_what_the_engine_finds_wrong_is_said_as_on_the_command_line(
    open_page: OpenPage, tmp_path: Path, started: list[Queue]
) -> None:
    page = open_page("runs", tmp_path / "cache.duckdb", "--allow-runs")
    page.segmented_control("run_from").select("My own").run()
    page.selectbox("run_model").select("Another model").run()
    page.text_input("run_other_model").input("/nowhere/at all").run()
    page.button("check").click().run()
    assert "No model &#39;/nowhere/at all&#39;" in words(page)
    assert not Queue(tmp_path / "cache.duckdb").jobs()


def test_a_plan_is_only_shown_for_what_the_form_holds(
    open_page: OpenPage, tmp_path: Path, started: list[Queue]
) -> None:
    page = open_page("runs", tmp_path / "cache.duckdb", "--allow-runs")
    page.button("check").click().run()
    assert "start" in buttons(page)
    page.selectbox("run_preset").select("spacing").run()
    assert "start" not in buttons(page)


def test_running_and_waiting_runs_show_progress_and_can_be_cancelled(
    open_page: OpenPage, usual_cache: Path, tmp_path: Path, started: list[Queue]
) -> None:
    cache = tmp_path / "cache.duckdb"
    cache.write_bytes(usual_cache.read_bytes())
    queue = Queue(cache)
    for name in ("first", "second"):
        queue.submit(name, TOML, "", "ann@example.org")
    write_json(queue.folder / "000001" / "running.json", {"started_at": stamp()})
    lines = [
        {"event": "start", "what": "images", "total": 8, "unit": "cells"},
        {"event": "progress", "what": "images", "done": 2, "total": 8, "seconds_left": 12.0},
    ]
    (queue.folder / "000001" / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    reader = open_page("runs", cache)
    assert buttons(reader) == set()
    page = open_page("runs", cache, "--allow-runs")
    (bar,) = page.get("progress")
    assert (bar.proto.value, bar.proto.text) == (
        25,
        "Run 1, first: Images: 2 of 8 cells, about 12.0 s left in this pass",
    )
    assert "1 run waiting" in words(page)
    page.button("cancel_000002").click().run()
    page.button("cancel_000001").click().run()
    assert [job.state for job in queue.jobs()] == ["cancelled", "running"]
    assert queue.job("000001").cancelling
    assert queue.job("000002").outcome["cancelled_by"] == ""
    assert "cancel_000001" not in buttons(page)
    assert started, "somebody has to see to the interrupt"


def test_the_history_tells_outcome_environment_and_last_words_as_text(
    open_page: OpenPage, usual_cache: Path, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "cache.duckdb"
    cache.write_bytes(usual_cache.read_bytes())
    queue = Queue(cache)
    for _ in range(3):
        queue.submit("mine", TOML, "", synthetic.HOSTILE)
    facts = {"device_name": "Example CPU", "dtype": "float32", "torch": "2.13.0"}
    end(queue, "000001", "done", summary={"done": 4, "cached": 2, "failed": 0}, facts=facts)
    end(queue, "000002", "failed", exit_code=-9, summary=None)
    (queue.folder / "000002" / "errors.log").write_text(f"{synthetic.HOSTILE}\nkilled")
    end(queue, "000003", "lost")
    text = words(open_page("runs", cache))
    assert "done: 4 cells made, 2 were cached" in text
    assert "Example CPU, float32, torch 2.13.0" in text
    assert "failed (exit code -9)" in text
    assert "killed</pre>" in text
    assert "<script>" not in text


def test_a_restarted_dashboard_sees_the_queue_and_has_it_worked_through(
    open_page: OpenPage, usual_cache: Path, tmp_path: Path, started: list[Queue]
) -> None:
    cache = tmp_path / "cache.duckdb"
    cache.write_bytes(usual_cache.read_bytes())
    Queue(cache).submit("mine", TOML, "", "")
    open_page("runs", cache)
    assert started == []  # a reader starts nothing, not even what others have queued
    assert "waiting since" in words(open_page("runs", cache, "--allow-runs"))
    assert [queue.cache for queue in started] == [cache]


@pytest.mark.parametrize("arguments", [[], ["--read-only"], ["--allow-runs", "--read-only"]])
def test_no_function_that_starts_or_stops_runs_works_without_the_right(
    arguments: list[str], tmp_path: Path, started: list[Queue]
) -> None:
    options = parse(["--cache", str(tmp_path / "cache.duckdb"), *arguments])
    draft = Draft("mine", "gaussian", "disc", (("ddim", "4"),), "0", 1.5)
    queue = Queue(options.cache)
    queue.submit("mine", TOML, "", "")
    for deed in (
        lambda: starting.plan(options, draft),
        lambda: starting.plan(options, PresetRequest("quickstart")),
        lambda: starting.start(options, starting.Plan("mine", TOML, "")),
        lambda: starting.cancel(options, "000001"),
        lambda: starting.keep_going(options),
    ):
        with pytest.raises(AccessDenied):
            deed()
    assert [job.state for job in queue.jobs()] == ["queued"]
    assert started == []


READER, ALLOWED = Options(Path("x"), False), Options(Path("x"), False, True)


@pytest.mark.parametrize(
    ("options", "user", "runners", "sign_in", "may"),
    [
        (READER, {}, None, False, False),
        (READER, {"email": "test@example.com"}, None, False, False),
        (READER, LISTED, None, False, False),  # nobody can be signed in where signing in is not set up
        (READER, {"is_logged_in": False}, None, True, False),
        (READER, {"is_logged_in": "yes"}, None, True, False),
        (READER, LISTED, None, True, True),
        (READER, LISTED, ["ann@example.org"], True, True),
        (READER, LISTED, ["*@example.org"], True, True),
        (READER, LISTED, ["*@example.com"], True, False),
        (READER, LISTED, [], True, False),
        (READER, {**LISTED, "email_verified": False}, ["*@example.org"], True, False),
        (READER, {"is_logged_in": True, "sub": "7"}, ["*"], True, False),
        (ALLOWED, {}, None, False, True),
        (ALLOWED, {"is_logged_in": False}, [], True, True),
        (Options(Path("x"), True, True), LISTED, None, True, False),
    ],
)
def test_who_may_run(
    options: Options, user: dict[str, Any], runners: list[str] | None, sign_in: bool, may: bool
) -> None:
    found = decide(options, user, runners, sign_in=sign_in)
    assert found.may_run is may
    assert bool(found.reason) is not may
    assert found.can_sign_in is (sign_in and not may and user.get("is_logged_in") is not True and not options.read_only)


@pytest.mark.parametrize(
    ("given", "read"), [({}, None), ({"allowed": ["a"]}, ["a"]), ({"allowed": "a"}, []), ({"x": 1}, [])]
)
def test_a_list_of_runners_that_cannot_be_read_allows_nobody(
    given: dict[str, Any], read: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"runs": given} if given else {}

    class Secrets(dict[str, Any]):
        def load_if_toml_exists(self) -> bool:
            return True

    monkeypatch.setattr(st, "secrets", Secrets(secrets))
    assert access._runners() == read
