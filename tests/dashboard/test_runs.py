"""The queue of runs: order, cancelling, and what becomes of it when processes are killed.

In the engine's place a small script writes the engine's events; `test_runs_engine.py` has the engine itself.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dashboard.jobs import events, form, queue, runner
from dashboard.jobs.queue import Queue, QueueError
from engine.errors import StudyError

PATIENCE_SECONDS = 30.0
# What the script does is in the study file: its first word, and a folder it writes to.
STAND_IN = """
import json, os, signal, sys, time
study, what = sys.argv[1], open(sys.argv[1]).read().split()[0]
def say(**event):
    print(json.dumps(event), flush=True)
say(event="begin", study="s", device_name="Example CPU", dtype="float32")
say(event="start", what="images", total=4, unit="cells")
say(event="progress", what="images", done=1, total=4, seconds_left=3.0)
if what == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    while what in ("stubborn", "long") and not os.path.exists(study + ".go"):
        time.sleep(0.02)
except KeyboardInterrupt:
    sys.exit(130)
if what == "crash":
    sys.exit("Traceback: it crashed")
if what == "refuse":
    print("error: bad study", file=sys.stderr)
    sys.exit(2)
say(event="finished", done=4, failed=int(what == "fail"), cached=0, study="s")
sys.exit(what == "fail")
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    """A queue whose engine is the stand-in; what is left of it is ended afterwards."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(
        runner, "engine_command", lambda job, cache: [sys.executable, str(script), str(job.folder / "study.toml")]
    )
    found = Queue(tmp_path / "cache.duckdb")
    yield found
    for job in found.jobs():
        (job.folder / "study.toml.go").touch()


def work(runs: Queue) -> threading.Thread:
    thread = threading.Thread(target=runner.work, args=(runs,), daemon=True)
    thread.start()
    return thread


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def states(runs: Queue) -> list[str]:
    return [job.state for job in reversed(runs.jobs())]


def said(job: queue.Job) -> events.Log:
    return events.read(queue.log_lines(job.folder / "log.jsonl"))


def test_runs_go_on_one_at_a_time_in_the_order_they_were_asked_for(runs: Queue) -> None:
    for name in ("a", "b", "c"):
        runs.submit(name, "long", "the plan", "ann")
    working = work(runs)
    for place, name in enumerate(("a", "b", "c")):
        wait_until(lambda place=place: states(runs)[place] == "running")
        assert [job.study for job in runs.jobs() if job.state == "running"] == [name]
        assert states(runs) == ["done"] * place + ["running"] + ["queued"] * (2 - place)
        (runs.job(f"{place + 1:06d}").folder / "study.toml.go").touch()
    working.join(PATIENCE_SECONDS)
    assert states(runs) == ["done"] * 3
    assert all(job.by == "ann" and job.plan == "the plan" and job.seconds is not None for job in runs.jobs())
    assert runs.active() == []
    begun = [job.started_at for job in reversed(runs.jobs())]
    ended = [job.ended_at for job in reversed(runs.jobs())]
    assert all(first <= second for first, second in zip(ended, begun[1:], strict=False) if first and second)


@pytest.mark.parametrize(
    ("what", "state", "code"),
    [("fine", "done", 0), ("fail", "failed", 1), ("refuse", "refused", 2), ("crash", "failed", 1)],
)
def test_the_outcome_tells_how_a_run_ended(runs: Queue, what: str, state: str, code: int) -> None:
    runs.submit("s", what, "", "")
    runner.work(runs)
    (job,) = runs.jobs()
    assert (job.state, job.outcome["exit_code"]) == (state, code)
    assert job.outcome["facts"]["device_name"] == "Example CPU"
    assert ((job.outcome["summary"] or {}).get("done") == 4) is (what in {"fine", "fail"})
    if what == "refuse":
        assert queue.log_lines(job.folder / "errors.log") == ["error: bad study"]


def test_an_engine_that_cannot_be_started_is_a_failed_run(runs: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "engine_command", lambda job, cache: ["/nowhere/python"])
    runs.submit("s", "fine", "", "")
    runner.work(runs)
    (job,) = runs.jobs()
    assert job.state == "failed"
    assert "could not be started" in queue.log_lines(job.folder / "errors.log")[0]


def test_a_running_run_is_interrupted_and_a_waiting_one_taken_out(runs: Queue) -> None:
    for name in ("first", "second", "third"):
        runs.submit(name, "long", "", "")
    working = work(runs)
    wait_until(lambda: said(runs.job("000001")).done == 1)
    runs.cancel("000002", "ann")
    assert states(runs) == ["running", "cancelled", "queued"]
    runs.cancel("000001", "ann")
    wait_until(lambda: states(runs)[2] == "running")
    assert states(runs)[:2] == ["cancelled", "cancelled"]
    assert runs.job("000001").outcome["exit_code"] == 130
    assert [job.number for job in runs.active()] == ["000003"]
    for number in ("000001", "000002"):
        with pytest.raises(QueueError, match="has ended"):
            runs.cancel(number, "ann")
    (runs.job("000003").folder / "study.toml.go").touch()
    working.join(PATIENCE_SECONDS)
    assert states(runs)[2] == "done"


def test_an_engine_that_ignores_the_interrupt_is_killed(runs: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.3)
    runs.submit("s", "stubborn", "", "")
    working = work(runs)
    wait_until(lambda: said(runs.job("000001")).done == 1)
    runs.cancel("000001", "")
    working.join(PATIENCE_SECONDS)
    (job,) = runs.jobs()
    assert (job.state, job.outcome["exit_code"]) == ("cancelled", -signal.SIGKILL)


def test_of_two_runners_only_one_works(runs: Queue) -> None:
    runs.submit("s", "long", "", "")
    working = work(runs)
    wait_until(lambda: states(runs) == ["running"])
    assert runs.is_held("runner")
    assert runs.is_held("engine")
    started = time.monotonic()
    runner.work(runs)  # gives up
    assert time.monotonic() - started < 10
    assert states(runs) == ["running"]
    (runs.job("000001").folder / "study.toml.go").touch()
    working.join(PATIENCE_SECONDS)
    assert states(runs) == ["done"]
    assert not runs.is_held("runner")
    assert not runs.is_held("engine")


def _runner_process(runs: Queue, tmp_path: Path) -> "subprocess.Popen[bytes]":
    """A runner in a process of its own, to be killed."""
    code = (
        "import sys; from pathlib import Path\n"
        "from dashboard.jobs import runner; from dashboard.jobs.queue import Queue\n"
        f"runner.engine_command = lambda job, cache: [sys.executable, {str(tmp_path / 'stand_in.py')!r}, "
        "str(job.folder / 'study.toml')]\n"
        f"runner.work(Queue(Path({str(runs.cache)!r})))"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2])


@pytest.mark.parametrize("ending", ["finishes", "is killed", "is cancelled"])
def test_the_run_of_a_killed_runner_is_waited_for_before_the_next_begins(
    runs: Queue, tmp_path: Path, ending: str
) -> None:
    runs.submit("first", "long", "", "")
    runs.submit("second", "fine", "", "")
    process = _runner_process(runs, tmp_path)
    wait_until(lambda: "pid" in queue.read_json(runs.folder / "000001" / "running.json"))
    wait_until(lambda: said(runs.job("000001")).done == 1)
    process.kill()
    process.wait()
    assert not runs.is_held("runner")
    assert runs.is_held("engine")
    working = work(runs)
    wait_until(lambda: runs.is_held("runner"))
    time.sleep(3 * runner.POLL_SECONDS)
    assert states(runs) == ["running", "queued"]
    engine = queue.read_json(runs.folder / "000001" / "running.json")["pid"]
    if ending == "finishes":
        (runs.job("000001").folder / "study.toml.go").touch()
    elif ending == "is killed":
        os.kill(engine, signal.SIGKILL)
    else:
        runs.cancel("000001", "")
    working.join(PATIENCE_SECONDS)
    assert states(runs) == [{"finishes": "done", "is killed": "lost", "is cancelled": "cancelled"}[ending], "done"]
    assert not psutil.pid_exists(engine) or psutil.Process(engine).status() == psutil.STATUS_ZOMBIE


def test_a_process_number_that_was_given_again_is_not_signalled(runs: Queue) -> None:
    runs.submit("s", "long", "", "")
    running = {"started_at": queue.stamp(), "pid": os.getpid(), "process_began": 1.0}  # this very process, as if later
    queue.write_json(runs.folder / "000001" / "running.json", running)
    runs.cancel("000001", "")
    runner.work(runs)
    assert states(runs) == ["cancelled"]


def test_damaged_folders_are_left_out_and_numbers_go_on(runs: Queue) -> None:
    runs.submit("s", "fine", "", "")
    for name, text in [("000002", ""), ("000003", "[]"), ("000004", '{"asked_at": 5}')]:
        (runs.folder / name).mkdir()
        (runs.folder / name / "job.json").write_text(text)
    assert [job.number for job in runs.jobs()] == ["000001"]
    with pytest.raises(QueueError, match="There is no run"):
        runs.job("../000001")
    with pytest.raises(QueueError, match="There is no run"):
        runs.cancel("000004", "")
    job = runs.submit("s", "fine", "", "")
    assert job.number == "000005"
    runner.work(runs)
    assert [job.state for job in runs.jobs()] == ["done", "done"]


def test_the_queue_takes_no_more_than_it_should_and_forgets_the_oldest(
    runs: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "KEPT", 2)
    for _ in range(queue.MOST_QUEUED):
        runs.submit("s", "fine", "", "")
    with pytest.raises(QueueError, match="waiting already"):
        runs.submit("s", "fine", "", "")
    for job in runs.jobs()[1:]:
        runs.cancel(job.number, "")
    runs.submit("s", "fine", "", "")
    assert [(job.number, job.state) for job in runs.jobs()] == [
        ("000021", "queued"),
        ("000020", "queued"),
        ("000019", "cancelled"),
        ("000018", "cancelled"),
    ]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache.duckdb.runs").write_text("a file")
    with pytest.raises(QueueError, match="cannot be queued"):
        Queue(tmp_path / "cache.duckdb").submit("s", "fine", "", "")
    assert Queue(tmp_path / "cache.duckdb").jobs() == []


def test_a_log_is_read_whatever_stands_in_it(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    filler = [json.dumps({"event": "note", "text": "x" * 1000}) for _ in range(300)]
    lines = [
        '{"event": "begin", "device_name": "CPU"}',
        "not JSON",
        "[1]",
        '{"event": 3}',
        *filler,
        '{"event": "start", "what": "timing", "total": 8, "unit": "samples"}',
        '{"event": "progress", "what": "timing", "done": 2, "total": 8, "seconds_left": 6.5}',
        '{"event": "prog',
    ]
    file.write_text("\n".join(lines))
    log = events.read(queue.log_lines(file))
    assert log.facts["device_name"] == "CPU"
    assert (log.what, log.done, log.total, log.unit, log.seconds_left) == ("Times", 2, 8, "samples", 6.5)
    assert log.summary is None
    assert len(queue.log_lines(file)) < len(lines)
    assert events.read([]) == events.Log()


NOWHERE = Path("nowhere.duckdb")
DRAFT = form.Draft("mine", "gaussian", "disc\n\n ring ", (("ddim", "4, 8"), ("euler", "3")), "0-2, 7", 1.5)


def test_a_form_becomes_the_study_it_describes() -> None:
    study = form.check(form.compose(DRAFT), NOWHERE)
    assert [lane.key for lane in study.lanes] == ["ddim:4", "ddim:8", "euler:3"]
    assert (study.prompts, study.seeds, study.baseline) == (("disc", "ring"), (0, 1, 2, 7), "ddim:4")
    assert (study.name, study.model, study.guidance_scale, study.timing.repeats) == ("mine", "gaussian", 1.5, 5)


def test_any_text_survives_the_way_through_the_study_file() -> None:
    odd = 'a "quote" \\ back # hash = [x] \x7f \u2028 \U0001f600 \t tab <script>'
    study = form.check(
        form.compose(form.Draft("mine", "gaussian", odd, (("ddim", "4"),), "0", 1.5, negative_prompt=odd)), NOWHERE
    )
    assert study.prompts == tuple(line.strip() for line in odd.splitlines())
    assert study.negative_prompt == odd


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a b"}, "'name'"),
        ({"name": ""}, "'name'"),
        ({"prompts": "  \n"}, "prompts"),
        ({"prompts": "x\nx"}, "twice"),
        ({"seeds": "one"}, "Seeds: 'one'"),
        ({"seeds": "5-1"}, "Seeds"),
        ({"seeds": "0-99999"}, "at most"),
        ({"seeds": "1, 1"}, "twice"),
        ({"lanes": ()}, "lanes"),
        ({"lanes": (("ddim", "0"),)}, "from 1 to 1000"),
        ({"lanes": (("ddim", ""),)}, "Steps of ddim"),
        ({"lanes": (("dimm", "5"),)}, "Did you mean 'ddim'"),
        ({"baseline": "pndm:5"}, "not one of the lanes"),
        ({"guidance": 1000.0}, "guidance_scale"),
        ({"prompts": "\ud800"}, "surrogate"),
        ({"prompts": "x" * 30_000}, "at most"),
        ({"repeats": -1}, "repeats"),
    ],
)
def test_what_is_wrong_with_a_form_is_said(changes: dict[str, object], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        form.check(form.compose(form.Draft(**{**vars(DRAFT), **changes})), NOWHERE)


def test_a_preset_is_taken_as_it_is_and_no_other_file() -> None:
    assert form.check(form.compose(form.PresetRequest("quickstart")), NOWHERE).name == "quickstart"
    for name in ("nope", "../../etc/passwd", "/etc/passwd"):
        with pytest.raises(StudyError, match="No preset"):
            form.compose(form.PresetRequest(name))
