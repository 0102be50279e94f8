"""Lists of timesteps and sigmas as lanes: drawn as plain diffusers draws them, refused where it would misread them."""

import copy
import inspect
import tomllib
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules

from engine.errors import StudyError
from engine.sampling.building import build_scheduler
from engine.sampling.image_pass import run_cells
from engine.sampling.lint import lint_lane
from engine.sampling.loaded import register_pipeline
from engine.sampling.models import Model, load
from engine.sampling.standins import model_config
from engine.sharing.study_file import study_toml
from engine.study.cells import cells
from engine.study.configs import lane_of
from engine.study.custom_schedules import INSTEAD, TAKEN, CustomSchedule, align_your_steps, training_sigmas
from engine.study.frame_settings import FrameSettings
from engine.study.lanes import Lane, check_lane, parse_lane
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.engine import family_miniatures
from tests.engine.miniatures import SD_SCHEDULER, SDXL_SCHEDULER

NOTHING_KEPT = FrameSettings(count=0)
WHOLE = [999, 801, 560, 301, 77]
SIGMAS = [14.6, 5.2, 1.9, 0.6, 0.1, 0.0]
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


def lane_with(base: str, **table: Any) -> Lane:
    study = parse_study({"name": "s", "prompts": ["disc"], "lane": [{"key": "mine", "scheduler": base, **table}]})
    return study.lanes[0]


def drawn_by_the_lab(model: Model, name: str, **table: Any) -> torch.Tensor:
    study = parse_study(
        {
            "name": "s",
            "model": name,
            "prompts": ["disc ring"],
            "guidance_scale": 4.0,
            "dtype": "float32",
            "width": 64,
            "height": 64,
            "lane": [{"key": "mine", **table}],
        }
    )
    with torch.no_grad():
        sample = next(iter(run_cells(model, cells(study, find_model(name), "cpu"), NOTHING_KEPT, 4)))
    assert sample.error is None
    assert sample.latents is not None
    assert sample.config is not None
    assert set(sample.config) & {"timesteps", "sigmas"}
    return sample.latents


@pytest.mark.parametrize(
    ("base", "kind", "values"),
    [
        ("dpmpp_2m", "timesteps", WHOLE),
        ("dpmpp_2s", "timesteps", WHOLE),
        ("euler", "timesteps", [999, 801.5, 560, 301.25, 77]),
        ("euler", "sigmas", SIGMAS),
        ("heun", "timesteps", [999, 801.5, 560, 301.25, 77]),
        ("ddpm", "timesteps", WHOLE),
    ],
)
def test_a_list_gives_the_latents_that_plain_diffusers_gives(
    base: str, kind: str, values: list[float], gaussian_model: Model
) -> None:
    lane = lane_with(base, **{kind: values})
    mine = drawn_by_the_lab(gaussian_model, "gaussian", scheduler=base, **{kind: values})
    pipe: Any = copy.copy(gaussian_model.pipe)
    kind_of_scheduler = getattr(diffusers, lane.scheduler_class)
    pipe.scheduler = kind_of_scheduler.from_config(model_config(gaussian_model.pipe), **lane.scheduler.overrides)
    plain = pipe(
        "disc ring",
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **{kind: values},
    ).images
    torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)
    assert lane.steps == 5


