"""Tests of the exact Gaussian-mixture model: its formulas, its pipeline, and the orders of schedulers on it.

Orders are taken over counted denoiser calls. Schedulers whose last noise level is sigma_at(0) = 0.029 end with one
forced first-order jump from there to 0, the same at every step count: their limit is the exact ODE down to that level
and then the jump (`_limit`). How far that is from the true answer is a test of its own.
"""

import copy
import logging

import diffusers
import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from engine.sampling.gaussian import (
    COMPONENT_STD,
    PATTERNS,
    build_pipeline,
    component_means,
    exact_solution,
    named_patterns,
    sigma_at,
    solve_reference,
)

SIGMA_MAX, SIGMA_MIN = float(sigma_at(999)), float(sigma_at(0))
NOISE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MEANS = component_means().numpy()
KARRAS = {"use_karras_sigmas": True}
TRAILING = {"timestep_spacing": "trailing", "set_alpha_to_one": True}


@pytest.fixture(scope="module")
def pipe():
    pipeline = build_pipeline(torch.float64)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _bayes_eps(x, sigma, prompt):
    """eps of VP samples by Bayes' rule: E[x0|x] over the prompt's components first, then (x - a E) / b."""
    means = MEANS[list(named_patterns(prompt) or range(8))]
    a, b = 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)
    variance = a**2 * COMPONENT_STD**2 + b**2
    residual = x[None] - a * means
    log_joint = -(residual**2).sum(axis=(1, 2, 3)) / (2 * variance)
    posterior = np.exp(log_joint - logsumexp(log_joint))
    x0 = means + a * COMPONENT_STD**2 / variance * residual
    return (x - a * np.einsum("k,kchw->chw", posterior, x0)) / b


def _run(pipe, scheduler, steps, prompt="disc", guidance_scale=1.0, negative_prompt=""):
    """Final latents of an ordinary pipeline call from NOISE, and the number of denoiser calls it took."""
    calls = []
    hook = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    pipe.scheduler = scheduler
    texts = {"prompt": [prompt] * len(NOISE), "negative_prompt": [negative_prompt] * len(NOISE)}
    start = {"latents": NOISE.clone(), "generator": torch.Generator().manual_seed(1)}
    latents = pipe(**texts, **start, num_inference_steps=steps, guidance_scale=guidance_scale, output_type="latent")
    hook.remove()
    return latents.images, len(calls)


def _limit(start, sigma_last=SIGMA_MIN, prompt="disc", guidance_scale=1.0, negative_prompt=""):
    """The exact guided ODE down to sigma_last, then one first-order step to 0."""
    options = {"negative_prompt": negative_prompt, "start": start}
    reference = solve_reference(NOISE, prompt, guidance_scale, SIGMA_MAX, sigma_last, **options).numpy()
    rows = []
    for y in reference:
        wanted, other = (
            _bayes_eps(y / np.hypot(1, sigma_last), sigma_last, text) for text in (prompt, negative_prompt)
        )
        rows.append(y - sigma_last * (other + guidance_scale * (wanted - other)))
    return torch.from_numpy(np.stack(rows))


def _scheduler(name, **overrides):
    return getattr(diffusers, name).from_config(build_pipeline().scheduler.config, **overrides)


def _order(pipe, scheduler, steps, answer, **guidance):
    """Observed order p = -d log error / d log NFE (least squares) and the last error, relative to the answer."""
    runs = [_run(pipe, scheduler, count, **guidance) for count in steps]
    errors = [float((latents - answer).norm() / answer.norm()) for latents, _ in runs]
    return -np.polyfit(np.log([nfe for _, nfe in runs]), np.log(errors), 1)[0], errors[-1]


