"""Starts the demo as a run of a cache's queue, for whoever owns this machine: `python -m dashboard.jobs.demo CACHE`.

Once it has come to its end the demo is not started again: the pages show what it found, and offer more prompts.
"""

import sys
from pathlib import Path

from dashboard.jobs import runner
from dashboard.jobs.form import PresetRequest, compose
from dashboard.jobs.queue import Queue

STUDY, BUDGET = "quickstart", "12m"


def begin(queue: Queue) -> str:
    """Starts the demo unless it is running or done, and says which."""
    runs = [job for job in queue.jobs() if job.study == STUDY and job.budget]
    if any(job.state in {"queued", "running"} for job in runs):
        runner.ensure(queue)
        return "The demo is running already."
    if queue.cache.exists() and any(job.state == "done" for job in runs):
        return "The demo has been measured before; the pages show it."
    queue.submit(STUDY, compose(PresetRequest(STUDY)), "", "", BUDGET)
    runner.ensure(queue)
    return "The demo is being measured, for 12 minutes at most; the Overview shows it live. Ctrl-C ends the pages only."


if __name__ == "__main__":
    from engine.paths import DEFAULT_CACHE

    print(begin(Queue(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_CACHE)))
