"""What would fail cell by cell is refused by name before anything is written."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from engine.errors import StudyError
from engine.passes.run import run_study
from engine.sampling.building import build_scheduler
from engine.sampling.dry_run import check_arguments, dry_run
from engine.sampling.lint import lint_lane
from engine.sampling.models import Model
from engine.sampling.standins import with_parts
from engine.study.families import FAMILIES
from engine.study.lanes import check_lane, fitting_lanes, parse_lane
from engine.study.reading import Table
from engine.study.reference import fitting_reference, read_reference
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.engine.helpers import parsed
from tests.engine.miniatures import FAILING, SD_SCHEDULER, cells_of

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 1000}
DYNAMIC = FLOW | {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
NO_SIGNAL = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
ZERO_SNR = SD_SCHEDULER | NO_SIGNAL


def test_a_lane_that_fails_on_its_hundredth_call_is_known_before_the_first(gaussian_model: Model) -> None:
    """DPM++ 2M Karras on a noise schedule that ends without signal (diffusers #12771)."""
    cells = cells_of("gaussian", ["ddim:4", "dpmpp_2m_karras:100"])
    plain = {each.lane: each.error for each in dry_run(gaussian_model.pipe, cells)}
    assert plain == {"ddim:4": None, "dpmpp_2m_karras:100": None}
    scheduler = diffusers.PNDMScheduler.from_config(SD_SCHEDULER)
    scheduler.register_to_config(**NO_SIGNAL)
    tried = {each.lane: each for each in dry_run(with_parts(gaussian_model.pipe, scheduler=scheduler), cells)}
    assert (tried["ddim:4"].error, tried["ddim:4"].calls) == (None, 4)
    assert "IndexError" in str(tried["dpmpp_2m_karras:100"].error)


def test_schedulers_of_a_plug_in_are_tried_for_one_step(gaussian_model: Model) -> None:
    [tried] = dry_run(gaussian_model.pipe, cells_of("gaussian", [FAILING]))
    assert (tried.error, tried.calls) == (None, 1)


def test_an_argument_that_the_pipeline_does_not_take_is_refused(gaussian_model: Model) -> None:
    cells = cells_of("gaussian", ["ddim:4"], pipeline={"clip_skp": 1})
    with pytest.raises(StudyError, match=r"takes no 'clip_skp'.*clip_skip"):
        check_arguments(gaussian_model.pipe, cells)


def test_a_refusal_of_the_pipeline_ends_a_run_before_anything_is_written(tmp_path: Path) -> None:
    study = parsed(lanes=["ddim:4", "euler:4"], width=60 * 8, height=64, pipeline={"clip_skip": "many"})
    with pytest.raises(StudyError, match=r"Lane 'ddim:4': StableDiffusionPipeline refuses it") as caught:
        run_study(study, tmp_path / "c.duckdb", device="cpu")
    assert "euler:4" in str(caught.value)
    assert not (tmp_path / "c.duckdb").exists()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"prompt": "owl"}, "set elsewhere in a study: prompts"),
        ({"output_type": "pt"}, "set by the lab itself"),
        ({"image": "no_such.png"}, "cannot be read"),
        ({"eta": float("nan")}, "finite numbers"),
    ],
)
def test_a_pipeline_table_that_makes_no_sense_is_refused(table: dict[str, Any], told: str) -> None:
    with pytest.raises(StudyError, match=told):
        parsed(pipeline=table)


def test_further_arguments_are_part_of_a_cells_identity_and_others_leave_it() -> None:
    [plain] = cells_of("gaussian", ["ddim:4"])
    [skipping] = cells_of("gaussian", ["ddim:4"], pipeline={"clip_skip": 1})
    [again] = cells_of("gaussian", ["ddim:4"], pipeline={"clip_skip": 1})
    assert plain.trajectory_id != skipping.trajectory_id == again.trajectory_id
    assert "pipeline" not in parsed().spec()
    assert parsed(pipeline={"clip_skip": 1}).spec()["pipeline"] == {"clip_skip": 1}


