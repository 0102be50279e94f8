"""The scheduler seam: x0 and noise level of every step, by one formula for all schedulers."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import diffusers
import pytest
import torch

from engine.sampling.building import build_scheduler
from engine.sampling.image_pass import Sample, run_cells
from engine.sampling.models import Model
from engine.sampling.recording import NoiseLevels, Recorder
from engine.study.frame_settings import FrameSettings
from engine.study.lanes import parse_lane
from tests.engine.miniatures import DISCRETE, SD_SCHEDULER, cells_of

STATES_X0 = ["ddim", "ddpm", "euler", "euler_a", "heun", "lms", "kdpm2", "kdpm2_a", "dpm_sde"]
STEPS = 12


def keep_all(calls: int) -> range:
    return range(calls)


def ran(
    scheduler: Any, predict: Callable[[torch.Tensor, float], torch.Tensor], keep: Callable[[int], Any] = keep_all
) -> tuple[Recorder, list[Any], torch.Tensor]:
    """The loop that every diffusers pipeline has, on a recorded scheduler: (recorder, step outputs, final latents)."""
    recorder = Recorder(scheduler, keep)
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator) * scheduler.init_noise_sigma
    outputs = []
    for timestep in scheduler.timesteps:
        prediction = predict(scheduler.scale_model_input(latents, timestep), float(timestep))
        outputs.append(scheduler.step(prediction, timestep, latents, return_dict=True))
        latents = outputs[-1].prev_sample
    return recorder, outputs, latents


def clean_at(levels: NoiseLevels, noisy: torch.Tensor, said: torch.Tensor, timestep: float) -> torch.Tensor:
    return levels.clean(noisy, said, levels.log_sigma(timestep))


def arbitrary(x: torch.Tensor, timestep: float) -> torch.Tensor:
    """Some prediction that depends on all it should depend on."""
    return 0.8 * torch.tanh(x) + 0.2 * torch.cos(3 * x + timestep / 200)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("key", STATES_X0)
def test_recorded_x0_is_the_one_the_scheduler_states(key: str, prediction_type: str) -> None:
    config = SD_SCHEDULER | {"prediction_type": prediction_type}
    scheduler = build_scheduler(parse_lane(f"{key}:{STEPS}"), config)
    recorder, outputs, _ = ran(scheduler, arbitrary)
    assert len(recorder.steps) == len(outputs)
    for step, output in zip(recorder.steps, outputs, strict=True):
        stated = output.pred_original_sample
        assert step.x0 is not None
        assert (step.x0 - stated).norm() <= 1e-4 * stated.norm(), step.step_index


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("timestep", [1, 37, 500, 999])
def test_x0_is_recovered_from_what_a_perfect_denoiser_says(prediction_type: str, timestep: int) -> None:
    scheduler = diffusers.DDIMScheduler.from_config(SD_SCHEDULER, prediction_type=prediction_type)
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = scheduler.add_noise(clean, noise, torch.tensor([timestep]))
    said = {"epsilon": noise, "sample": clean}.get(prediction_type)
    if said is None:
        said = scheduler.get_velocity(clean, noise, torch.tensor([timestep]))
    got = clean_at(NoiseLevels(scheduler), noisy, said, timestep)
    torch.testing.assert_close(got.double(), clean, rtol=0, atol=2e-4)


def test_x0_of_flow_matching_models_is_recovered_too() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    levels = NoiseLevels(scheduler)
    for timestep in (1.0, 250.5, 999.0):
        s = timestep / 1000
        noisy = (1 - s) * clean + s * noise
        torch.testing.assert_close(clean_at(levels, noisy, noise - clean, timestep), clean, rtol=0, atol=1e-5)
        assert levels.log_sigma(timestep) == pytest.approx(math.log(s / (1 - s)))


@pytest.mark.parametrize(("timestep", "sigma"), [(0, 0.0291675), (999, 14.6146)])
def test_noise_levels_of_stable_diffusion_are_those_of_k_diffusion(timestep: int, sigma: float) -> None:
    """Golden numbers: sigma_min and sigma_max of SD 1.x as k-diffusion prints them."""
    levels = NoiseLevels(diffusers.PNDMScheduler.from_config(SD_SCHEDULER))
    assert math.exp(levels.log_sigma(timestep)) == pytest.approx(sigma, rel=1e-4)


def test_noise_level_of_a_timestep_between_two_is_between_theirs_in_log() -> None:
    levels = NoiseLevels(diffusers.PNDMScheduler.from_config(SD_SCHEDULER))
    below, above = levels.log_sigma(500), levels.log_sigma(501)
    assert levels.log_sigma(500.25) == pytest.approx(0.75 * below + 0.25 * above)


@pytest.fixture(scope="module")
def samples(gaussian_model: Model) -> dict[str, Sample]:
    cells = cells_of("gaussian", [f"{key}:{STEPS}" for key in DISCRETE], guidance_scale=1.0)
    with torch.no_grad():
        return {s.cell.lane.scheduler.key: s for s in run_cells(gaussian_model, cells, FrameSettings(count=4), 32)}


@pytest.mark.parametrize("key", DISCRETE)
def test_noise_goes_down_step_by_step(key: str, samples: dict[str, Sample]) -> None:
    levels = [step.log_snr for step in samples[key].steps]
    assert len(levels) == DISCRETE[key].expected_calls(STEPS)
    assert all(after >= before for before, after in pairwise(levels))
    assert levels[0] < -4 < 0 < levels[-1]


@pytest.mark.parametrize("key", DISCRETE)
def test_the_path_of_x0_ends_near_the_final_latents(key: str, samples: dict[str, Sample]) -> None:
    distances = dict(samples[key].distances)
    last = samples[key].nfe - 1
    assert sorted(distances) == list(range(last + 1)), "few steps: all are measured"
    assert distances[last] < 0.25 < distances[0]


@pytest.mark.parametrize("key", ["euler", "heun", "dpmpp_2m", "dpmpp_2m_karras", "unipc"])
def test_schedulers_that_end_at_zero_noise_end_at_the_last_x0(key: str, samples: dict[str, Sample]) -> None:
    assert samples[key].distances[-1][1] < (0.01 if "karras" in key else 1e-4)


def test_change_of_x0_is_its_root_mean_square_difference_from_the_step_before() -> None:
    recorder, outputs, _ = ran(build_scheduler(parse_lane("euler:12"), SD_SCHEDULER), arbitrary)
    assert recorder.steps[0].x0_change is None
    clean = [output.pred_original_sample for output in outputs]
    for step, before, after in zip(recorder.steps[1:], clean, clean[1:], strict=False):
        assert step.x0_change == pytest.approx(float((after - before).square().mean().sqrt()), rel=1e-4)


def test_latents_are_kept_for_the_chosen_steps_only_and_numbers_for_all() -> None:
    kept = {0, 5, 11}
    recorder, _, _ = ran(build_scheduler(parse_lane("ddim:12"), SD_SCHEDULER), arbitrary, lambda calls: kept)
    assert [step.step_index for step in recorder.steps if step.x0 is not None] == sorted(kept)
    assert [step.step_index for step in recorder.steps if step.x_t is not None] == sorted(kept)
    assert all(math.isfinite(step.log_snr) for step in recorder.steps)
    assert [index for index, _ in recorder.distances(torch.ones(1, 4, 8, 8))] == sorted(kept)


@pytest.mark.parametrize("key", DISCRETE)
def test_recording_does_not_change_what_a_scheduler_does(key: str) -> None:
    def final(record: bool) -> torch.Tensor:
        torch.manual_seed(0)
        scheduler = build_scheduler(parse_lane(f"{key}:{STEPS}"), SD_SCHEDULER)
        if record:
            return ran(scheduler, arbitrary)[2]
        scheduler.set_timesteps(STEPS)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            prediction = arbitrary(scheduler.scale_model_input(latents, timestep), float(timestep))
            latents = scheduler.step(prediction, timestep, latents).prev_sample
        return latents

    assert torch.equal(final(record=True), final(record=False))


def test_kept_noisy_latents_are_the_ones_the_denoiser_got() -> None:
    got: list[torch.Tensor] = []

    def predict(x: torch.Tensor, timestep: float) -> torch.Tensor:
        got.append(x.clone())
        return arbitrary(x, timestep)

    recorder, _, _ = ran(build_scheduler(parse_lane("euler_a:12"), SD_SCHEDULER), predict)
    for step, x in zip(recorder.steps, got, strict=True):
        assert step.x_t is not None
        torch.testing.assert_close(step.x_t, x)


def test_of_a_very_long_lane_128_steps_spread_over_all_are_measured(gaussian_model: Model) -> None:
    with torch.no_grad():
        [sample] = run_cells(
            gaussian_model, cells_of("gaussian", ["ddim:200"], guidance_scale=1.0), FrameSettings(0), 1
        )
    measured = [index for index, _ in sample.distances]
    assert len(measured) == 128
    assert (measured[0], measured[-1]) == (0, 199)
    assert max(after - before for before, after in pairwise(measured)) == 2
