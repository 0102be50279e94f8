"""Faults from outside: code that hangs, values that are not finite, clocks that go backwards, two engines at once."""

import datetime
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from engine import patience
from engine.cache import writer
from engine.errors import StudyError
from engine.measuring.metrics import Metric
from engine.passes.plan import plan_study
from engine.passes.run import run_study
from engine.study.source import find_model
from tests.engine.helpers import PATIENCE_SECONDS, ask, parsed, start_engine, use_metrics, write_study

HERE = "tests.engine.test_faults"


class HangsAtStepTwo(DDIMScheduler):
    """Never comes back from its second step."""

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **options: Any) -> Any:
        if timestep == self.timesteps[1]:
            threading.Event().wait(PATIENCE_SECONDS)
        return super().step(model_output, timestep, sample, **options)


class HangsAtOnce(DDIMScheduler):
    """Never comes back from its first step."""

    def step(self, *args: Any, **options: Any) -> Any:
        threading.Event().wait(PATIENCE_SECONDS)


class MakesNan(DDIMScheduler):
    """Runs to its end and leaves no picture."""

    def step(self, *args: Any, **options: Any) -> Any:
        first, *others = super().step(*args, **options)
        return (first * float("nan"), *others)


def lane(name: str) -> dict[str, Any]:
    return {"key": f"{name.lower()}:4", "scheduler_class": f"{HERE}:{name}", "steps": 4}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 3.0)


def test_a_scheduler_that_hangs_in_mid_run_is_a_failed_cell_and_the_others_go_on(hasty: None, tmp_path: Path) -> None:
    study = parsed(seeds=[0, 1], lane=[lane("HangsAtStepTwo")])
    done = run_study(study, tmp_path / "c.duckdb", device="cpu")
    assert (done.done, done.failed) == (4, 2)
    errors = ask(tmp_path / "c.duckdb", "SELECT DISTINCT error FROM trajectories WHERE status = 'failed'")
    assert errors == [("TookTooLong: it took more than 3 seconds between two denoiser calls",)]


def test_a_scheduler_that_hangs_at_once_is_refused_before_anything_is_written(hasty: None, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="took more than 3 seconds"):
        run_study(parsed(lane=[lane("HangsAtOnce")]), tmp_path / "c.duckdb", device="cpu")
    assert not (tmp_path / "c.duckdb").exists()


def test_a_metric_that_hangs_is_a_reason_and_pictures_are_still_made(
    hasty: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Metric(
        "stuck", "Stuck", "", "neither", "1", lambda evidence: threading.Event().wait(PATIENCE_SECONDS), "never answers"
    )
    use_metrics(monkeypatch, stuck)
    done = run_study(parsed(lanes=["ddim:4"]), tmp_path / "c.duckdb", device="cpu")
    assert done.done == 1
    [(reason,)] = ask(tmp_path / "c.duckdb", "SELECT reason FROM scores WHERE metric = 'stuck'")
    assert "took more than 3 seconds measuring a picture" in reason


def test_latents_that_are_not_finite_are_a_failed_cell_without_pictures(tmp_path: Path) -> None:
    done = run_study(parsed(lane=[lane("MakesNan")]), tmp_path / "c.duckdb", device="cpu")
    assert (done.done, done.failed) == (2, 1)
    [(error, frames)] = ask(
        tmp_path / "c.duckdb",
        "SELECT error, (SELECT count(*) FROM frames f WHERE f.trajectory_id = t.trajectory_id) "
        "FROM trajectories t WHERE status = 'failed'",
    )
    assert "not finite" in error
    assert frames == 0


def test_a_clock_that_goes_backwards_loses_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, ticks = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).replace(tzinfo=None), itertools.count()
    monkeypatch.setattr(writer, "now", lambda: start - datetime.timedelta(hours=next(ticks)))
    study, cache = parsed(seeds=[0, 1, 2], timing={"repeats": 2, "warmup": 0}), tmp_path / "c.duckdb"
    assert run_study(study, cache, device="cpu").done == 6
    again = run_study(study, cache, device="cpu")
    assert (again.done, again.timed, again.cached) == (0, 0, 6)
    assert plan_study(study, find_model("gaussian"), cache, "cpu", "standard").nothing_to_do


def test_two_engines_on_one_cache_leave_each_cell_once(tmp_path: Path) -> None:
    study, cache = write_study(tmp_path / "a.toml", seeds=list(range(20))), tmp_path / "c.duckdb"
    both = [start_engine(tmp_path, "run", study, "--cache", cache, "--progress", "json") for _ in range(2)]
    assert [child.wait() for child in both] == [0, 0], [child.err.read_text() for child in both]
    counts = ask(cache, "SELECT count(*), count(DISTINCT trajectory_id) FROM trajectories WHERE status = 'done'")
    assert counts == [(40, 40)]
    assert ask(cache, "SELECT count(*) FROM frames WHERE kind = 'final'") == [(40,)]
    check = start_engine(tmp_path, "check", "--cache", cache)
    assert check.wait() == 0, check.out.read_text()
