"""Questions to the cache: it is opened for moments, answers are remembered, and no error gets through to a page.

With `--read-only` the file may be a stranger's: its contents are looked at before the first answer. An answer is
remembered as long as the file is unchanged. While a writer holds the file, the last known answer is given and marked as
such, so that a page stays readable during a run.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import streamlit as st

from dashboard.state import options
from engine.cache.connection import Connection, QueryError, reading, stamp
from engine.errors import CacheBusy, CacheMissing, CacheOutdated, LabError

PATIENCE_SECONDS = 1.5
QUERY_SECONDS = 10.0
REMEMBERED = 64
REMEMBERED_BYTES = 96 * 2**20
LAST_KNOWN = 16

T = TypeVar("T")
ProblemKind = Literal["options", "missing", "empty", "busy", "outdated", "unreadable"]


@dataclass(frozen=True)
class Problem:
    """Why there is nothing to show, in words for the reader."""

    kind: ProblemKind
    title: str
    detail: str


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What the cache said; `stale` if it is being written and this is the last that was known."""

    value: T
    stale: bool = False


@dataclass(frozen=True)
class Question(Generic[T]):
    """What a page wants to know of the cache.

    Attributes:
        read: A function of a module (no lambda) from an open connection and the arguments to what is there.
        arguments: Hashable.
        work_out: A function of a module from that to the answer, which can be pickled. It runs after the cache has been
            closed: however long it takes, it keeps nobody from writing.
        context: Given to `work_out` as well.
        version: Tells one context from another; hashable.
    """

    read: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    work_out: Callable[..., T] | None = None
    context: tuple[Any, ...] = ()
    version: Hashable = None

    @property
    def name(self) -> str:
        """Tells questions apart that have equal arguments."""
        functions = (function for function in (self.read, self.work_out) if function is not None)
        return " ".join(f"{function.__module__}.{function.__qualname__}" for function in functions)


# A question, what makes one of the answer before, or why there is none to put.
Step = Question[Any] | Callable[[Any], Question[Any]] | Problem


def ask(path: Path, question: Question[T]) -> Answer[T] | Problem:
    """Puts a question to the cache, unless the answer is remembered."""
    return ask_all(path, question)[0]


def ask_all(path: Path, *steps: Step) -> list[Answer[Any] | Problem]:
    """Puts several questions to the cache, which is opened once at most, and only for what is not remembered.

    Args:
        path: The cache.
        steps: Questions, or functions from the answer before to the next question; an answer that another question
            follows from is not worked out. Where there was no answer, there is none to what follows from it either.
    """
    visit = _Visit(path)
    error: Exception | None = None
    try:
        if not visit.recall(steps):
            with reading(path, PATIENCE_SECONDS, QUERY_SECONDS, inspect=options().read_only) as db:
                visit.recall(steps, db)
        answers = [visit.finish(found) for found in visit.found]
    except (LabError, QueryError, OSError) as failure:
        error = failure
        answers = [visit.finish(found) for found in visit.found]
    for step in steps[len(answers) :]:
        question = _next(step, answers)
        answers.append(question if isinstance(question, Problem) else _without(path, question, error))
    return answers


@dataclass(frozen=True)
class _Unfinished:
    """What was read, and still has to be worked out."""

    question: Question[Any]
    read: Any


class _NotRemembered(Exception):
    """There is no answer yet."""


class _Visit:
    """One look at the cache.

    Attributes:
        found: What is known so far, a step each.
    """

    def __init__(self, path: Path) -> None:
        self.found: list[Answer[Any] | Problem | _Unfinished] = []
        self._path = path
        self._state = stamp(path)

    def recall(self, steps: Sequence[Step], db: Connection | None = None) -> bool:
        """Goes on with what is remembered or, in an open cache, by reading; returns whether all is known."""
        for step in steps[len(self.found) :]:
            question = _next(step, self.found)
            if isinstance(question, Problem):
                self.found.append(question)
                continue
            try:
                self.found.append(self._known(question, _not_remembered))
            except _NotRemembered:
                if db is None:
                    return False
                unfinished = _Unfinished(question, question.read(db, *question.arguments))
                self.found.append(unfinished if question.work_out is not None else self.finish(unfinished))
        return True

    def finish(self, found: Answer[Any] | Problem | _Unfinished) -> Answer[Any] | Problem:
        """The answer, which is remembered from now on."""
        if not isinstance(found, _Unfinished):
            return found
        question, read = found.question, found.read
        work_out = question.work_out
        try:
            return self._known(question, lambda: read if work_out is None else work_out(read, *question.context))
        except (LabError, OSError) as error:
            return _without(self._path, question, error)

    def _known(self, question: Question[Any], make: Callable[[], Any]) -> Answer[Any]:
        shared = options().read_only
        value = _answer(str(self._path), self._state, question.name, question.arguments, question.version, shared, make)
        _last_known().keep(_key(self._path, question), value)
        return Answer(value)


def _next(step: Step, found: Sequence[Any]) -> Question[Any] | Problem:
    if isinstance(step, Question | Problem):
        return step
    before = found[-1]
    return step(before.value) if isinstance(before, Answer) else before


def _key(path: Path, question: Question[Any]) -> tuple[Any, ...]:
    return str(path), question.name, question.arguments, question.version


def _without(path: Path, question: Question[Any], error: Exception | None) -> Answer[Any] | Problem:
    """The last known answer while the cache is being written; or why there is none."""
    if isinstance(error, CacheBusy):
        last = _last_known().get(_key(path, question))
        busy = Problem("busy", "The cache is being written", str(error))
        return busy if last is None else Answer(last, stale=True)
    if isinstance(error, CacheMissing):
        return Problem("missing", "There is no cache yet", f"{error} This page shows it as soon as it is there.")
    if isinstance(error, CacheOutdated):
        return Problem("outdated", "The cache is from an older version", str(error))
    return Problem("unreadable", "The cache cannot be read", str(error).partition("\n\n")[0])


def _not_remembered() -> Any:
    raise _NotRemembered


@st.cache_data(show_spinner=False, max_entries=REMEMBERED, max_size=REMEMBERED_BYTES)
def _answer(
    path: str,
    state_of_file: tuple[tuple[int, int], ...],
    name: str,
    arguments: tuple[Any, ...],
    version: Hashable,
    shared: bool,
    _make: Callable[[], Any],
) -> Any:
    return _make()


class _LastKnown:
    """The last answers, the oldest dropped first; shared by all sessions of the server."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, key: Any, value: Any) -> None:
        with self._lock:
            self._answers[key] = value
            self._answers.move_to_end(key)
            while len(self._answers) > LAST_KNOWN:
                self._answers.popitem(last=False)

    def get(self, key: Any) -> Any:
        with self._lock:
            return self._answers.get(key)


@st.cache_resource(show_spinner=False)
def _last_known() -> _LastKnown:
    return _LastKnown()
