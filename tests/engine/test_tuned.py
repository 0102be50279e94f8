"""Tuned schedules as files: lanes of their own, snippets for plain diffusers, and refusals by name."""

import html
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from diffusion_scheduler_visualizer import DiffusionSchedulerVisualizer
from engine.cache.stored_study import read_stored_study
from engine.cli import main
from engine.display.tuned_words import sentences
from engine.errors import StudyError
from engine.passes.tune_proof import TuneRequest, tune
from engine.sampling.cell_maker import Sample
from engine.sampling.image_pass import sample_cells
from engine.sampling.lint import lint_lane
from engine.sampling.loaded import register_pipeline
from engine.sampling.models import Model, load
from engine.sharing.snippet import snippet
from engine.sharing.study_file import study_toml
from engine.study.cells import cells
from engine.study.custom_schedules import CustomSchedule
from engine.study.frame_settings import FrameSettings
from engine.study.lanes import Lane, check_lane, parse_lane
from engine.study.schedulers import SCHEDULERS
from engine.study.source import find_model
from engine.study.study import parse_study
from engine.study.tuned import read_tuned, register_one, register_tuned, tuned_findings
from engine.tune.exporting import tuned_schedule, write_tuned
from tests.engine import family_miniatures
from tests.engine.miniatures import cells_of, picture_of

SCHEDULES = {
    "dpmpp_2m": CustomSchedule("timesteps", (999.0, 700.0, 300.0, 40.0)),
    "dpmpp_2s": CustomSchedule("timesteps", (999.0, 700.0, 300.0, 40.0)),
    "euler": CustomSchedule("sigmas", (14.6, 3.0, 0.8, 0.1, 0.0)),
    "heun": CustomSchedule("timesteps", (999.0, 700.5, 300.25, 40.0)),
    "flow_euler": CustomSchedule("sigmas", (1.0, 0.8, 0.4, 0.1)),
}
ROWS = ((0.02, 0.03, 0.0), (-0.01, 0.1, -0.08), (0.01, 0.05, -0.04), (0.0, 0.1, -0.05))
FITTED = replace(SCHEDULES["dpmpp_2m"], coefficients=ROWS)


pytestmark = pytest.mark.usefixtures("scheduler_table")


def tuned_on(
    folder: Path, model: Model, key: str, cache: Path, name: str = "mine", schedule: CustomSchedule | None = None
) -> Any:
    lane = Lane(f"{key}:4", SCHEDULERS[key], 4)
    cell = cells_of(folder, ["ddim:2"], guidance_scale=5.0)[0]
    config = {**model.pipe.scheduler.config, "_class_name": type(model.pipe.scheduler).__name__}
    found = tuned_schedule(
        name, lane, schedule or SCHEDULES[key], cell, find_model(str(folder)), config, {"search": {}}
    )
    return found, write_tuned(found, cache)


def in_order(samples: Iterable[Sample]) -> list[Sample]:
    """Samples as they finish: the tuned lane first."""
    return sorted(samples, key=lambda sample: sample.cell.lane.schedule is None)


def pasted(text: str, **names: Any) -> Image.Image:
    """The picture that a pasted snippet makes."""
    space: dict[str, Any] = dict(names)
    exec(compile(text, "snippet.py", "exec"), space)
    picture = space["image"]
    assert isinstance(picture, Image.Image)
    return picture


@pytest.mark.parametrize("key", ["dpmpp_2m", "dpmpp_2s", "euler", "heun"])
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


