"""Planning, starting and cancelling runs. Each function asks for the right itself: see `dashboard.access`."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dashboard.access import require_run
from dashboard.options import Options
from dashboard.runs import runner
from dashboard.runs.form import Request, check, compose
from dashboard.runs.queue import Job, Queue, QueueError
from engine.paths import ROOT

PLAN_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """A study that has been checked, and what the engine says it would do."""

    study: str
    toml: str
    text: str


def plan(options: Options, request: Request) -> Plan:
    """Checks a request and asks the engine, in a process of its own, what it would do; runs nothing.

    Raises:
        AccessDenied: The session may not run studies.
        StudyError, QueueError: What is wrong with the request, as the command line says it.
    """
    require_run(options)
    toml = compose(request)
    study = check(toml)
    cache = Queue(options.cache).cache
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.toml"
        file.write_text(toml, encoding="utf-8")
        command = [sys.executable, "-m", "engine", "plan", str(file), "--cache", str(cache)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PLAN_SECONDS,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise QueueError(f"The engine made no plan within {PLAN_SECONDS:.0f} s; try again later.") from error
        except OSError as error:
            raise QueueError(f"The engine cannot be started: {error}.") from error
    if done.returncode:
        said = done.stderr.strip().replace(str(file), "The form").removeprefix("error: ")
        raise QueueError(said[-2000:] or f"The engine ended with code {done.returncode} and said nothing.")
    return Plan(study.name, toml, done.stdout.strip())


def start(options: Options, planned: Plan) -> Job:
    """Queues a run, and sees to it that somebody works through the queue.

    Raises:
        AccessDenied: The session may not run studies.
        StudyError, QueueError: The study is not valid, or cannot be queued.
    """
    access = require_run(options)
    study = check(planned.toml)
    queue = Queue(options.cache)
    job = queue.submit(study.name, planned.toml, planned.text, access.who)
    runner.ensure(queue)
    return job


def cancel(options: Options, number: str) -> None:
    """Takes a run out of the queue, or stops it; what it has finished stays.

    Raises:
        AccessDenied: The session may not run studies.
        QueueError: There is no such run, or it has ended.
    """
    access = require_run(options)
    queue = Queue(options.cache)
    queue.cancel(number, access.who)
    runner.ensure(queue)


def keep_going(options: Options) -> None:
    """Sees to it that somebody works through the queue, if the session may run studies at all."""
    queue = Queue(options.cache)
    if os.path.isdir(queue.folder) and queue.active() and not queue.is_held("runner"):
        require_run(options)
        runner.ensure(queue)