@pytest.mark.parametrize("prompt", ["disc", "a Ring, and a CHECKER", "", "discs"])
def test_the_denoiser_equals_bayes_rule_in_numpy(pipe, prompt):
    timesteps = torch.tensor([0, 0.25, 17.5, 250, 612.1, 998.5, 999], dtype=torch.float64)
    sigma = sigma_at(timesteps)[:, None, None, None]
    x0 = component_means()[:7] + COMPONENT_STD * NOISE[:1]
    x = (x0 + sigma * NOISE[1:]) / (1 + sigma**2).sqrt()
    embeddings, _ = pipe.encode_prompt([prompt] * 7, "cpu", 1, False)
    eps = pipe.unet(x, timesteps, embeddings).sample
    expected = np.stack([_bayes_eps(x[i].numpy(), sigma[i].item(), prompt) for i in range(7)])
    np.testing.assert_allclose(eps.numpy(), expected, rtol=1e-9, atol=1e-10)
    one_row = pipe.unet(x[4:5], 612.1, embeddings[4:5], return_dict=False)[0]
    np.testing.assert_allclose(one_row.numpy(), expected[4:5], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_costs_no_more_than_rounding_the_output_even_at_timestep_zero(pipe, dtype):
    low = build_pipeline(dtype)
    assert torch.equal(low.unet.means.double(), component_means().clamp(-1, 1))
    x = (component_means()[:2] + COMPONENT_STD * NOISE).to(dtype)
    embeddings, _ = pipe.encode_prompt(["disc", ""], "cpu", 1, False)
    eps = low.unet(x, 0, embeddings.to(dtype)).sample
    assert eps.dtype == dtype
    torch.testing.assert_close(eps, pipe.unet(x.double(), 0, embeddings).sample.to(dtype), rtol=0, atol=0)


def test_fractional_timesteps_interpolate_log_sigma_between_those_of_the_scheduler():
    alphas_cumprod = _scheduler("DDIMScheduler").alphas_cumprod.double()
    sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    torch.testing.assert_close(sigma_at(torch.arange(1000)), sigmas, rtol=2e-5, atol=0)
    half = sigma_at(torch.tensor([0.5, 998.5]))
    expected = (sigma_at(torch.tensor([0, 998])) * sigma_at(torch.tensor([1, 999]))).sqrt()
    torch.testing.assert_close(half, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("start", ["vp", "ve"])
@pytest.mark.parametrize("sigma_end", [0.0, 1.0])
def test_the_closed_form_equals_the_numerical_reference(start, sigma_end):
    for prompt in PATTERNS:
        exact = exact_solution(NOISE, prompt, SIGMA_MAX, sigma_end, start=start)
        reference = solve_reference(NOISE, prompt, 1.0, SIGMA_MAX, sigma_end, start=start)
        torch.testing.assert_close(reference, exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "overrides", "start", "steps", "lowest", "highest"),
    [
        ("EulerDiscreteScheduler", {}, "ve", [38, 112, 334], 0.85, 1.05),
        ("EulerDiscreteScheduler", KARRAS, "ve", [10, 20, 40, 80], 0.98, 1.02),
        ("HeunDiscreteScheduler", {}, "ve", [28, 112, 334], 1.7, 2.1),
        ("HeunDiscreteScheduler", KARRAS, "ve", [20, 40, 80], 1.95, 2.2),
        ("DPMSolverMultistepScheduler", KARRAS, "vp", [16, 24, 32, 48, 64], 1.6, 2.2),
        ("UniPCMultistepScheduler", KARRAS, "vp", [16, 24, 32], 1.6, 3.2),
    ],
)
def test_the_error_falls_with_the_order_of_the_method(pipe, name, overrides, start, steps, lowest, highest):
    order, error = _order(pipe, _scheduler(name, **overrides), steps, _limit(start))
    assert lowest < order < highest
    assert error < 0.02


def test_ddim_is_just_under_first_order_and_nears_it(pipe):
    answer = exact_solution(NOISE, "disc", SIGMA_MAX)
    scheduler = _scheduler("DDIMScheduler", **TRAILING)
    coarse, _ = _order(pipe, scheduler, [20, 50, 100], answer)
    fine, error = _order(pipe, scheduler, [250, 500, 1000], answer)
    assert 0.6 < coarse < fine < 1.0
    assert fine > 0.8
    assert error < 0.005


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_second_order_multistep_with_default_spacing_is_first_order_because_of_its_last_jump(pipe, name):
    answer = exact_solution(NOISE, "disc", SIGMA_MAX)
    order, error = _order(pipe, _scheduler(name), [20, 40, 80], answer)
    assert 0.7 < order < 1.1
    assert error > 0.02
    scheduler = _scheduler(name)
    latents, _ = _run(pipe, scheduler, 20)
    jumped = _limit("vp", float(sigma_at(scheduler.timesteps[-1])))
    assert (latents - jumped).norm() < 0.03 * (latents - answer).norm()


@pytest.mark.parametrize(
    ("base", "expected"),
    [(diffusers.DPMSolverMultistepScheduler, 2.0), (diffusers.UniPCMultistepScheduler, 3.0)],
)
def test_without_the_rounding_of_timesteps_the_multistep_orders_are_clean(pipe, base, expected):
    """diffusers rounds Karras timesteps for the denoiser but not sigmas; UniPC's corrector adds one order."""

    class Unrounded(base):
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs)
            log_sigmas = sigma_at(torch.arange(1000)).log().numpy()
            exact = np.interp(self.sigmas[:-1].double().log().numpy(), log_sigmas, np.arange(1000.0))
            self.timesteps = torch.from_numpy(exact)

    scheduler = Unrounded.from_config(build_pipeline().scheduler.config, **KARRAS)
    order, _ = _order(pipe, scheduler, [32, 48, 64, 96], _limit("vp"))
    assert order == pytest.approx(expected, abs=0.15)


def test_the_jump_from_the_last_noise_level_leaves_a_quarter_of_a_percent():
    answer, limit = exact_solution(NOISE, "disc", SIGMA_MAX), _limit("vp")
    mean = component_means()[PATTERNS.index("disc")]
    ratio = COMPONENT_STD / np.hypot(COMPONENT_STD, SIGMA_MIN)
    torch.testing.assert_close(limit - mean, (answer - mean) * ratio, rtol=0, atol=1e-8)
    assert 0.001 < (limit - answer).norm() / answer.norm() < 0.004


