"""Works through a queue of runs, one at a time, and ends when it is empty: `python -m dashboard.jobs.runner CACHE`.

It is a process of its own, apart from any server: a dashboard may be restarted or end while a run goes on. If a runner
is killed, its engine goes on, and the next runner waits for that one before it starts another.
"""

import contextlib
import fcntl
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import psutil

from dashboard.jobs import events
from dashboard.jobs.queue import Job, Queue, State, log_lines, read_json, stamp, write_json
from engine.paths import ROOT, take_lock

POLL_SECONDS = 0.2
GRACE_SECONDS = 15.0
STARTING_SECONDS = 10.0
INTERRUPTED = 130
# 3 is an answer too: nothing is known yet.
_STATES: dict[int, State] = {0: "done", 1: "failed", 2: "refused", 3: "done"}


def ensure(queue: Queue) -> None:
    """Starts a runner if runs are waiting, or were left behind, and there is none."""
    with queue.locked():
        jobs = queue.jobs()
        if queue.is_held("runner") or not any(job.state in {"queued", "running"} for job in jobs):
            return
        begun = queue.folder / "runner.log"
        if begun.exists() and time.time() - begun.stat().st_mtime < STARTING_SECONDS and _is_alive(_last(queue)):
            return  # one is just coming up
        with begun.open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "dashboard.jobs.runner", str(queue.cache)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        write_json(queue.folder / "runner.json", _process(child.pid))
    _CHILDREN.append(child)
    _CHILDREN[:] = [one for one in _CHILDREN if one.poll() is None]  # no zombies


_CHILDREN: list[subprocess.Popen[bytes]] = []


def work(queue: Queue) -> None:
    """Runs what waits, the oldest first; returns at once if another runner is at it."""
    with (queue.folder / "runner.lock").open("ab") as lock:
        if not take_lock(lock):
            return
        for job in queue.jobs():
            if job.state == "running":
                _adopt(queue, job)
        while True:
            with queue.locked():
                waiting = [job for job in queue.jobs() if job.state == "queued"]
                if not waiting:
                    fcntl.flock(lock, fcntl.LOCK_UN)  # still under the queue's lock: whoever queues next sees it
                    return
                job = waiting[-1]
                write_json(job.folder / "running.json", {"started_at": stamp(), **_versions()})
            _run(queue, job)


def _run(queue: Queue, job: Job) -> None:
    """Runs a job to its end, and writes its outcome."""
    with (
        (job.folder / "log.jsonl").open("wb") as log,
        (job.folder / "errors.log").open("wb") as errors,
        (queue.folder / "engine.lock").open("ab") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = _start(engine_command(job, queue.cache), log, errors, lock)
        if engine is not None:
            write_json(job.folder / "running.json", {**read_json(job.folder / "running.json"), **_process(engine.pid)})
    if engine is None:
        _end(job, "failed", None)
        return
    since: float | None = None
    while (code := engine.poll()) is None:
        since = _stop_if_asked(job, engine.pid, since)
        time.sleep(POLL_SECONDS)
    _end(job, "cancelled" if code == INTERRUPTED else _STATES.get(code, "failed"), code, stopped=since is not None)


def engine_command(job: Job, cache: Path) -> list[str]:
    """The command line of a run, the same that a person would type."""
    study = str(job.folder / "study.toml")
    asked = ["decide", "--budget", job.budget, study] if job.budget else ["run", study]
    asked = ["tune", *job.tune] if job.tune else asked
    return [sys.executable, "-m", "engine", *asked, "--cache", str(cache), "--progress", "json"]


def _start(command: list[str], log: IO[bytes], errors: IO[bytes], lock: IO[bytes]) -> "subprocess.Popen[bytes] | None":
    try:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=errors,
            start_new_session=True,
            pass_fds=(lock.fileno(),),  # the lock is held as long as the engine lives, whatever becomes of the runner
        )
    except OSError as error:
        errors.write(f"The engine could not be started: {error}\n".encode())
        return None


def _adopt(queue: Queue, job: Job) -> None:
    """Waits for the engine of a runner that was killed, and tells from its log how it ended."""
    process = read_json(job.folder / "running.json")
    since: float | None = None
    while queue.is_held("engine"):
        if _is_alive(process):
            since = _stop_if_asked(job, int(process["pid"]), since)
        time.sleep(POLL_SECONDS)
    summary = events.read(log_lines(job.folder / "log.jsonl")).summary
    state: State = (
        "lost" if summary is None else "failed" if summary.get("failed") or summary.get("untimed") else "done"
    )
    _end(job, state, None, stopped=job.cancelling or since is not None)


def _stop_if_asked(job: Job, pid: int, since: float | None) -> float | None:
    """Interrupts the engine's process group if somebody asked for it, and kills it if that does not help.

    Returns:
        When it was interrupted, if it was.
    """
    if since is None and (job.folder / "cancel").exists():
        _signal(pid, signal.SIGINT)
        return time.monotonic()
    if since is not None and time.monotonic() - since > GRACE_SECONDS:
        _signal(pid, signal.SIGKILL)
    return since


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)  # the engine leads a group of its own


def _end(job: Job, state: State, code: int | None, *, stopped: bool = False) -> None:
    """Writes how a job ended; one that was stopped on request before it was over is cancelled, whatever its code."""
    log = events.read(log_lines(job.folder / "log.jsonl"))
    state = "cancelled" if stopped and log.summary is None else state
    outcome = {"state": state, "exit_code": code, "ended_at": stamp(), "summary": log.summary, "facts": log.facts}
    write_json(job.folder / "outcome.json", outcome)


def _process(pid: int) -> dict[str, Any]:
    """What tells a process from a later one of the same number."""
    try:
        return {"pid": pid, "process_began": psutil.Process(pid).create_time()}
    except psutil.Error:
        return {"pid": pid, "process_began": None}


def _last(queue: Queue) -> dict[str, Any]:
    return read_json(queue.folder / "runner.json")


def _is_alive(process: dict[str, Any]) -> bool:
    try:
        found = psutil.Process(int(process["pid"]))
        return found.create_time() == process["process_began"] and found.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _versions() -> dict[str, str]:
    return {"host": platform.node(), "python": platform.python_version()}


if __name__ == "__main__":
    # A shell that starts a server in the background may have it ignore interrupts, and the engine would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work(Queue(Path(sys.argv[1])))
