"""What every page begins with: command line, study picker, problems in place of content, progress of a run."""

import contextlib
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import streamlit as st
from streamlit import config

from dashboard import access, loaders, state
from dashboard.cache_access import Answer, Problem, Step, ask, ask_all
from dashboard.components import image_places
from dashboard.options import Options, OptionsError
from dashboard.welcome import sections as welcome
from engine.analysis.outcomes import StudyProgress
from engine.cache.live_state import read_live
from engine.display import html, theme
from engine.display.formats import count, when
from engine.results import Results

POLL_SECONDS = 2.5
SLOW_POLL_SECONDS = 10.0

T = TypeVar("T")


def style() -> None:
    """The style sheet of all pages."""
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    st.html(f"<style>:root {{ --lab-accent: {theme.ACCENT}; }}\n{css}</style>")


def begin() -> None:
    """What comes before every page: the style sheet, and the right to run for whoever opened the server's link."""
    style()
    # Else all modules are gone through for garbage after each run of a fragment, most of what watching a run costs.
    # Python collects when there is need.
    config.set_option("runner.postScriptGC", False)
    with contextlib.suppress(OptionsError):  # the page says so
        access.offer(state.options())


def options() -> Options:
    """The command line, or a page that says what is wrong with it."""
    try:
        chosen = state.options()
    except OptionsError as error:
        st.html(html.note("The dashboard was started with arguments it does not know", str(error)))
        st.stop()
    access.keep_no_files(chosen)
    return chosen


def require(load: Callable[[], Answer[T] | Problem]) -> Answer[T]:
    """The answer; or else the problem as the page's only content, with a new try every few seconds."""
    answer = seek(load)
    if answer is None:
        st.stop()
    return answer


def require_all(path: Path, *questions: Step) -> list[Any]:
    """What the answers to several questions hold, as `require` has them; the cache is opened once for all."""
    answers = ask_all(path, *questions)
    for answer, question in zip(answers, questions, strict=True):
        if isinstance(answer, Problem):
            _show(answer, lambda question=question: ask_all(path, question)[0])  # type: ignore[misc]
            st.stop()
    return [answer.value for answer in answers if isinstance(answer, Answer)]


def seek(load: Callable[[], Answer[T] | Problem]) -> Answer[T] | None:
    """The answer; or else None, with the problem in its place and a new try every few seconds."""
    answer = load()
    if isinstance(answer, Answer):
        return answer
    _show(answer, load)
    return None


def _show(problem: Problem, load: Callable[[], Answer[T] | Problem], *, ways_on: bool = True) -> None:
    if ways_on and problem.kind in {"missing", "empty"}:
        welcome.show(options(), problem)
    else:
        st.html(html.note(problem.title, problem.detail))
    _watch(load, problem)


def open_study(*, watch_finished: bool = True, level: int = 1, status: bool = True) -> tuple[Options, Results]:
    """The head of every page: the study picker, what the study is, and how far it is.

    Args:
        watch_finished: Check now and then whether a finished study has been run again. Without it, the page of a
            finished study sends nothing to the server on its own.
        level: Of the study's heading: 2 on a page that has its own title.
        status: Say how far the study is; a page that shows the run itself does not.
    """
    chosen, study = _look(watch_finished=watch_finished, level=level, status=status)
    if study is None:
        st.stop()
    return chosen, study


def look_for_study() -> tuple[Options, Results | None]:
    """Like `open_study`, for pages that work without a study: shows why there is none, and returns None."""
    return _look(watch_finished=True, level=1)


def _look(*, watch_finished: bool, level: int, status: bool = True) -> tuple[Options, Results | None]:
    chosen = options()

    def load() -> tuple[Answer[pd.DataFrame] | Problem, Answer[Results] | Problem]:
        return loaders.catalogue_and_study(
            chosen.cache, lambda studies: state.expected_study(studies["study_id"].tolist())
        )

    studies, answer = load()
    if isinstance(studies, Problem):
        _show(studies, lambda: loaders.catalogue(chosen.cache), ways_on=level == 1)
        return chosen, None
    found = studies.value
    names = dict(zip(found["study_id"], found["name"], strict=True))
    head, picker = st.columns([4, 1.4], vertical_alignment="bottom")
    with picker:
        study_id = state.choose_study(names)
    if isinstance(answer, Problem) or answer.value.id != study_id:
        answer = require(lambda: ask(chosen.cache, loaders.results_of(chosen.cache, study_id)))
    study = answer.value
    updated = found.set_index("study_id").at[study_id, "updated_at"]
    with head:
        facts = [*study.facts, *image_places(study)[:1], f"last run {when(updated)}"]
        st.html(html.title(names[study_id], facts, study.description, level))
    if status:
        _status(chosen, study, stale=answer.stale, watch=watch_finished or study.unfinished)
    return chosen, study


def _status(chosen: Options, study: Results, *, stale: bool, watch: bool) -> None:
    """How far a study is, kept up to date; redraws the page when something has changed."""
    decided = study.decision is not None
    _keep_watching(chosen, study.id, study.progress, stale=stale, watch=watch, decided=decided)


def _keep_watching(
    chosen: Options, study_id: str, known: StudyProgress, *, stale: bool, watch: bool, decided: bool
) -> None:
    """The server keeps a fragment and all it refers to for the whole session, so it refers to no study."""
    drawn, (live, timing) = False, _engine(chosen.cache, study_id)
    every = POLL_SECONDS if live or stale else SLOW_POLL_SECONDS if watch else None

    @st.fragment(run_every=SLOW_POLL_SECONDS if timing and every else every)
    def body() -> None:
        nonlocal drawn
        runs, timing_now = _engine(chosen.cache, study_id)
        if timing_now != timing:
            st.rerun()
        if timing or not drawn:
            drawn = True
            _status_line(known, live, stale=stale, decided=decided)
            return
        answer = loaders.progress(chosen.cache, study_id)
        fresh = answer.value if isinstance(answer, Answer) and not answer.stale else None
        ended = live and not runs
        if ended or (fresh is not None and (stale or fresh != known)):
            st.rerun()
        _status_line(known, live, stale=stale or fresh is None, decided=decided)

    body()


def _engine(cache: Path, study: str) -> tuple[bool, bool]:
    """Whether an engine works on a study just now, and whether one takes times, which no page should disturb."""
    state = read_live(cache)
    return (False, False) if state is None else (state.study == study, state.is_timing)


def _status_line(progress: StudyProgress, live: bool, *, stale: bool, decided: bool) -> None:
    if live and progress.missing:
        run = progress.done + progress.failed
        total = run + progress.missing
        st.progress(run / total, text=f"Running: {run} of {total} cells")
    elif live:
        st.html(html.soft(f"Running: {count(progress.samples, 'timing sample')} so far."))
    elif progress.missing and not decided:  # a decision leaves out what it has no need of
        left = count(progress.missing, "cell")
        st.html(
            html.soft(
                f"{left} not run yet. Unless an engine is at work, `python -m engine run` with the same study goes on."
            )
        )
    if stale:
        say_stale()


def say_stale() -> None:
    """The line beside an answer that may be out of date."""
    now = datetime.datetime.now(datetime.UTC)
    st.html(html.soft(f"{now:%H:%M:%S} UTC: the cache is being written; this is what was known before."))


def _watch(load: Callable[[], Answer[T] | Problem], problem: Problem) -> None:
    """Asks again every few seconds, and redraws the page once the answer has changed."""
    drawn = False

    @st.fragment(run_every=POLL_SECONDS)
    def body() -> None:
        nonlocal drawn
        if drawn and load() != problem:
            st.rerun()
        drawn = True

    body()
