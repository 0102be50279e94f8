"""A cache with the times of several machines: no table pairs a time of one with a time of another."""

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler

import engine.sharing.comparison_grid as comparison
from diffusion_scheduler_visualizer import DiffusionSchedulerVisualizer
from engine.cache.connection import reading, writing
from engine.sharing.export import View, export
from engine.sharing.grid import draw_grid

PROMPT = "disc and ring"
ELSEWHERE = "GPU A"
LANES = ["euler:4", "ddim:3"]


def visualizer(cache: Path) -> DiffusionSchedulerVisualizer:
    made = DiffusionSchedulerVisualizer("gaussian", cache=cache, device="cpu", progress="none")
    made.scheduler_configs = {
        "Euler": {"scheduler_class": EulerDiscreteScheduler, "num_inference_steps": 4},
        "DDIM": {"scheduler_class": DDIMScheduler, "num_inference_steps": 3},
    }
    return made


def add_times(cache: Path, key: str, scheduler: str = "%", *, days: int = 0, batch_size: int = 1) -> None:
    """Copies the times of schedulers to another environment, as if they were taken there, so many days later."""
    with writing(cache) as db:
        db.execute(
            "INSERT OR IGNORE INTO environments SELECT * REPLACE (? AS environment_id, ? AS device_name) "
            "FROM environments LIMIT 1",
            [key, ELSEWHERE],
        )
        db.execute(
            "INSERT INTO timings SELECT * REPLACE (? AS environment_id, seconds / 1000 AS seconds, ? AS batch_size, "
            "created_at + to_days(?) AS created_at) FROM timings WHERE scheduler LIKE ? AND environment_id != ?",
            [key, batch_size, days, scheduler, key],
        )


def study_of(cache: Path) -> str:
    with reading(cache) as db:
        [(name,)] = db.execute("SELECT study_id FROM studies").fetchall()
    return str(name)


def grid_of(cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    told: dict[str, Any] = {}
    monkeypatch.setattr(comparison, "draw_grid", lambda **values: (told.update(values), draw_grid(**values))[1])
    comparison.comparison_grid(cache, study_of(cache), PROMPT, 0, "x0")
    return told


@pytest.fixture(scope="module")
def timed_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two lanes, timed here."""
    path = tmp_path_factory.mktemp("here") / "cache.duckdb"
    assert len(visualizer(path).analyze_scheduler_efficiency(PROMPT, repeats=5)) == 2
    return path


@pytest.fixture
def cache(timed_here: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copy(timed_here, tmp_path / "cache.duckdb")


@pytest.mark.parametrize("key", ["0", "z"], ids=["first by name", "last by name"])
@pytest.mark.parametrize("days", [-1, 1], ids=["timed before", "timed after"])
def test_efficiency_has_one_row_a_scheduler_all_from_the_environment_that_was_timed_last(
    cache: Path, key: str, days: int
) -> None:
    add_times(cache, key, days=days)
    add_times(cache, "other batches", days=2, batch_size=4)
    table = visualizer(cache).analyze_scheduler_efficiency(PROMPT, repeats=5)
    assert sorted(table["lane"]) == sorted(LANES)
    assert set(table["batch_size"]) == {1}
    assert (table["device_name"] == ELSEWHERE).tolist() == [days > 0] * 2
    ratio = table.set_index("lane")["median_ms"]
    assert table.set_index("lane").loc["ddim:3", "speedup"] == pytest.approx(ratio["euler:4"] / ratio["ddim:3"])


@pytest.mark.parametrize("key", ["0", "z"], ids=["first by name", "last by name"])
def test_a_grid_shows_the_times_of_one_environment_and_names_it(
    cache: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_times(cache, key, "ddim", days=-1)
    earlier = grid_of(cache, monkeypatch)
    assert ELSEWHERE not in earlier["footer"]
    assert [len(row.details) for row in earlier["rows"]] == [2, 2], "both were timed here, and later"
    add_times(cache, f"{key}{key}", "ddim", days=1)
    later = grid_of(cache, monkeypatch)
    assert ELSEWHERE in later["footer"]
    assert {row.label: len(row.details) for row in later["rows"]} == {"Euler 4": 1, "DDIM 3": 2}, "no time of Euler"


def test_the_exported_figures_tell_environments_of_one_name_apart(cache: Path, tmp_path: Path) -> None:
    """Two releases of torch on one machine have the same device name."""
    add_times(cache, "a")
    add_times(cache, "b", days=1)
    export(cache, study_of(cache), "csv", tmp_path / "figures.csv", View())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "figures.csv").read_text(encoding="utf-8"))))
    table = pd.DataFrame(rows)
    assert not table.duplicated(["lane", "metric", "environment_id", "batch_size"]).any()
    assert set(table[table["device_name"] == ELSEWHERE]["environment_id"]) == {"a", "b"}
