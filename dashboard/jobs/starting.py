"""Planning, starting and cancelling runs. Each function asks for the right itself: see `dashboard.access`."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dashboard.access import require_run
from dashboard.jobs import runner
from dashboard.jobs.form import Request, check, compose
from dashboard.jobs.queue import Job, Queue, QueueError
from dashboard.options import Options
from engine.paths import ROOT

PLAN_SECONDS = 120.0
ENGINE_PACKAGES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Plan:
    """A study that has been checked, and what the engine says it would do."""

    study: str
    toml: str
    text: str


def engine_lacks() -> str:
    """Why no run can be started on this server, with the remedy; empty if runs can.

    The packages are looked for, not imported: a dashboard without runs has no need of them.
    """
    absent = [name for name in ENGINE_PACKAGES if importlib.util.find_spec(name) is None]
    if not absent:
        return ""
    named = " and ".join(filter(None, [", ".join(absent[:-1]), absent[-1]]))
    return (
        f"This server shows results but cannot make any: its Python has no {named}. Run studies where the engine is "
        "installed, `python -m engine run STUDY --cache PATH` with this cache, and they are shown here while they run."
    )


def _require_engine() -> None:
    if reason := engine_lacks():
        raise QueueError(reason)


def plan(options: Options, request: Request) -> Plan:
    """Checks a request and asks the engine, in a process of its own, what it would do; runs nothing.

    Raises:
        AccessDenied: The session may not run studies.
        StudyError, QueueError: What is wrong with the request, as the command line says it, or with this server.
    """
    require_run(options)
    _require_engine()
    toml = compose(request)
    study = check(toml)
    cache = Queue(options.cache).cache
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.toml"
        file.write_text(toml, encoding="utf-8")
        command = [sys.executable, "-m", "engine", "plan", str(file), "--cache", str(cache)]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PLAN_SECONDS,
                check=False,
            )
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
    _require_engine()
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
        if engine_lacks():
            return  # what waits is left to a server that can run it
        runner.ensure(queue)
