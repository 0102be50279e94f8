"""Tuned schedules as files: lanes of their own, snippets for plain diffusers, and refusals by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from engine.cli import main
from engine.display.tuned_words import sentences
from engine.errors import StudyError
from engine.passes.tune_proof import TuneRequest, tune
from engine.sampling.image_pass import sample_cells
from engine.sampling.loaded import register_pipeline
from engine.sampling.models import Model, load
from engine.sharing.snippet import snippet
from engine.study.cells import cells
from engine.study.custom_schedules import CustomSchedule
from engine.study.lanes import Lane, parse_lane
from engine.study.schedulers import SCHEDULERS, Scheduler
from engine.study.source import find_model
from engine.study.study import FrameSettings, parse_study
from engine.study.tuned import TUNED, read_tuned, register_one, register_tuned, tuned_findings
from engine.tune.exporting import tuned_schedule, write_tuned
from tests.engine import family_miniatures
from tests.engine.miniatures import cells_of, picture_of

SCHEDULES = {
    "dpmpp_2m": CustomSchedule("timesteps", (999.0, 700.0, 300.0, 40.0)),
    "dpmpp_2s": CustomSchedule("timesteps", (999.0, 700.0, 300.0, 40.0)),
    "euler": CustomSchedule("sigmas", (14.6, 3.0, 0.8, 0.1, 0.0)),
    "heun": CustomSchedule("timesteps", (999.0, 700.5, 300.25, 40.0)),
}


@pytest.fixture(autouse=True)
def fresh_table(scheduler_table: dict[str, Scheduler]) -> Any:
    before = dict(TUNED)
    yield
    TUNED.clear()
    TUNED.update(before)


def tuned_on(folder: Path, model: Model, key: str, cache: Path, name: str = "mine") -> Any:
    lane = Lane(f"{key}:4", SCHEDULERS[key], 4)
    cell = cells_of(folder, ["ddim:2"], guidance_scale=5.0)[0]
    config = {**model.pipe.scheduler.config, "_class_name": type(model.pipe.scheduler).__name__}
    found = tuned_schedule(name, lane, SCHEDULES[key], cell, find_model(str(folder)), config, {"search": {}})
    return found, write_tuned(found, cache)


def pasted(text: str, **names: Any) -> Image.Image:
    """The picture that a pasted snippet makes."""
    space: dict[str, Any] = dict(names)
    exec(compile(text, "snippet.py", "exec"), space)
    picture = space["image"]
    assert isinstance(picture, Image.Image)
    return picture


@pytest.mark.parametrize("key", SCHEDULES)
def test_a_pasted_snippet_draws_what_the_lane_draws(key: str, sd_folder: Path, sd_model: Model, tmp_path: Path) -> None:
    _, files = tuned_on(sd_folder, sd_model, key, tmp_path / "c.duckdb")
    assert register_tuned(tmp_path / "c.duckdb") == []
    found = read_tuned(files[0])
    text = snippet(found, "green pear")
    assert text == files[1].read_text().replace("a photo of a lighthouse at dusk", "green pear")
    theirs = np.asarray(pasted(text)).astype(int)
    lane = cells_of(sd_folder, ["tuned_mine:4"], guidance_scale=5.0, prompts=["green pear"])
    [mine] = sample_cells(sd_model, lane, FrameSettings(count=0), 4)
    assert mine.error is None
    assert np.abs(picture_of(mine) - theirs).max() <= 2
    [other] = sample_cells(
        sd_model,
        cells_of(sd_folder, [f"{key}:4"], guidance_scale=5.0, prompts=["green pear"]),
        FrameSettings(count=0),
        4,
    )
    assert np.abs(picture_of(other) - theirs).max() > 2, "the schedule changes nothing here, so nothing was compared"


def test_sigmas_of_flows_are_written_before_the_shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the pipeline takes no list, with set_timesteps wrapped."""
    pipe: Any = family_miniatures.built("sd3")
    source = register_pipeline(pipe)
    schedule = CustomSchedule("sigmas", (1.0, 0.8, 0.4, 0.1))
    lane = Lane("flow_euler:4", SCHEDULERS["flow_euler"], 4)
    data = {"name": "s", "model": source.name, "prompts": ["owl"], "width": 64, "height": 64, "lanes": ["flow_euler:4"]}
    cell = cells(parse_study(data), source, "cpu")[0]
    config = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
    found = tuned_schedule("flow", lane, schedule, cell, source, config, {})
    register_one(found)
    study = parse_study({**data, "lanes": ["tuned_flow:4"]})
    [mine] = sample_cells(load(source, "cpu", "float32"), cells(study, source, "cpu"), FrameSettings(count=0), 2)
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda name: family_miniatures.built("sd3"))
    for wrapped in (False, True):
        text = snippet(replace(found, source="somewhere", wrapped=wrapped), "owl")
        assert ("set_timesteps" in text) == wrapped
        assert np.abs(picture_of(mine) - np.asarray(pasted(text)).astype(int)).max() <= 2


