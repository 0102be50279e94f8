"""The queue of runs, on disk beside the cache, so that every session and every server sees the same. No streamlit.

`CACHE.runs/` holds one folder a run, named by its number:

    study.toml    what is to be run
    job.json      who asked for it and when, its plan, the budget if a decision is asked for, and the options if a
                  schedule is searched, which needs no study.toml
    running.json  process, and when it was started; written by the runner
    log.jsonl     what the engine said, one JSON object a line
    errors.log    what it wrote to standard error
    cancel        somebody wants it stopped
    outcome.json  how it ended

and three locks that the system gives back when their process dies, kill -9 included: `queue.lock` for moments, round
every change; `runner.lock` as long as a runner lives (`dashboard.jobs.runner`); `engine.lock` as long as the engine
does, which inherits it. Nothing is believed of a process number alone: numbers are given again.
"""

import contextlib
import datetime
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.cache.live_state import runs_folder
from engine.errors import LabError
from engine.paths import write_atomically

State = Literal["queued", "running", "done", "failed", "refused", "cancelled", "lost"]
ENDED: tuple[State, ...] = ("done", "failed", "refused", "cancelled", "lost")
MOST_QUEUED = 20
KEPT = 200
HEAD_BYTES = 16 * 1024
TAIL_BYTES = 64 * 1024
_NUMBER = re.compile(r"[0-9]{6}")


class QueueError(LabError):
    """A run cannot be queued or cancelled."""


@dataclass(frozen=True)
class Job:
    """A run as its folder tells it; times in UTC.

    Attributes:
        number: Its place in the order of asking.
        by: Who asked for it.
        plan: What `python -m engine plan` said of it.
        budget: Of `python -m engine decide`; empty: the run is `python -m engine run`.
        tune: Options of `python -m engine tune`, if that is the run.
        outcome: `exit_code`, `summary` and more, once it has ended.
    """

    number: str
    folder: Path
    study: str
    by: str
    plan: str
    budget: str
    tune: tuple[str, ...]
    state: State
    asked_at: datetime.datetime
    started_at: datetime.datetime | None
    ended_at: datetime.datetime | None
    cancelling: bool
    outcome: dict[str, Any]

    @property
    def seconds(self) -> float | None:
        """How long it ran, or has run."""
        if self.started_at is None:
            return None
        return ((self.ended_at or now()) - self.started_at).total_seconds()