@pytest.mark.parametrize(("family", "base"), [("sd3", "flow_euler"), ("flux", "flow_euler"), ("sd3", "unipc")])
def test_flows_take_sigmas_before_their_shift(family: str, base: str) -> None:
    """Flux works out its shift from the picture's size, and SD3 has one that is fixed."""
    pipe: Any = family_miniatures.built(family)
    source, values = register_pipeline(pipe), [1.0, 0.8, 0.55, 0.2]
    mine = drawn_by_the_lab(load(source, "cpu", "float32"), source.name, scheduler=base, sigmas=values)
    if base == "unipc":
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
        pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config, **flow)
    generator = torch.Generator().manual_seed(0)
    more = {"guidance_scale": 4.0, "output_type": "latent", "generator": generator, "width": 64, "height": 64}
    plain = pipe("disc ring", sigmas=np.array(values) if base == "unipc" else values, **more).images
    torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("base", "table", "code"),
    [
        ("ddim", {"timesteps": WHOLE}, "no_custom_schedule"),
        ("unipc", {"sigmas": SIGMAS[:-1]}, "no_custom_schedule"),
        ("unipc", {"timesteps": WHOLE}, "no_custom_schedule"),
        ("dpmpp_2m", {"sigmas": SIGMAS}, "no_custom_schedule"),
        ("euler_a", {"timesteps": WHOLE}, "no_custom_schedule"),
        ("dpmpp_2m_karras", {"timesteps": WHOLE}, "two_schedules"),
        ("dpmpp_2m_lu", {"timesteps": WHOLE}, "two_schedules"),
        ("euler_beta", {"sigmas": SIGMAS}, "two_schedules"),
        ("euler", {"timesteps": WHOLE, "interpolation_type": "log_linear"}, "two_schedules"),
        ("dpmpp_2m", {"timesteps": [10, 500, 900]}, "unsorted_schedule"),
        ("dpmpp_2m", {"timesteps": [900, 500, 500, 10]}, "repeated_level"),
        ("dpmpp_2m", {"timesteps": [999, 500.5, 10]}, "fractional_timesteps"),
        ("dpmpp_2m", {"timesteps": [500.7, 500.2, 10]}, "repeated_level"),
        ("euler", {"timesteps": [1000, 500, 10]}, "clipped_schedule"),
        ("euler", {"timesteps": [900, 500, -1]}, "clipped_schedule"),
        ("euler", {"sigmas": [20.0, 1.0, 0.0]}, "clipped_schedule"),
        ("euler", {"sigmas": [14.0, 1.0, 0.01, 0.0]}, "clipped_schedule"),
        ("euler", {"sigmas": [14.0, 1.0, 0.1]}, "stops_noisy"),
    ],
)
def test_what_a_class_would_misread_is_refused_first(base: str, table: dict[str, Any], code: str) -> None:
    lane = lane_with(base, **table)
    assert code in [finding.code for finding in check_lane(lane, SD_SCHEDULER) if finding.severity == "error"]


@pytest.mark.parametrize(
    ("sigmas", "code"), [([1.2, 0.5], "clipped_schedule"), ([1.0, 0.5, 0.0], "repeated_level"), ([1.0, 0.5], None)]
)
def test_sigmas_of_flows_lie_between_0_and_1_and_leave_the_last_0_to_the_class(sigmas: list[float], code: str) -> None:
    codes = [finding.code for finding in check_lane(lane_with("flow_euler", sigmas=sigmas), FLOW)]
    assert codes == ([code] if code else [])
    assert "no_custom_schedule" in [f.code for f in check_lane(lane_with("flow_euler", timesteps=[900, 1]), FLOW)]