def test_the_file_is_a_lane_of_one_step_count_whose_list_is_in_the_cells_identity(
    sd_folder: Path, sd_model: Model, tmp_path: Path
) -> None:
    found, files = tuned_on(sd_folder, sd_model, "dpmpp_2m", tmp_path / "c.duckdb")
    assert read_tuned(files[0]) == found
    register_tuned(tmp_path / "c.duckdb")
    with pytest.raises(StudyError, match="tuned for 4 steps: write 'tuned_mine:4'"):
        parse_lane("tuned_mine:5")
    before = cells_of(sd_folder, ["tuned_mine:4"])[0].trajectory_id
    files[0].write_text(json.dumps({**found.spec(), "timesteps": [999, 700, 300, 41]}))
    register_tuned(tmp_path / "c.duckdb")
    assert cells_of(sd_folder, ["tuned_mine:4"])[0].trajectory_id != before


def test_another_model_is_refused_and_another_guidance_or_size_is_named(
    sd_folder: Path, sd_model: Model, tmp_path: Path
) -> None:
    found, _ = tuned_on(sd_folder, sd_model, "dpmpp_2m", tmp_path / "c.duckdb")
    register_one(found)
    with pytest.raises(StudyError, match=r"tuned_mine:4.*not 'gaussian'"):
        cells_of("gaussian", ["tuned_mine:4"])
    lanes, source = (parse_lane("tuned_mine:4"),), find_model(str(sd_folder))
    assert tuned_findings(lanes, source, 5.0, (64, 64)) == []
    [(_, finding)] = tuned_findings(lanes, source, 7.5, (64, 64))
    assert "tuned at guidance 5; at 7.5" in finding.message
    [(_, finding)] = tuned_findings(lanes, source, 5.0, (64, 128))
    assert "64 x 128 px" in finding.message


@pytest.mark.parametrize(
    "change",
    [{"format": 9}, {"steps": 5}, {"name": "other"}, {"timesteps": "all"}, {"target": "os:system"}, {"surplus": 1}],
)
def test_a_file_that_is_no_tuned_schedule_is_left_out_and_named(
    change: dict[str, Any], sd_folder: Path, sd_model: Model, tmp_path: Path
) -> None:
    found, files = tuned_on(sd_folder, sd_model, "dpmpp_2m", tmp_path / "c.duckdb")
    files[0].write_text(json.dumps({**found.spec(), **change}))
    [problem] = register_tuned(tmp_path / "c.duckdb")
    assert "mine.json" in problem
    assert "tuned_mine" not in SCHEDULERS


def test_tune_writes_a_lane_and_proves_it_on_prompts_that_the_search_has_not_seen(tmp_path: Path) -> None:
    request = TuneRequest("gaussian", steps=4, name="quick", guidance=1.0, search=3, validation=3, test=10, rounds=1)
    outcome = tune(request, tmp_path / "c.duckdb", device="cpu")
    spec = json.loads(outcome.files[0].read_text())
    test = spec["evidence"]["test"]
    assert test["baseline"] == "dpmpp_2m:8"
    assert set(test["lanes"]) >= {"dpmpp_2m:8", "tuned_quick:4", "dpmpp_2m:4", "dpmpp_2m_karras:4", "dpmpp_2m_ays:4"}
    assert test["lanes"]["tuned_quick:4"]["median"] < test["lanes"]["dpmpp_2m:4"]["median"]
    assert outcome.decision is not None
    assert outcome.decision.decision is not None
    assert outcome.decision.decision.lane is None, "no CLIP knows these patterns, so that nothing may be named"
    assert "Keep dpmpp_2m:8" in sentences(outcome.tuned)[-1]


def test_the_command_prints_the_snippet_and_lists_the_lane(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache", str(tmp_path / "c.duckdb")]
    small = ["--search", "2", "--validation", "2", "--rounds", "1", "--no-proof", "--progress", "none"]
    options = ["--model", "gaussian", "--steps", "3", "--name", "tiny", *small, *cache]
    assert main(["tune", *options]) == 0
    assert "image = pipe(" in capsys.readouterr().out
    assert main(["lint", "tuned_tiny:3", "--model", "gaussian", *cache]) == 0
    assert main(["lint", "tuned_tiny:4", "--model", "gaussian", *cache]) == 2
    assert main(["tune", *options, "--scheduler", "ddim"]) == 2
    assert "takes no list" in capsys.readouterr().err
