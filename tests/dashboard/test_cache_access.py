"""Pages open the cache for moments: how often, for what, and what they know while it is being written."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard import cache_access
from dashboard.cache_access import Answer, Problem, Question, ask, ask_all
from engine.cache import opening, queries
from engine.cache.connection import Connection, writing
from engine.errors import CacheBusy

VIEWS = Path(__file__).resolve().parents[2] / "dashboard" / "views"
NO_STUDY = {"__init__", "tune"}  # the tuned schedules are files beside the cache
PAGES = sorted(file.stem for file in VIEWS.glob("*.py") if file.stem not in NO_STUDY)
AT_MOST = 2


@pytest.fixture(scope="module")
def scored_cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, timed and scored study."""
    path = tmp_path_factory.mktemp("scored") / "cache.duckdb"
    synthetic.write_scored(path)
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every opening of a cache file from now on."""
    seen: list[Path] = []
    connect = opening._connect

    def counted(path: Path, *arguments: Any, **options: Any) -> Any:
        seen.append(path)
        return connect(path, *arguments, **options)

    monkeypatch.setattr(opening, "_connect", counted)
    return seen


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing remembered, and a server without options."""
    st.cache_data.clear()
    st.cache_resource.clear()
    monkeypatch.setattr(sys, "argv", ["app.py"])


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_a_cached_study_opens_the_cache_at_most_twice_and_not_again(
    page: str, open_page: Callable[..., AppTest], scored_cache: Path, opened: list[Path]
) -> None:
    shown = open_page(page, scored_cache)
    if page == "vote":
        shown.session_state["voter"] = "a" * 32  # as the browser tells it
        shown.run()
    assert not shown.exception
    assert "quick" in "\n".join(element.proto.body for element in shown.get("html"))
    assert 1 <= len(opened) <= AT_MOST
    before = len(opened)
    assert not shown.run().exception
    assert len(opened) == before, "what is known is not asked again"


def test_what_one_page_knows_of_a_study_the_next_does_not_ask_again(
    open_page: Callable[..., AppTest], scored_cache: Path, opened: list[Path]
) -> None:
    page = open_page("overview", scored_cache)
    before = len(opened)
    page.switch_page("views/speed.py").run()
    assert not page.exception
    assert len(opened) == before


def test_questions_are_put_together_one_may_follow_from_another_and_nothing_is_worked_out_meanwhile(
    plain: None, usual_cache: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_open: list[bool] = []
    reading = cache_access.reading

    class Watched:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._inner = reading(*arguments, **options)

        def __enter__(self) -> Connection:
            is_open.append(True)
            return self._inner.__enter__()

        def __exit__(self, *error: Any) -> Any:
            is_open.pop()
            return self._inner.__exit__(*error)

    monkeypatch.setattr(cache_access, "reading", Watched)

    def count(cells: Any) -> tuple[int, bool]:
        return len(cells), bool(is_open)

    def of_first(studies: Any) -> Question[Any]:
        return Question(queries.cells, (studies["study_id"].iloc[0],), count)

    for _ in range(2):
        studies, cells, missing = ask_all(
            usual_cache, Question(queries.studies), of_first, Question(queries.missing_cells, ("quick",))
        )
        assert isinstance(studies, Answer)
        assert studies.value["study_id"].tolist() == ["quick"]
        assert cells == Answer((24, False)), "24 cells, counted after the cache was closed"
        assert missing == Answer(0)
    assert len(opened) == 1


def test_while_the_cache_is_written_each_question_gets_what_was_known_of_it(
    plain: None, tmp_path: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, synthetic.study(prompts=("x",), seeds=(0,)))
    known, unknown = Question(queries.missing_cells, ("quick",)), Question(queries.spec, ("quick",))
    of_one, of_two = (replace(known, work_out=_told, context=(number,), version=number) for number in (1, 2))
    assert ask(cache, known) == Answer(0)
    assert ask(cache, of_one) == Answer("told 1")
    with writing(cache) as db:
        db.execute("UPDATE trajectories SET error = 'changed'")
    waited: list[Path] = []

    def busy(path: Path, *_: object, **__: object) -> None:
        waited.append(path)
        raise CacheBusy("in use")

    monkeypatch.setattr(cache_access, "reading", busy)
    first, second, third = ask_all(cache, unknown, known, lambda missing: Question(queries.models, (str(missing),)))
    assert isinstance(first, Problem)
    assert first.kind == "busy"
    assert second == Answer(0, stale=True)
    assert isinstance(third, Problem)
    assert len(waited) == 1, "whoever waited in vain need not wait again"
    first, second = ask_all(cache, of_one, of_two)
    assert first == Answer("told 1", stale=True)
    assert isinstance(second, Problem), "what is known of one context says nothing of another"


def _told(_: object, number: int) -> str:
    return f"told {number}"


def test_an_answer_that_rests_on_a_context_is_kept_for_that_context_alone(plain: None, usual_cache: Path) -> None:
    def told(_: object, word: str) -> str:
        return word

    def question(word: str, version: int) -> Question[str]:
        return Question(queries.missing_cells, ("quick",), told, (word,), version)

    assert ask(usual_cache, question("one", 1)) == Answer("one")
    assert ask(usual_cache, question("two", 2)) == Answer("two")
    assert ask(usual_cache, question("another word", 1)) == Answer("one"), "remembered by its version"


def test_a_problem_among_questions_stays_and_what_follows_from_it_is_not_asked(plain: None, usual_cache: Path) -> None:
    refused = Problem("unreadable", "The claims cannot be read", "why")
    first, second, third = ask_all(
        usual_cache,
        refused,
        lambda value: Question(queries.spec, (value,)),
        Question(queries.missing_cells, ("quick",)),
    )
    assert first == second == refused
    assert third == Answer(0)