@pytest.mark.parametrize("guidance", [{"prompt": "disc ring"}, {"prompt": "checker"}])
@pytest.mark.parametrize(
    ("name", "start", "steps", "lowest"),
    [("HeunDiscreteScheduler", "ve", [20, 40, 80], 1.9), ("DPMSolverMultistepScheduler", "vp", [16, 32, 64], 1.6)],
)
def test_guided_runs_converge_to_the_numerical_reference(pipe, name, start, steps, lowest, guidance):
    guidance = guidance | {"guidance_scale": 3.0}
    order, error = _order(pipe, _scheduler(name, **KARRAS), steps, _limit(start, **guidance), **guidance)
    assert order > lowest
    assert error < 2e-3


def test_a_run_with_a_negative_prompt_converges_to_the_numerical_reference(pipe):
    guidance = {"prompt": "checker", "guidance_scale": 3.0, "negative_prompt": "stripes gradient"}
    limit = _limit("ve", **guidance)
    latents, _ = _run(pipe, _scheduler("HeunDiscreteScheduler", **KARRAS), 128, **guidance)
    assert (latents - limit).norm() < 1e-4 * limit.norm()
    for changed in ({"guidance_scale": 1.0}, {"guidance_scale": 4.0}, {"negative_prompt": ""}):
        assert (_limit("ve", **guidance | changed) - limit).norm() > 0.01 * limit.norm()


def test_each_picture_is_nearest_to_the_pattern_its_prompt_names(pipe):
    pipe.scheduler = _scheduler("DPMSolverMultistepScheduler", **KARRAS)
    pictures = pipe(list(PATTERNS), num_inference_steps=15, guidance_scale=3.0, output_type="pt").images
    assert pictures.shape == (8, 3, 64, 64)
    latents = torch.nn.functional.avg_pool2d(pictures * 2 - 1, 4).flatten(1)
    distances = torch.cdist(latents, component_means().flatten(1))
    assert distances.argmin(dim=1).tolist() == list(range(8))


# EDMEulerScheduler is in the list, but its preconditioning is not for models that predict eps.
@pytest.mark.parametrize(
    "kind", [k.name for k in diffusers.schedulers.KarrasDiffusionSchedulers if not k.name.startswith("EDM")]
)
def test_every_stable_diffusion_scheduler_runs_and_finds_the_disc(pipe, kind):
    latents, nfe = _run(pipe, _scheduler(kind), 20)
    assert nfe >= 20
    assert torch.cdist(latents.flatten(1), component_means().flatten(1)).argmin(dim=1).tolist() == [0, 0]


def test_the_pipeline_takes_prompts_lists_embeddings_and_negative_prompts(pipe):
    pipe.scheduler = _scheduler("DDIMScheduler")

    def run(**options):
        generator = torch.Generator().manual_seed(3)
        return pipe(num_inference_steps=5, generator=generator, output_type="latent", **options).images

    embeddings, negative = pipe.encode_prompt("a disc", "cpu", 1, True, "ring")
    by_text = run(prompt="Disc!", negative_prompt="the RING", guidance_scale=4.0)
    by_list = run(prompt=["disc"], negative_prompt=["ring"], guidance_scale=4.0)
    by_embeddings = run(prompt_embeds=embeddings, negative_prompt_embeds=negative, guidance_scale=4.0)
    assert torch.equal(by_text, by_list)
    assert torch.equal(by_text, by_embeddings)
    assert not torch.equal(by_text, run(prompt="disc", guidance_scale=4.0))
    assert torch.equal(run(prompt="", guidance_scale=1.0), run(prompt=" ".join(PATTERNS), guidance_scale=1.0))
    assert run(prompt="", guidance_scale=4.0, num_images_per_prompt=2).shape == (2, 3, 16, 16)


def test_copies_share_the_model_and_keep_their_own_scheduler_and_nothing_is_logged(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    original = build_pipeline()
    config = dict(original.scheduler.config)
    for twin in (copy.copy(original), type(original)(**original.components, requires_safety_checker=False)):
        twin.set_progress_bar_config(disable=True)
        twin.scheduler = _scheduler("EulerDiscreteScheduler")
        assert twin.scheduler.config.timestep_spacing == "linspace"
        assert twin.unet is original.unet
        assert twin("ring", num_inference_steps=3).images[0].size == (64, 64)
    assert dict(original.scheduler.config) == config
    assert type(original.scheduler) is diffusers.DDIMScheduler
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_solution(NOISE, "disc ring", 1.0), "names 2. Use solve_reference"),
        (lambda: exact_solution(NOISE, "", 1.0), "names 0"),
        (lambda: exact_solution(NOISE, "disc", 1.0, 2.0), "sigma_end < sigma_start"),
        (lambda: solve_reference(NOISE[:, :1], "disc", 1.0, 1.0), r"expected \(B, 3, 16, 16\)"),
        (lambda: solve_reference(NOISE, "disc", 1.0, 1.0, start="edm"), "Unknown start 'edm'"),
        (lambda: build_pipeline()("disc", height=32, width=32), "64 x 64 px only"),
        (lambda: build_pipeline().unet(NOISE, 0, torch.zeros(1, 8, 8)), r"expected \(2, any, 8\)"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