def test_a_list_that_is_right_is_accepted_in_silence() -> None:
    for base, table in (("dpmpp_2m", {"timesteps": WHOLE}), ("euler", {"sigmas": SIGMAS})):
        assert check_lane(lane_with(base, **table), SD_SCHEDULER) == []
        assert not [f for f in lint_lane(lane_with(base, **table), SD_SCHEDULER).findings if f.severity == "error"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"timesteps": "999"}, "must be a list of numbers"),
        ({"timesteps": []}, "must be a list of numbers"),
        ({"timesteps": [999, True]}, "must be a list of numbers"),
        ({"timesteps": [float("nan")]}, "must be a list of numbers"),
        ({"timesteps": [999, 1], "sigmas": [1.0, 0.0]}, "give one of them"),
        ({"timesteps": [999, 1], "steps": 3}, "2 steps, but steps = 3"),
        ({"timesteps": [999, 1], "steps": [2, 3]}, "make them agree"),
    ],
)
def test_what_is_no_schedule_is_refused_where_it_is_read(table: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        lane_with("euler", **table)


def test_the_table_says_what_the_classes_of_the_installed_diffusers_take() -> None:
    for name, kinds in TAKEN.items():
        assert set(kinds) <= inspect.signature(getattr(diffusers, name).set_timesteps).parameters.keys(), name
    for name in INSTEAD.keys() - TAKEN.keys():
        taken = inspect.signature(getattr(diffusers, name).set_timesteps).parameters.keys()
        assert not taken & {"timesteps", "sigmas"}, name


def test_align_your_steps_has_the_published_lists_and_other_counts_between_their_levels() -> None:
    assert list(align_your_steps(10).values) == AysSchedules["StableDiffusionTimesteps"]
    assert list(align_your_steps(10, "sdxl").values) == AysSchedules["StableDiffusionXLTimesteps"]
    known = training_sigmas(SD_SCHEDULER)
    assert known is not None
    plain = build_scheduler(parse_lane("euler:10"), SD_SCHEDULER)
    assert np.allclose(known, ((1 - plain.alphas_cumprod) / plain.alphas_cumprod).sqrt().numpy(), rtol=1e-4)
    published = np.log(AysSchedules["StableDiffusionSigmas"][:-1])
    assert np.allclose(np.log(known[np.array(align_your_steps(10).values, int)]), published, atol=0.01)
    twenty = np.log(known[np.array(align_your_steps(20).values, int)])
    assert np.allclose(twenty[::2], published, atol=0.01)
    assert np.allclose(twenty[1:-1:2], (published[:-1] + published[1:]) / 2, atol=0.01)


def test_sdxl_gets_its_own_list_and_other_noise_schedules_get_none(sdxl_folder: Path) -> None:
    data = {"name": "s", "model": str(sdxl_folder), "prompts": ["a"], "lanes": ["dpmpp_2m_ays:10"]}
    found = cells(parse_study(data), find_model(str(sdxl_folder)), "cpu")[0].lane.schedule
    assert found == CustomSchedule("timesteps", tuple(AysSchedules["StableDiffusionXLTimesteps"]))
    linear = {**SDXL_SCHEDULER, "beta_schedule": "linear"}
    assert "other_noise_schedule" in [finding.code for finding in check_lane(parse_lane("euler_ays:10"), linear)]


def test_a_list_is_part_of_a_cells_identity_and_survives_the_study_file() -> None:
    lanes = [
        {"key": "a", "scheduler": "dpmpp_2m", "timesteps": WHOLE},
        {"key": "b", "scheduler": "euler", "sigmas": SIGMAS},
    ]
    data = {"name": "s", "model": "gaussian", "prompts": ["disc"], "lanes": ["euler_ays:12"], "lane": lanes}
    source, study = find_model("gaussian"), parse_study(data)
    again = parse_study(tomllib.loads(study_toml(study.spec())))
    ids = [cell.trajectory_id for cell in cells(study, source, "cpu")]
    assert ids == [cell.trajectory_id for cell in cells(again, source, "cpu")]
    assert len(set(ids)) == 3
    lanes[0]["timesteps"] = [999, 801, 560, 301, 78]
    assert cells(parse_study(data), source, "cpu")[1].trajectory_id != ids[1]


def test_python_takes_a_list_beside_the_scheduler_class() -> None:
    config = {"scheduler_class": diffusers.EulerDiscreteScheduler, "num_inference_steps": 5, "sigmas": SIGMAS}
    lane = lane_of("tuned", config)
    assert lane.schedule == CustomSchedule("sigmas", tuple(SIGMAS))
    assert lane.key != "euler:5"
    with pytest.raises(StudyError, match="5 steps, num_inference_steps is 4"):
        lane_of("tuned", config | {"num_inference_steps": 4})


def test_the_lint_says_where_a_pipeline_takes_no_list() -> None:
    lane = lane_with("flow_euler", sigmas=[1.0, 0.5])
    assert "wrapped_schedule" in [finding.code for finding in lint_lane(lane, FLOW, "WanPipeline").findings]
    assert "wrapped_schedule" not in [f.code for f in lint_lane(lane, FLOW, "StableDiffusion3Pipeline").findings]
    img2img = lint_lane(lane_with("euler", timesteps=WHOLE), SD_SCHEDULER, "StableDiffusionImg2ImgPipeline")
    assert "cut_schedule" in [finding.code for finding in img2img.findings]


def test_a_lane_of_other_steps_leaves_the_list_behind() -> None:
    lane = lane_with("euler", timesteps=WHOLE)
    assert (lane.at(2).schedule, lane.at(2).steps, lane.at(5)) == (None, 2, lane)
    assert parse_lane("euler_ays:10").at(20) == parse_lane("euler_ays:20")
