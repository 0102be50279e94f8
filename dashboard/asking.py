"""Asking the cache: it is opened for moments, answers are remembered, and no error gets through to a page.

With `--read-only` the file may be a stranger's: its contents are looked at before the first answer. An answer is
remembered as long as the file is unchanged. While a writer holds the file, the last known answer is given and marked as
such, so that a page stays readable during a run.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import pandas as pd
import streamlit as st

from dashboard.state import options
from engine.cache.connection import QueryError, reading, stamp
from engine.errors import CacheBusy, CacheMissing, CacheOutdated, LabError

PATIENCE_SECONDS = 1.5
QUERY_SECONDS = 10.0
REMEMBERED = 64
REMEMBERED_BYTES = 96 * 2**20
LAST_KNOWN = 16
WRITTEN_LATELY_SECONDS = 120.0

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


def ask(path: Path, question: Callable[..., T], *arguments: Any) -> Answer[T] | Problem:
    """Puts a question to the cache.

    Args:
        path: The cache.
        question: A function of a module (no lambda) from an open connection and the arguments to an answer that can be
            pickled.
        arguments: Hashable.
    """
    return work_out(path, question, None, *arguments)


def work_out(
    path: Path, question: Callable[..., Any], follow_up: Callable[[Any], T] | None, *arguments: Any
) -> Answer[T] | Problem:
    """Puts a question to the cache, closes it, and makes something of the answer; that alone is remembered.

    Args:
        path: The cache.
        question: As in `ask`.
        follow_up: A function of a module from the answer to what is wanted, which can be pickled. However long it
            takes, it keeps nobody from writing.
        arguments: Of the question; hashable.
    """
    name = " ".join(f"{function.__module__}.{function.__qualname__}" for function in (question, follow_up) if function)
    key = (str(path), name, arguments)
    try:
        value = _answer(str(path), stamp(path), name, arguments, options().read_only, question, follow_up)
    except CacheBusy as error:
        last = _last_known().get(key)
        return Problem("busy", "The cache is being written", str(error)) if last is None else Answer(last, stale=True)
    except CacheMissing as error:
        return Problem("missing", "There is no cache yet", f"{error} This page shows it as soon as it is there.")
    except CacheOutdated as error:
        return Problem("outdated", "The cache is from an older version", str(error))
    except (LabError, QueryError, OSError) as error:
        return Problem("unreadable", "The cache cannot be read", str(error).partition("\n\n")[0])
    _last_known().keep(key, value)
    return Answer(value)


def written_lately(path: Path) -> bool:
    """Whether the file changed within the last two minutes: a run may be going on."""
    changed = max((moment for moment, _ in stamp(path)), default=0)
    return pd.Timestamp.now("UTC").value - changed < WRITTEN_LATELY_SECONDS * 1e9


@st.cache_data(show_spinner=False, max_entries=REMEMBERED, max_size=REMEMBERED_BYTES)
def _answer(
    path: str,
    state_of_file: tuple[tuple[int, int], ...],
    name: str,
    arguments: tuple[Any, ...],
    shared: bool,
    _question: Callable[..., Any],
    _follow_up: Callable[[Any], Any] | None,
) -> Any:
    with reading(Path(path), PATIENCE_SECONDS, QUERY_SECONDS, inspect=shared) as db:
        found = _question(db, *arguments)
    return found if _follow_up is None else _follow_up(found)


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
