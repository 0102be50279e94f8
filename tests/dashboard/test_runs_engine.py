"""Runs with the engine itself: what the page starts is what the command line would have run."""

import json
import time
from pathlib import Path

import pytest

from dashboard.jobs import events, queue, starting
from dashboard.jobs.form import Draft
from dashboard.jobs.queue import Job, Queue
from dashboard.options import parse
from engine.cache import queries
from engine.cache.connection import reading

PATIENCE_SECONDS = 180.0


def finish(runs: Queue) -> list[Job]:
    """Waits until nothing goes on any more."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while runs.active():
        assert time.monotonic() < deadline, [(job.study, job.state) for job in runs.jobs()]
        time.sleep(0.1)
    return runs.jobs()


@pytest.mark.slow
def test_a_started_run_makes_the_cells_of_the_form_and_a_cancelled_one_keeps_what_is_finished(tmp_path: Path) -> None:
    options = parse(["--cache", str(tmp_path / "cache.duckdb"), "--allow-runs"])
    runs = Queue(options.cache)
    small = Draft("small", "gaussian", "disc\nring", (("ddim", "4"), ("euler", "3")), "0", 1.5, repeats=1)
    endless = Draft("endless", "gaussian", "disc", (("ddim", "2, 500"),), "0-19", 1.5, repeats=1000)
    planned = starting.plan(options, small)
    assert "2 lanes x 2 prompts x 1 seeds" in planned.text
    starting.start(options, planned)
    starting.start(options, starting.plan(options, endless))
    deadline = time.monotonic() + PATIENCE_SECONDS
    log = runs.folder / "000002" / "log.jsonl"
    while events.read(queue.log_lines(log)).done < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    starting.cancel(options, "000002")
    cancelled, done = finish(runs)
    assert (done.study, done.state, done.outcome["exit_code"]) == ("small", "done", 0)
    assert done.outcome["summary"]["done"] == 4
    assert done.outcome["facts"]["device_name"]
    assert (cancelled.study, cancelled.state) == ("endless", "cancelled")
    first = json.loads((runs.folder / "000001" / "log.jsonl").read_text().splitlines()[0])
    assert (first["event"], first["cells"], first["missing"]) == ("begin", 4, 4)
    with reading(options.cache) as db:
        assert queries.progress(db, "small") == (4, 0, 0, 2)
        made, failed, missing, _ = queries.progress(db, "endless")
        stored = len(queries.cells(db, "endless"))
    assert (failed, made + missing) == (0, 40)
    assert stored == made > 0
