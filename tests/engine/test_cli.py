"""The command line: exit codes, what is computed and what is not, progress for programs, and the ends of bad runs."""

import json
import os
import re
import resource
import signal
import subprocess
import sys

import pytest

from engine.cli import main
from engine.study.schedulers import SCHEDULERS
from tests.engine.helpers import ROOT, ask, start_engine, wait_until, write_study

PLUG_IN = """
from pathlib import Path

from diffusers import EulerDiscreteScheduler


class Breaks(EulerDiscreteScheduler):
    calls = 0

    def step(self, *args, **kwargs):
        self.calls += 1
        if self.calls == 3 and Path(__file__).with_name("broken").exists():
            raise ArithmeticError("no third step")
        return super().step(*args, **kwargs)
"""


def python(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "c.duckdb"


@pytest.fixture
def run(tmp_path, cache, capsys):
    """Runs the small study with changes through the command line; returns exit code and the finished event."""

    def run(*settings, **changes):
        study = write_study(tmp_path / "study.toml", **changes)
        arguments = ["run", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "json"]
        code = main([*arguments, *(word for setting in settings for word in ("--set", setting))])
        lines = capsys.readouterr().out.splitlines()
        return code, json.loads(lines[-1]) if lines else {}

    return run


@pytest.fixture
def plug_in(tmp_path):
    """A scheduler that raises at its third step as long as a file `broken` lies beside it."""
    (tmp_path / "breaking_plug_in.py").write_text(PLUG_IN)
    (tmp_path / "broken").touch()
    lane = {"key": "breaks:5", "scheduler_class": "breaking_plug_in:Breaks"}
    yield {"plugins": ["breaking_plug_in.py"], "lane": [lane]}
    sys.modules.pop("breaking_plug_in", None)


def test_a_run_makes_all_cells_and_a_second_one_has_nothing_to_do(tmp_path, cache, capsys):
    study = str(write_study(tmp_path / "a.toml"))
    assert main(["run", study, "--cache", str(cache), "--progress", "none"]) == 0
    assert "small: 2 cells made, 0 were cached" in capsys.readouterr().out
    before = ask(cache, "SELECT trajectory_id, created_at FROM trajectories ORDER BY ALL")
    assert main(["run", study, "--cache", str(cache), "--progress", "none"]) == 0
    assert "small: nothing to do, all 2 cells are in the cache." in capsys.readouterr().out
    assert ask(cache, "SELECT trajectory_id, created_at FROM trajectories ORDER BY ALL") == before


def test_commands_that_compute_nothing_load_no_torch_and_are_quick(tmp_path, cache):
    study = str(write_study(tmp_path / "a.toml"))
    assert main(["run", study, "--cache", str(cache), "--progress", "none"]) == 0
    place = [study, "--cache", str(cache)]
    commands = [["run", *place], ["plan", *place], ["schedulers"], ["models"], ["migrate", *place[1:]]]
    code = (
        "import sys; from engine.cli import main\n"
        f"for command in {commands!r}:\n"
        "    assert main(command) == 0, command\n"
        "    assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules), command\n"
    )
    libraries, _ = processor_seconds("import duckdb, pandas, scipy.special")
    spent, done = processor_seconds(code)
    assert done.returncode == 0, done.stderr
    assert "nothing to do, all 2 cells are in the cache" in done.stdout
    assert spent < 5 * libraries, "all five take little more than loading what they read and compute with"


def processor_seconds(code):
    """Processor time, not wall time: a busy machine is no fault of ours. And what came of it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python("-c", code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def test_the_module_can_be_run_and_says_how():
    done = python("-m", "engine")
    assert done.returncode == 2
    assert "usage: python -m engine" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "a", "--device", "tpu"],
        ["run", "a", "--max-batch", "0"],
        ["run", "a", "--progress", "loud"],
        ["bench", "--repeats", "-1"],
    ],
)
def test_wrong_arguments_end_with_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_plan_tells_what_a_run_would_do_and_makes_nothing(tmp_path, cache, capsys):
    study = str(write_study(tmp_path / "a.toml"))
    assert main(["plan", study, "--cache", str(cache)]) == 0
    assert "0 cached, 2 to make (7 denoiser calls" in capsys.readouterr().out
    assert ask(cache, "SELECT count(*) FROM trajectories") == ask(cache, "SELECT count(*) FROM studies") == [(0,)]
    assert main(["run", study, "--cache", str(cache), "--progress", "none"]) == 0
    capsys.readouterr()
    assert main(["plan", study, "--cache", str(cache), "--set", "seeds=[0, 1, 2]"]) == 0
    assert "2 cached, 4 to make (14 denoiser calls" in capsys.readouterr().out
    assert main(["plan", study, "--cache", str(cache)]) == 0
    assert "Nothing to do." in capsys.readouterr().out
    assert ask(cache, "SELECT count(*) FROM trajectories") == [(2,)]


def test_plan_expects_as_many_denoiser_calls_as_a_run_counts(tmp_path, cache, capsys):
    study = str(write_study(tmp_path / "a.toml", lanes=["ddim:4", "pndm:4", "heun:4", "dpmpp_2m:4"]))
    assert main(["plan", study, "--cache", str(cache)]) == 0
    expected = int(re.search(r"\((\d+) denoiser calls", capsys.readouterr().out)[1])
    assert main(["run", study, "--cache", str(cache), "--progress", "none"]) == 0
    assert ask(cache, "SELECT sum(nfe)::INT FROM trajectories") == [(expected,)]


def test_every_scheduler_is_listed_and_can_be_shown(capsys):
    assert main(["schedulers"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert set(SCHEDULERS) <= listed
    assert main(["schedulers", "dpmpp_2m"]) == 0
    assert "DPMSolverMultistepScheduler" in capsys.readouterr().out
    assert main(["schedulers", "dpmpp2m"]) == 2
    assert "Did you mean 'dpmpp_2m'?" in capsys.readouterr().err


def test_models_are_listed_and_can_be_shown(capsys):
    assert main(["models"]) == 0
    assert {"bundled", "gaussian"} <= {line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()}
    assert main(["models", "gaussian"]) == 0
    assert "(64, 64)" in capsys.readouterr().out


def test_doctor_names_versions_device_and_models(capsys):
    code = main(["doctor"])
    out = capsys.readouterr().out
    assert code == (1 if "Missing:" in out else 0)
    for word in ("Python", "Processor", "torch", "Device", "sd15", "gaussian: ready", "Cache"):
        assert word in out


def test_progress_for_programs_is_json_line_by_line(tmp_path, cache, capsys):
    study = str(write_study(tmp_path / "a.toml", timing={"repeats": 2, "warmup": 1}))
    assert main(["run", study, "--cache", str(cache), "--progress", "json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    starts = [(e["what"], e["total"]) for e in events if e["event"] == "start"]
    assert starts[:2] == [("images", 2), ("timing", 4)]
    done = [(e["what"], e["done"]) for e in events if e["event"] == "progress" and e["what"] in {"images", "timing"}]
    assert done == [("images", 1), ("images", 2), *(("timing", number) for number in (1, 2, 3, 4))]
    assert [e["event"] for e in events].count("finished") == 1
    last = events[-1]
    assert (last["event"], last["done"], last["failed"], last["timed"]) == ("finished", 2, 0, 4)
    assert (last["study"], last["cache"]) == ("small", str(cache))


def test_only_what_is_new_is_computed(run):
    assert run()[1]["done"] == 2
    for setting, cached, done in [
        ("seeds=[0, 1]", 2, 2),
        ('prompts=["disc", "ring"]', 2, 2),
        ('lanes=["ddim:4", "euler:3", "ddim:5"]', 2, 1),
        ("guidance_scale=2.5", 0, 2),
        ("negative_prompt=ring", 0, 2),
        ("dtype=bfloat16", 0, 2),
        ("name=other", 2, 0),
        ("frames.count=1", 2, 0),
        ("frames.count=0", 2, 0),
        ('frames.kinds=["x0"]', 2, 0),
    ]:
        code, summary = run(setting)
        assert (code, summary["cached"], summary["done"]) == (0, cached, done), setting


def test_more_frames_are_computed_again_and_replace_the_old(run, cache):
    run()
    assert ask(cache, "SELECT count(*) FROM frames") == [(2 * (2 * 2 + 1),)]
    assert run("frames.count=3")[1]["done"] == 2
    assert ask(cache, "SELECT count(*) FROM frames") == [(2 * (3 * 2 + 1),)]
    assert run()[1]["done"] == 0


def test_more_repeats_take_only_the_samples_that_lack(run, cache):
    assert run("timing.repeats=1", "timing.warmup=0")[1]["timed"] == 2
    assert run("timing.repeats=3", "timing.warmup=0")[1]["timed"] == 4
    assert run("timing.repeats=2")[1]["timed"] == 0
    repeats = ask(cache, "SELECT lane, repeat FROM timings WHERE stage = 'total' ORDER BY ALL")
    assert repeats == [(lane, repeat) for lane in ("ddim:4", "euler:3") for repeat in (0, 1, 2)]


def test_a_scheduler_that_raises_fails_alone_and_is_tried_again(run, cache, plug_in, tmp_path):
    code, summary = run(seeds=[0, 1], **plug_in)
    assert (code, summary["done"], summary["failed"]) == (1, 4, 2)
    failed = ask(cache, "SELECT lane, error, nfe FROM trajectories WHERE status = 'failed'")
    assert failed == [("breaks:5", "ArithmeticError: no third step", 3)] * 2
    assert ask(cache, "SELECT DISTINCT status FROM frames JOIN trajectories USING (trajectory_id)") == [("done",)]
    before = dict(ask(cache, "SELECT trajectory_id, created_at FROM trajectories WHERE status = 'done'"))
    assert len(before) == 4
    code, summary = run(seeds=[0, 1], **plug_in)
    assert (code, summary["cached"], summary["done"], summary["failed"]) == (1, 4, 0, 2)
    (tmp_path / "broken").unlink()
    code, summary = run(seeds=[0, 1], **plug_in)
    assert (code, summary["cached"], summary["done"], summary["failed"]) == (0, 4, 2, 0)
    after = dict(ask(cache, "SELECT trajectory_id, created_at FROM trajectories WHERE status = 'done'"))
    assert len(after) == 6
    assert before.items() <= after.items()
    assert ask(cache, "SELECT count(*) FROM trajectories WHERE error IS NOT NULL") == [(0,)]


def test_a_lane_that_cannot_be_timed_is_told_of_and_the_others_are_timed(run, cache, plug_in):
    code, summary = run("timing.repeats=2", "timing.warmup=0", **plug_in)
    assert (code, summary["timed"], summary["untimed"]) == (1, 4, 1)
    assert ask(cache, "SELECT DISTINCT lane FROM timings ORDER BY ALL") == [("ddim:4",), ("euler:3",)]


def test_a_changed_plug_in_is_computed_again(run, plug_in, tmp_path):
    (tmp_path / "broken").unlink()
    assert run(**plug_in)[1]["done"] == 3
    with (tmp_path / "breaking_plug_in.py").open("a") as file:
        file.write("# changed\n")
    assert run(**plug_in)[1]["done"] == 1


@pytest.mark.parametrize(
    ("lane", "words"),
    [
        ({"key": "mine:3", "scheduler_class": "NoSuchScheduler"}, "cannot be imported"),
        ({"key": "mine:3", "scheduler_class": "json:JSONDecoder"}, "is not a diffusers scheduler"),
        ({"key": "ddim:3", "etaa": 1}, "has no setting 'etaa'"),
        ({"key": "ddim:3", "beta_schedule": "zigzag"}, "refuses its configuration"),
        ({"key": "ddim:3", "timestep_spacing": "linspace"}, "diffusers #12633"),
    ],
)
def test_a_lane_that_cannot_work_is_refused_before_anything_runs(tmp_path, cache, capsys, lane, words):
    study = str(write_study(tmp_path / "a.toml", lane=[lane]))
    assert main(["run", study, "--cache", str(cache), "--progress", "none"]) == 2
    assert words in capsys.readouterr().err
    assert not cache.exists()


def interrupt(child):
    """Ctrl-C, and once more if it goes unheard, as a person would: Python drops one that comes while it tidies up."""
    for _ in range(4):
        os.kill(child.process.pid, signal.SIGINT)
        child.process.join(6)
        if child.process.exitcode is not None:
            return


def test_ctrl_c_keeps_what_is_finished_and_the_run_goes_on_from_there(tmp_path, cache):
    study = write_study(tmp_path / "a.toml", seeds=list(range(800)), lanes=["ddim:20", "euler:15"], frames={"count": 4})
    child = start_engine(tmp_path, "run", study, "--cache", cache, "--progress", "json", "--max-batch", 8)
    wait_until(lambda: child.made() >= 20 or not child.process.is_alive(), "20 cells")
    interrupt(child)
    assert child.wait() == 130
    said = child.err.read_text()
    assert "Interrupted. Finished work is saved" in said
    assert "Traceback" not in said
    assert child.events("finished") == 0
    kept = ask(cache, "SELECT count(*) FROM trajectories WHERE status = 'done'")[0][0]
    assert 16 <= kept < 1600
    assert ask(cache, "SELECT count(*) FROM frames WHERE kind = 'final'") == [(kept,)]
    assert ask(cache, "SELECT count(*) FROM trajectories WHERE status = 'failed'") == [(0,)]
