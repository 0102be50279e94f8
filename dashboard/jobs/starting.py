"""Planning, starting and cancelling runs. Each function asks for the right itself: see `dashboard.access`."""

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboard.access import require_run
from dashboard.jobs import runner
from dashboard.jobs.form import PresetRequest, Request, TuneDraft, check, compose, tune_options
from dashboard.jobs.queue import Job, Queue, QueueError
from dashboard.options import Options
from engine.errors import StudyError
from engine.paths import ROOT
from engine.study.study import canonical, presets

PLAN_SECONDS = 120.0
# What a search goes on with.
_ASKED = (
    "model",
    "dtype",
    "lanes",
    "baseline",
    "negative_prompt",
    "guidance_scale",
    "width",
    "height",
    "pipeline",
    "decide",
)
_BUDGET = re.compile(r"[1-9][0-9]{0,5}[mpc]")
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
    study = check(toml, options.cache)
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


def start(options: Options, planned: Plan, budget: str = "") -> Job:
    """Queues a run, or with a budget a search for a decision, and sees to it that somebody works through the queue.

    Raises:
        AccessDenied: The session may not run studies.
        StudyError, QueueError: The study is not valid, or cannot be queued.
    """
    access = require_run(options)
    return _queue(options, planned.toml, planned.text, access.who, budget)


def known_study(options: Options, name: str, shown: Mapping[str, Any] | None = None) -> str:
    """The file of a study that was run here from a page, or of a preset; empty if it is neither.

    What the cache holds of a study may be a stranger's and can name code to run: that is never run from a page.

    Args:
        options: The server's.
        name: The study's.
        shown: What the cache holds of it: a file that asks for other pictures is not this study, whatever its name.
    """
    found = []
    for job in Queue(options.cache).jobs():
        if job.study == name:
            with contextlib.suppress(OSError):
                found.append((job.folder / "study.toml").read_text(encoding="utf-8"))
    found += [compose(PresetRequest(name))] if name in presets() else []
    return next((toml for toml in found if shown is None or _asks_for(toml, shown, options)), "")


def _asks_for(toml: str, shown: Mapping[str, Any], options: Options) -> bool:
    """Whether a file asks for what a cache holds, but for prompts and seeds, which a search adds to."""
    try:
        asked = json.loads(canonical(check(toml, options.cache).spec()))
    except StudyError:
        return False
    return all(asked.get(name) == shown.get(name) for name in _ASKED)


def decide(options: Options, name: str, budget: str, shown: Mapping[str, Any] | None = None) -> Job:
    """Queues a search for the decision of a study that is known here; `shown` as in `known_study`.

    Raises:
        AccessDenied: The session may not run studies.
        StudyError, QueueError: There is no such study, or it cannot be queued.
    """
    access = require_run(options)
    toml = known_study(options, name, shown)
    if not toml:
        raise QueueError(f"Study '{name}' was not started here; run `python -m engine decide` with its file.")
    return _queue(options, toml, "", access.who, budget)


def tune(options: Options, draft: TuneDraft) -> Job:
    """Queues a search for a schedule.

    Raises:
        AccessDenied: The session may not run studies.
        StudyError, QueueError: The search is not valid, or cannot be queued.
    """
    access = require_run(options)
    _require_engine()
    queue = Queue(options.cache)
    job = queue.submit(draft.called, "", "", access.who, tune=tune_options(draft))
    runner.ensure(queue)
    return job


def _queue(options: Options, toml: str, plan: str, who: str, budget: str) -> Job:
    _require_engine()
    if budget and not _BUDGET.fullmatch(budget):
        raise QueueError(f"{budget[:20]!r} is no budget; write 12m (minutes) or 60p (prompts).")
    study = check(toml, options.cache)
    queue = Queue(options.cache)
    job = queue.submit(study.name, toml, plan, who, budget)
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
