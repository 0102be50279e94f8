"""Reading the cache for the pages: opens it for moments, remembers answers, and never lets an error through.

An answer is remembered as long as the file is unchanged. While a writer holds the file, the last known answer is
given and marked as such, so that a page stays readable during a run.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import pandas as pd
import streamlit as st

from dashboard.images import data_uri
from dashboard.studies import Progress, StudyData
from engine.analysis.cost import Preset, PriceError, load_presets
from engine.cache import queries
from engine.cache.connection import Connection, QueryError, reading
from engine.errors import CacheBusy, CacheMissing, CacheOutdated, LabError
from engine.paths import DATA

PATIENCE_SECONDS = 1.5
REMEMBERED = 64
REMEMBERED_BYTES = 96 * 2**20
LAST_KNOWN = 16
WRITTEN_LATELY_SECONDS = 120.0
GPU_PRICES = DATA / "gpu_prices.toml"

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
class Picture:
    """A frame of a trajectory, ready for a page."""

    trajectory_id: str
    kind: str
    step_index: int
    progress: float
    timestep: float | None
    log_snr: float | None
    width: int
    height: int
    source: str


def catalogue(path: Path) -> Answer[pd.DataFrame] | Problem:
    """All studies, the last run first (`queries.studies`)."""
    if path.is_file() and path.stat().st_size == 0:
        return Problem("empty", "The cache is empty", f"{path} holds nothing yet. {_RUN_ONE.format(path=path)}")
    answer = _ask(path, "catalogue")
    if isinstance(answer, Answer) and answer.value.empty:
        return Problem("empty", "No study has been run yet", f"{path} holds no study. {_RUN_ONE.format(path=path)}")
    return answer


def study(path: Path, study_id: str) -> Answer[StudyData] | Problem:
    """All about a study except its pictures."""
    return _ask(path, "study", study_id)


def progress(path: Path, study_id: str) -> Answer[Progress] | Problem:
    """How far a study is."""
    return _ask(path, "progress", study_id)


def pictures(path: Path, trajectory_ids: list[str], kinds: list[str]) -> Answer[list[Picture]] | Problem:
    """Pictures of trajectories, step by step; those that are no pictures are left out."""
    return _ask(path, "pictures", tuple(trajectory_ids), tuple(kinds))


def gpu_prices() -> Answer[list[Preset]] | Problem:
    """The prices of GPUs to choose from, in the order of their file."""
    try:
        return Answer(load_presets(GPU_PRICES))
    except PriceError as error:
        return Problem("unreadable", "The GPU prices cannot be read", str(error))


def written_lately(path: Path) -> bool:
    """Whether the file changed within the last two minutes: a run may be going on."""
    changed = max((stamp[0] for stamp in _stamp(path)), default=0)
    return pd.Timestamp.now("UTC").value - changed < WRITTEN_LATELY_SECONDS * 1e9


_RUN_ONE = "`python -m engine run quickstart --cache {path}` fills it; this page shows it as soon as it is there."


def _catalogue(db: Connection) -> pd.DataFrame:
    return queries.studies(db)


def _study(db: Connection, study_id: str) -> StudyData:
    spec = queries.spec(db, study_id)
    return StudyData(
        spec=spec if isinstance(spec, dict) else {},
        cells=queries.cells(db, study_id),
        missing=queries.missing_cells(db, study_id),
        timings=queries.timings(db, study_id),
        environments=queries.environments(db, study_id),
        models=queries.models(db, study_id),
    )


def _progress(db: Connection, study_id: str) -> Progress:
    cells, samples = queries.cells(db, study_id)["status"], queries.timings(db, study_id)["stage"]
    return Progress(
        done=int((cells == "done").sum()),
        failed=int((cells == "failed").sum()),
        missing=queries.missing_cells(db, study_id),
        samples=int((samples == "total").sum()),
    )


def _pictures(db: Connection, ids: tuple[str, ...], kinds: tuple[str, ...]) -> list[Picture]:
    frames = queries.frames(db, ids, kinds)
    found = []
    for row in frames[frames["video_frame"] == 0].itertuples():
        source = data_uri(bytes(row.image))
        if source is not None:
            found.append(
                Picture(row.trajectory_id, row.kind, int(row.step_index), float(row.progress), _number(row.timestep),
                        _number(row.log_snr), int(row.width), int(row.height), source)
            )  # fmt: skip
    return found


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


_QUESTIONS: dict[str, Callable[..., Any]] = {
    "catalogue": _catalogue,
    "study": _study,
    "progress": _progress,
    "pictures": _pictures,
}


@st.cache_data(show_spinner=False, max_entries=REMEMBERED, max_size=REMEMBERED_BYTES)
def _answer(path: str, stamp: tuple[tuple[int, int], ...], question: str, arguments: tuple[Any, ...]) -> Any:
    with reading(Path(path), PATIENCE_SECONDS) as db:
        return _QUESTIONS[question](db, *arguments)


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


def _stamp(path: Path) -> tuple[tuple[int, int], ...]:
    """When the file and its log were last changed (in ns), and their sizes."""
    found = []
    for file in (path, path.with_name(path.name + ".wal")):
        try:
            status = file.stat()
        except OSError:
            continue
        found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)


def _ask(path: Path, question: str, *arguments: Any) -> Any:
    key = (str(path), question, arguments)
    try:
        value = _answer(str(path), _stamp(path), question, arguments)
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