def test_snippets_run_as_plain_scripts_without_this_project(
    sd_folder: Path, sd_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_folder, cache = tmp_path / "sd3", tmp_path / "c.duckdb"
    family_miniatures.built("sd3").save_pretrained(flow_folder)
    flow_model = load(find_model(str(flow_folder)), "cpu", "float32")
    runs = {"dpmpp_2m": (sd_folder, sd_model), "euler": (sd_folder, sd_model), "flow_euler": (flow_folder, flow_model)}
    files = {key: tuned_on(folder, model, key, cache, key)[1][1] for key, (folder, model) in runs.items()}
    files["fitted"] = tuned_on(sd_folder, sd_model, "dpmpp_2m", cache, "fitted", FITTED)[1][1]
    assert register_tuned(cache) == []
    script = (
        "import runpy, sys\n"
        "for file in sys.argv[1:]: runpy.run_path(file)['image'].save(file + '.png')\n"
        "assert 'engine' not in sys.modules"
    )
    monkeypatch.delenv("PYTHONPATH", raising=False)
    subprocess.run([sys.executable, "-c", script, *map(str, files.values())], cwd=tmp_path, check=True, timeout=300)
    for key, (folder, model) in runs.items():
        drawn = np.asarray(Image.open(f"{files[key]}.png")).astype(int)
        prompts = ["a photo of a lighthouse at dusk"]
        cells = cells_of(folder, [f"tuned_{key}:4", f"{key}:4"], guidance_scale=5.0, prompts=prompts)
        mine, plain = (picture_of(each) for each in in_order(sample_cells(model, cells, FrameSettings(count=0), 4)))
        assert np.abs(mine - drawn).max() <= 2, key
        assert np.abs(plain - drawn).max() > 2, "the schedule changes nothing here, so nothing was compared"
    cells = cells_of(sd_folder, ["tuned_fitted:4"], guidance_scale=5.0, prompts=prompts)
    [mine] = sample_cells(sd_model, cells, FrameSettings(count=0), 4)
    with_them, without = (np.asarray(Image.open(f"{files[key]}.png")).astype(int) for key in ("fitted", "dpmpp_2m"))
    assert mine.nfe == 4
    assert np.abs(picture_of(mine) - with_them).max() <= 2
    assert np.abs(without - with_them).max() > 2, "the coefficients change nothing here, so nothing was compared"


def test_coefficients_are_part_of_the_lane_wherever_it_goes(
    sd_folder: Path, sd_model: Model, tmp_path: Path, scheduler_table: dict[str, Any]
) -> None:
    """Of a cell's identity, of the file, of the stored study even where the file isn't; the levels stay the list's."""
    found, files = tuned_on(sd_folder, sd_model, "dpmpp_2m", tmp_path / "c.duckdb", schedule=FITTED)
    assert read_tuned(files[0]) == found
    register_one(found)
    with_them = cells_of(sd_folder, ["tuned_mine:4"])[0]
    register_one(replace(found, schedule=FITTED.plain))
    assert cells_of(sd_folder, ["tuned_mine:4"])[0].config_id != with_them.config_id

    config = find_model(str(sd_folder)).scheduler_config
    lints = [lint_lane(replace(with_them.lane, schedule=each), config) for each in (FITTED, FITTED.plain)]
    assert lints[0].probe == lints[1].probe
    assert {"fitted"} == {each.code for each in lints[0].findings} - {each.code for each in lints[1].findings}

    register_one(found)
    study = parse_study({"name": "s", "model": str(sd_folder), "prompts": ["x"], "lanes": ["tuned_mine:4"]})
    spec = read_stored_study(json.dumps(study.spec()), "s")
    del scheduler_table["tuned_mine"]
    [lane] = parse_study(tomllib.loads(study_toml(spec))).lanes
    assert lane.schedule == FITTED
    wrong = replace(with_them.lane, schedule=replace(FITTED, coefficients=ROWS[:3]))
    assert "no_coefficients" in {finding.code for finding in check_lane(wrong, config)}


def test_sigmas_of_flows_are_written_before_the_shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the pipeline takes no list, with set_timesteps wrapped."""
    pipe: Any = family_miniatures.built("sd3")
    source = register_pipeline(pipe)
    schedule = SCHEDULES["flow_euler"]
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
    with pytest.raises(StudyError, match="was tuned as it is"):
        parse_study({"name": "s", "prompts": ["owl"], "lane": [{"key": "mine:4", "scheduler": "tuned_mine"}]})
    with pytest.raises(StudyError, match="was tuned as it is"):
        parse_study({"name": "s", "prompts": ["owl"], "lane": [{"key": "tuned_mine:4", "solver_order": 3}]})
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
    assert tuned_findings(lanes, source, 5.0, "", (64, 64)) == []
    [(_, finding)] = tuned_findings(lanes, source, 7.5, "", (64, 64))
    assert "tuned at guidance 5; at 7.5" in finding.message
    [(_, finding)] = tuned_findings(lanes, source, 5.0, "blurry", (64, 64))
    assert "tuned with no negative prompt; with negative prompt 'blurry'" in finding.message
    [(_, finding)] = tuned_findings(lanes, source, 5.0, "", (64, 128))
    assert "64 x 128 px" in finding.message


def test_commands_refuse_another_model_or_step_count_and_warn_of_another_guidance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, file = ["--cache", str(tmp_path / "c.duckdb")], tmp_path / "s.toml"
    small = ["--search", "2", "--validation", "2", "--rounds", "1", "--no-proof", "--progress", "none"]
    tuning = ["--model", "gaussian", "--steps", "3", "--name", "tiny", "--guidance", "4", *small]
    tuning += ["--negative-prompt", "ring"]
    assert main(["tune", *tuning, *cache]) == 0

    def said(command: list[str], code: int, **changes: Any) -> str:
        study = {"name": "s", "model": "gaussian", "prompts": ["disc"], "guidance_scale": 4, **changes}
        study = {"negative_prompt": "ring", **study}
        study = {"lanes": ["ddim:3", "tuned_tiny:3"], **study}
        file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in study.items()))
        capsys.readouterr()
        assert main([*command, *cache]) == code
        shown = capsys.readouterr()
        return shown.out + shown.err

    quick, toml = ["--set", "timing.repeats=0"], str(file)
    commands = {
        "lint": ["lint", toml],
        "plan": ["plan", toml],
        "run": ["run", toml, "--progress", "json", *quick],
        "decide": ["decide", toml, "--progress", "json", *quick],
    }
    for name, command in commands.items():
        assert "tuned for model 'gaussian', not 'bundled'" in said(command, 2, model="bundled"), name
        assert "tuned for 3 steps: write 'tuned_tiny:3'" in said(command, 2, lanes=["ddim:3", "tuned_tiny:4"]), name
    for name, code in {"lint": 0, "plan": 0, "run": 0, "decide": 3}.items():
        assert "was tuned at guidance 4; at 7 another" in said(commands[name], code, guidance_scale=7), name
        words = said(commands[name], code, negative_prompt="disc")
        assert "was tuned with negative prompt 'ring'; with negative prompt 'disc' another" in words, name
    for name in ("lint", "plan"):
        assert "was tuned" not in said(commands[name], 0), name
    alone = ["lint", "tuned_tiny:3", "--model"]
    assert "was tuned" not in said([*alone, "gaussian"], 0)
    assert "at 7 another" in said([*alone, "gaussian", "--set", "guidance_scale=7"], 0)
    assert "not 'bundled'" in said([*alone, "bundled"], 2)


def test_the_python_face_takes_a_tuned_lane_as_it_is_and_tells_what_it_was_tuned_for(tmp_path: Path) -> None:
    cache, source = tmp_path / "c.duckdb", find_model("gaussian")
    cell = cells_of("gaussian", ["ddim:2"], guidance_scale=4.0, negative_prompt="ring")[0]
    lane = Lane("dpmpp_2m:4", SCHEDULERS["dpmpp_2m"], 4)
    found = tuned_schedule("mine", lane, SCHEDULES["dpmpp_2m"], cell, source, source.scheduler_config, {})
    write_tuned(found, cache)
    face = DiffusionSchedulerVisualizer("gaussian", cache=cache, device="cpu", progress="none", guidance_scale=4)
    mine = {"scheduler_class": "tuned_mine", "num_inference_steps": 4, "description": "few"}
    face.scheduler_configs = {"DDIM": {"scheduler_class": "ddim", "num_inference_steps": 3}, "Mine": mine}
    table = face.analyze_scheduler_efficiency("disc", repeats=1).set_index("scheduler")
    conditions = "tuned for gaussian, guidance 4, 64 x 64 px, 4 steps, negative prompt 'ring'"
    assert (table["lane"]["Mine"], table["description"]["Mine"]) == ("tuned_mine:4", f"few; {conditions}")
    assert table["description"]["DDIM"] == ""
    shown = html.unescape(html.unescape(face._repr_html_()))
    assert f"DPM++ 2M tuned (mine) 4: few; {conditions}." in shown
    for change, words in [({"num_inference_steps": 5}, "write 'tuned_mine:4'"), ({"config": {"x": 1}}, "as it is")]:
        face.scheduler_configs["Mine"] = {**mine, **change}
        with pytest.raises(StudyError, match=words):
            face.analyze_scheduler_efficiency("disc", repeats=1)


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
    assert all(row["milliseconds"]["value"] > 0 and row["cost"]["value"] > 0 for row in test["lanes"].values())
    assert test["lanes"]["dpmpp_2m:8"]["cost"]["value"] == 1
    assert set(test["classes"]) == {"Two patterns", "Three patterns", "Four patterns"}
    assert sum(found["n"] for found in test["classes"].values()) == test["n"] == 10
    assert all(found["best_known"] == test["best_known"] for found in test["classes"].values() if found["n"] > 1)
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
    assert main(["tune", *options, "--scheduler", "euler"]) == 2
    assert "tuned for dpmpp_2m on gaussian" in capsys.readouterr().err
    assert main(["tune", *options, "--name", "other", "--scheduler", "euler", "--coefficients"]) == 2
    assert "fitted for DPM++ multistep solvers such as dpmpp_2m, not for 'euler'" in capsys.readouterr().err