@pytest.mark.parametrize(
    ("family", "config", "refused", "fit"),
    [
        ("flux_schnell", FLOW, "dpmpp_2m", "unipc, flow_euler"),
        ("z_image", FLOW, "unipc", "flow_euler"),
        ("mochi", FLOW, "unipc", "flow_euler"),
        ("sd3", FLOW, "ddim", "dpmpp_2m, dpmpp_2s, deis, unipc, sa_solver, flow_euler, flow_heun"),
        ("sd", SD_SCHEDULER, "flow_euler", "ddim, ddpm, pndm"),
        ("sdxl", {"_class_name": "EDMDPMSolverMultistepScheduler"}, "dpmpp_2m", "edm_euler, edm_dpmpp_2m"),
        ("cogvideox", {"_class_name": "CogVideoXDDIMScheduler"}, "ddim", "cogvideox_ddim, cogvideox_dpm"),
        ("svd", {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "ddim", "euler_continuous"),
    ],
)
def test_solvers_that_do_not_suit_a_model_are_refused_with_those_that_do(
    family: str, config: dict[str, Any], refused: str, fit: str
) -> None:
    errors = [f for f in check_lane(parse_lane(f"{refused}:8"), config, FAMILIES[family]) if f.severity == "error"]
    assert f"Those that fit: {fit}" in errors[0].message


@pytest.mark.parametrize(("family", "config"), [("sd3", FLOW), ("flux", DYNAMIC), ("wan", FLOW)])
def test_solvers_of_flows_need_no_further_words(family: str, config: dict[str, Any]) -> None:
    for text in ("dpmpp_2m:8", "unipc:8", "flow_euler:8"):
        assert check_lane(parse_lane(text), config, FAMILIES[family]) == []
        lint = lint_lane(parse_lane(text), config)
        assert lint.probe is not None
        assert [finding for finding in lint.findings if finding.severity == "error"] == []


def test_a_star_stands_for_every_scheduler_that_suits_the_model() -> None:
    plain = {"name": "all", "model": "gaussian", "prompts": ["disc"], "lanes": ["euler:20", "*:20"]}
    lanes = [lane.key for lane in parse_study(plain).lanes]
    assert lanes[0] == "euler:20"
    assert len(lanes) == len(set(lanes)) == 19
    assert not {"lcm:20", "flow_euler:20", "edm_euler:20"} & set(lanes)
    assert [lane.key for lane in fitting_lanes(FLOW, FAMILIES["mochi"], 8)] == ["flow_euler:8"]


@pytest.mark.parametrize(
    "more",
    [
        {"beta_schedule": "squaredcos_cap_v2"},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"prediction_type": "sample"},
    ],
    ids=lambda more: next(iter(more)),
)
@pytest.mark.parametrize("steps", [2, 5, 24])
def test_what_a_star_stands_for_runs_to_its_end_on_unusual_noise_schedules(more: dict[str, Any], steps: int) -> None:
    """diffusers #12771, #6024: levels that run out, schedules that are ignored, predictions that cannot be read."""
    config = SD_SCHEDULER | more
    lanes = fitting_lanes(config, FAMILIES["sd"], steps)
    assert len(lanes) >= 8
    for lane in lanes:
        scheduler = build_scheduler(lane, config)
        scheduler.set_timesteps(steps)
        latents = torch.ones(1, 4, 2, 2)
        for timestep in scheduler.timesteps:
            said = 0 * scheduler.scale_model_input(latents, timestep)
            latents = scheduler.step(said, timestep, latents)[0]
    for key in ("dpmpp_2m_karras", "pndm", "heun"):
        refused = [found.severity for found in check_lane(parse_lane(f"{key}:{steps}"), config, FAMILIES["sd"])]
        assert ("error" in refused) == (f"{key}:{steps}" not in {lane.key for lane in lanes})


def test_schedulers_that_ignore_a_schedule_without_signal_are_refused_on_it() -> None:
    dropped = {"heun", "lms", "kdpm2", "kdpm2_a", "dpm_sde", "deis", "sa_solver", "dpmpp_2s", "pndm"}
    for key in (*dropped, "ddim", "euler", "dpmpp_2m", "unipc"):
        codes = {finding.code for finding in check_lane(parse_lane(f"{key}:20"), ZERO_SNR)}
        assert ("zero_snr_dropped" in codes) is (key in dropped), key


@pytest.mark.parametrize(
    ("family", "config", "lanes"),
    [
        ("sd", SD_SCHEDULER, ("dpmpp_2m_karras:100", "heun:50")),
        ("sd", ZERO_SNR, ("euler:200", "ddim:500")),
        ("sd", SD_SCHEDULER | {"beta_schedule": "squaredcos_cap_v2"}, ("euler:200", "ddim:500")),
        ("sd3", FLOW, ("unipc:100", "flow_euler:200")),
        ("mochi", FLOW, None),
    ],
)
def test_the_default_reference_gives_way_where_it_cannot_run_and_says_so(
    family: str, config: dict[str, Any], lanes: tuple[str, str] | None
) -> None:
    given = read_reference(Table({}, "study"), given=True)
    found, told = fitting_reference(given, config, FAMILIES[family])
    assert (None if found is None else (found.lane.key, found.check.key)) == lanes
    assert bool(told) is (found != given)
    named = read_reference(Table({"lane": "dpmpp_2m_karras:100"}, "study"), given=True)
    assert fitting_reference(named, config, FAMILIES[family]) == (named, "")


def test_a_model_that_starts_from_a_picture_is_refused_without_one(sd_folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(sd_folder, tmp_path / "inpaint")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionInpaintPipeline"}))
    assert find_model(str(folder)).family.key == "sd"
    with pytest.raises(StudyError, match=r'\[pipeline\] with image = "picture.png", mask_image = "picture.png"'):
        run_study(parsed(model=str(folder)), tmp_path / "c.duckdb", device="cpu")