class Queue:
    """The runs of one cache."""

    def __init__(self, cache: Path) -> None:
        """Touches nothing yet."""
        self.cache = Path(os.path.abspath(cache))
        self.folder = runs_folder(cache)

    def jobs(self) -> list[Job]:
        """All runs, the newest first; folders that are damaged are left out."""
        return [job for folder in self._folders() if (job := read_job(folder)) is not None]

    def active(self) -> list[Job]:
        """The run that goes on and those that wait, the newest first; reads little, however long the history is."""
        found = []
        for folder in self._folders():
            job = read_job(folder)
            if job is not None and job.state not in ENDED:
                found.append(job)
            elif job is not None and job.started_at is not None:
                break  # runs begin in the order of their numbers, one at a time: all before have ended
        return found

    def _folders(self) -> list[Path]:
        try:
            return sorted((f for f in self.folder.iterdir() if _NUMBER.fullmatch(f.name)), reverse=True)
        except OSError:
            return []

    def job(self, number: str) -> Job:
        """One run.

        Raises:
            QueueError: There is none of that number.
        """
        found = read_job(self.folder / number) if _NUMBER.fullmatch(number) else None
        if found is None:
            raise QueueError(f"There is no run {number[:20]!r}.")
        return found

    def submit(self, study: str, toml: str, plan: str, by: str, budget: str = "", tune: Sequence[str] = ()) -> Job:
        """Puts a run at the end of the queue; `runner.ensure` sees to it that somebody works through it.

        With a budget it is a search for a decision, of so much at most (`engine decide --budget`); with options of
        `engine tune`, a search for a schedule, and `study` is what it is called.

        Raises:
            QueueError: Too many wait already, or the folder cannot be written.
        """
        try:
            with self.locked():
                jobs = self.jobs()
                waiting = sum(job.state == "queued" for job in jobs)
                if waiting >= MOST_QUEUED:
                    raise QueueError(f"{waiting} runs are waiting already; cancel some, or wait until one has begun.")
                number = f"{1 + max((int(folder.name) for folder in self._folders()), default=0):06d}"
                draft = self.folder / f"draft-{number}"
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
                if not tune:
                    (draft / "study.toml").write_text(toml, encoding="utf-8")
                asked = {"study": study, "by": by, "plan": plan, "budget": budget, "tune": list(tune)}
                asked["asked_at"] = stamp()
                write_json(draft / "job.json", asked)
                draft.rename(self.folder / number)  # appears whole or not at all
                self._forget_old(jobs)
        except OSError as error:
            raise QueueError(f"The run cannot be queued in {self.folder}: {error}.") from error
        return self.job(number)

    def cancel(self, number: str, by: str) -> None:
        """Takes a waiting run out of the queue, or asks the runner to stop the one that runs.

        Raises:
            QueueError: There is no such run, or it has ended.
        """
        with self.locked():
            job = self.job(number)
            if job.state == "queued":
                write_json(job.folder / "outcome.json", {"state": "cancelled", "ended_at": stamp(), "cancelled_by": by})
            elif job.state == "running":
                (job.folder / "cancel").write_text(by, encoding="utf-8")
            else:
                raise QueueError(f"Run {number} has ended: {job.state}.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The right to change the queue, for moments."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "queue.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def is_held(self, lock: Literal["runner", "engine"]) -> bool:
        """Whether a runner, or an engine started by one, is alive."""
        try:
            with (self.folder / f"{lock}.lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _forget_old(self, jobs: list[Job]) -> None:
        """Removes the oldest ended runs; what they made stays in the cache."""
        ended = [job for job in jobs if job.state in ENDED]
        for job in ended[KEPT:]:
            shutil.rmtree(job.folder, ignore_errors=True)


def read_job(folder: Path) -> Job | None:
    """The run in a folder, or None if it is damaged."""
    job, running, outcome = (read_json(folder / f"{name}.json") for name in ("job", "running", "outcome"))
    asked_at = moment(job.get("asked_at"))
    if asked_at is None:
        return None
    state: State = "running" if running else "queued"
    if outcome:
        state = next((known for known in ENDED if known == outcome.get("state")), "lost")
    return Job(
        number=folder.name,
        folder=folder,
        study=str(job.get("study", "")),
        by=str(job.get("by", "")),
        plan=str(job.get("plan", "")),
        budget=str(job.get("budget", "")),
        tune=tuple(map(str, job.get("tune") or ())),
        state=state,
        asked_at=asked_at,
        started_at=moment(running.get("started_at")),
        ended_at=moment(outcome.get("ended_at")),
        cancelling=(folder / "cancel").exists(),
        outcome=outcome,
    )


def log_lines(file: Path) -> list[str]:
    """The lines of a log; of a long one those at its beginning and end."""
    try:
        with file.open("rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            if length <= HEAD_BYTES + TAIL_BYTES:
                return stream.read().decode("utf-8", "replace").splitlines()
            head = stream.read(HEAD_BYTES).decode("utf-8", "replace").splitlines()[:-1]
            stream.seek(length - TAIL_BYTES)
            return head + stream.read().decode("utf-8", "replace").splitlines()[1:]
    except OSError:
        return []


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file; empty if there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Writes JSON atomically."""
    write_atomically(file, lambda draft: draft.write_text(json.dumps(value), encoding="utf-8"))


def now() -> datetime.datetime:
    """UTC without zone, as in the cache."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def stamp() -> str:
    return now().isoformat()


def moment(text: object) -> datetime.datetime | None:
    """The time that a text gives, or None."""
    try:
        return datetime.datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
