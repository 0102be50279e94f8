"""What schedulers really run, measured by the probe, beside plain diffusers and beside the formulas."""

import math
from typing import Any

import diffusers
import numpy as np
import pytest
from scipy import stats

from engine.cli import main
from engine.sampling import known_bugs
from engine.sampling.building import build_scheduler
from engine.sampling.gaussian import build_pipeline
from engine.sampling.known_bugs import KNOWN_BUGS, KnownBug
from engine.sampling.lint import Lint, lane_settings, lint_lane
from engine.sampling.models import Model
from engine.sampling.probe import Probe, probe
from engine.study.lanes import Lane, parse_lane
from engine.study.schedulers import Scheduler
from engine.study.source import find_model
from tests.engine.miniatures import DISCRETE, SD_SCHEDULER

STEPS = 10
BARS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
SIGMAS = np.sqrt((1 - BARS) / BARS)
V = {"prediction_type": "v_prediction"}
TWO_CALLS = ("heun", "kdpm2", "kdpm2_a", "dpm_sde")
# Of the classes whose last step goes to zero, and of those whose last step does not.
STOPS_NOISY = ("ddim", "pndm", "deis", "sa_solver", "tcd")


def lane_with(text: str, **overrides: Any) -> Lane:
    parsed_lane = parse_lane(text)
    return Lane(parsed_lane.key, parsed_lane.scheduler, parsed_lane.steps, overrides)


def probed(lane: Lane, **config: Any) -> Probe:
    return probe(build_scheduler(lane, SD_SCHEDULER | config), lane.steps)


def codes(lint: Lint) -> set[str]:
    return {finding.code for finding in lint.findings}


def karras_levels(steps: int) -> np.ndarray:
    """Karras et al. 2022, equation 5, rho = 7."""
    high, low = SIGMAS[-1] ** (1 / 7), SIGMAS[0] ** (1 / 7)
    return (high + np.linspace(0, 1, steps) * (low - high)) ** 7


def exponential_levels(steps: int) -> np.ndarray:
    """Evenly spaced in log sigma, which is minus half the log-SNR that Lu et al. 2022 space evenly."""
    return np.geomspace(SIGMAS[-1], SIGMAS[0], steps)


def beta_levels(steps: int) -> np.ndarray:
    """Lee et al. 2024: quantiles of Beta(0.6, 0.6)."""
    return SIGMAS[0] + stats.beta.ppf(np.linspace(1, 0, steps), 0.6, 0.6) * (SIGMAS[-1] - SIGMAS[0])


SPACED = {"karras": karras_levels, "exponential": exponential_levels, "lu": exponential_levels, "beta": beta_levels}


@pytest.mark.parametrize("key", DISCRETE)
def test_the_timesteps_are_those_that_the_denoiser_of_a_plain_pipeline_is_given(
    key: str, gaussian_model: Model
) -> None:
    lane, pipe = parse_lane(f"{key}:{STEPS}"), gaussian_model.pipe
    config, before, seen = pipe.scheduler.config, pipe.scheduler, list[float]()
    hook = pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(float(args[1])))
    try:
        pipe.scheduler = build_scheduler(lane, config)
        pipe("disc", num_inference_steps=STEPS, guidance_scale=1.0, output_type="latent")
    finally:
        hook.remove()
        pipe.scheduler = before
    found = lint_lane(lane, config).probe
    assert found is not None
    assert list(found.timesteps) == seen


@pytest.mark.parametrize("config", [{}, V], ids=["epsilon", "velocity"])
@pytest.mark.parametrize("key", [key for key in DISCRETE if key not in TWO_CALLS])
def test_the_levels_follow_the_formula_of_the_noise_schedule(key: str, config: dict[str, Any]) -> None:
    if key == "pndm" and config:
        pytest.skip("PNDM does not keep its levels with velocity predictions; that is a known bug with its own test")
    found = probed(parse_lane(f"{key}:{STEPS}"), **config)
    expected = np.interp(found.timesteps, np.arange(1000), SIGMAS)
    spaced = SPACED.get(key.rpartition("_")[2])
    if spaced is not None:
        expected = spaced(STEPS) if len(found.sigmas) == STEPS else np.repeat(spaced(STEPS), 2)[1:]
    # DPM++ cuts fractions off these timesteps, 998.99 to 998, and the probe starts from the level that this one names.
    cut = key in {"dpmpp_2m_beta", "dpmpp_2m_exponential"}
    np.testing.assert_allclose(found.sigmas, expected, rtol=0.02 if cut else 1e-3 if spaced else 2e-4)
    np.testing.assert_allclose(found.told, np.interp(found.timesteps, np.arange(1000), SIGMAS), rtol=0.1)
    assert found.final_sigma == (pytest.approx(SIGMAS[0], rel=2e-3) if key in STOPS_NOISY else 0)


@pytest.mark.parametrize("key", TWO_CALLS)
def test_second_calls_are_at_the_next_level_or_between_the_two(key: str) -> None:
    found = probed(parse_lane(f"{key}:{STEPS}"))
    assert len(found.sigmas) == 2 * STEPS - 1
    firsts = np.array(found.sigmas[::2])
    np.testing.assert_allclose(firsts, SIGMAS[np.linspace(999, 0, STEPS).round().astype(int)], rtol=0.01)
    nexts = firsts[1:].copy()
    if key == "kdpm2_a":
        # What is left when the noise of the step is taken out (Karras et al. 2022, ancestral step with eta = 1).
        nexts = nexts**2 / firsts[:-1]
    middle = nexts if key == "heun" else np.sqrt(firsts[:-1] * nexts)
    np.testing.assert_allclose(found.sigmas[1::2], middle, rtol=1e-3)


def test_flow_matching_has_its_own_levels_and_pure_noise_is_where_it_should_start() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    entry = Scheduler("flow", "Flow", "diffusers:FlowMatchEulerDiscreteScheduler")
    lint = lint_lane(Lane("flow:8", entry, 8), config)
    assert lint.probe is not None
    part = np.array(lint.probe.timesteps[1:]) / 1000
    np.testing.assert_allclose(lint.probe.sigmas[1:], part / (1 - part), rtol=1e-3)
    assert codes(lint) == {"last_jump", "inherited"}


EDM = {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}
SVD = V | {
    "_class_name": "EulerDiscreteScheduler",
    "timestep_type": "continuous",
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "use_karras_sigmas": True,
}
COGVIDEOX = (
    SD_SCHEDULER
    | V
    | {
        "_class_name": "CogVideoXDDIMScheduler",
        "rescale_betas_zero_snr": True,
        "snr_shift_scale": 3.0,
        "timestep_spacing": "trailing",
        "steps_offset": 0,
        "set_alpha_to_one": True,
    }
)
MOCHI = {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}


def shifted_levels(timesteps: list[float]) -> np.ndarray:
    """Of CogVideoX: the shares of signal are shifted, then the last one is made nothing."""
    bars = BARS / (3.0 + (1 - 3.0) * BARS)
    roots = np.sqrt(bars)
    bars = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return np.sqrt((1 - bars) / np.maximum(bars, 1e-12))[np.array(timesteps).astype(int)]


@pytest.mark.parametrize(
    ("text", "config", "expected"),
    [
        ("edm_euler:8", EDM, lambda times: np.exp(4 * times)),
        ("edm_dpmpp_2m:8", EDM, lambda times: np.exp(4 * times)),
        ("euler_continuous:8", SVD, lambda times: np.exp(4 * times)),
        ("cogvideox_ddim:8", COGVIDEOX, shifted_levels),
        ("cogvideox_dpm:8", COGVIDEOX, shifted_levels),
        ("flow_euler:8", MOCHI, lambda times: (1 - times / 1000) / np.maximum(times / 1000, 1e-6)),
    ],
)
def test_levels_of_models_on_other_axes_are_those_that_their_times_name(
    text: str, config: dict[str, Any], expected: Any
) -> None:
    lint = lint_lane(parse_lane(text), config)
    assert lint.probe is not None
    found, times = np.array(lint.probe.sigmas), np.array(lint.probe.timesteps)
    assert (np.diff(found) < 0).all()
    np.testing.assert_allclose(found[1:], expected(times)[1:], rtol=1.1e-3)
    assert found[0] == pytest.approx(expected(times)[0], rel=1e-3) or found[0] > 1e4, "nothing but noise"
    assert (lint.probe.final_sigma, lint.probe.jumps_to_zero) == (0.0, True)
    assert not any(finding.severity == "error" for finding in lint.findings)
    assert not codes(lint) & {"wrong_level", "rising_timesteps", "repeated_timestep", "outside_training"}


def test_a_solver_of_continuous_levels_that_is_told_others_is_found() -> None:
    class Late(diffusers.EDMEulerScheduler):
        def precondition_noise(self, sigma: Any) -> Any:
            return super().precondition_noise(sigma) - 0.1

    found = probe(Late.from_config(EDM), 8)
    np.testing.assert_allclose(np.array(found.told) * math.exp(0.4), found.sigmas, rtol=1e-3)


def test_levels_are_told_by_the_schedule_that_the_model_was_trained_on() -> None:
    """InvokeAI #7601: a lane that changes the noise schedule tells the model other levels than it knows."""
    lane = lane_with("euler:10", beta_end=0.02)
    lint = lint_lane(lane, SD_SCHEDULER)
    assert lint.probe is not None
    places = np.array(lint.probe.timesteps)
    np.testing.assert_allclose(lint.probe.told, np.interp(places, np.arange(1000), SIGMAS), rtol=0.01)
    assert lint.probe.sigmas[0] > 1.5 * lint.probe.told[0]
    assert "wrong_level" in codes(lint)


def test_a_shift_that_the_pipeline_hands_over_is_the_one_that_is_measured() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "max_shift": 1.15}
    sigmas = [1.0, 0.75, 0.5, 0.25]
    for mu, handed in ((0.6, {"mu": 0.6, "sigmas": sigmas}), (1.15, {"sigmas": sigmas, "mu": 1.15})):
        found = lint_lane(parse_lane("flow_euler:4"), config, handed=handed).probe
        assert found is not None
        shares = math.exp(mu) / (math.exp(mu) + (1 / np.array(sigmas[1:]) - 1))
        np.testing.assert_allclose(found.sigmas[1:], shares / (1 - shares), rtol=1e-3)


@pytest.mark.parametrize("key", DISCRETE)
def test_only_real_first_order_jumps_to_zero_are_called_so(key: str) -> None:
    found = probed(parse_lane(f"{key}:{STEPS}"))
    assert found.jumps_to_zero == (key not in (*STOPS_NOISY, "lms")), "LMS ends at zero with all its history"


def test_a_leading_schedule_starts_below_the_highest_level_with_pure_noise() -> None:
    lint = lint_lane(parse_lane("ddim:20"), SD_SCHEDULER)
    [finding] = [finding for finding in lint.findings if finding.code == "start"]
    assert lint.probe is not None
    assert lint.probe.starts_as_noise
    assert lint.probe.sigmas[0] == pytest.approx(SIGMAS[951], rel=1e-4)
    assert "timestep 951" in finding.message
    assert f"{math.sqrt(BARS[951]):.1%} of signal" in finding.message


def test_the_long_last_step_of_default_second_order_solvers_is_a_warning_and_karras_repairs_it() -> None:
    def severity(text: str, **overrides: Any) -> str:
        findings = lint_lane(lane_with(text, **overrides), SD_SCHEDULER).findings
        return next(finding.severity for finding in findings if finding.code in {"last_jump", "stops_noisy"})

    assert severity("dpmpp_2m:20") == "warning"
    assert severity("unipc:20") == "warning"
    assert severity("dpmpp_2m_karras:20") == "info"
    assert severity("dpmpp_2m:20", final_sigmas_type="sigma_min") == "info"
    assert severity("euler:20", timestep_spacing="trailing") == "info", "a first-order solver loses no order"
    assert probed(parse_lane("dpmpp_2m:20")).sigmas[-1] == pytest.approx(0.2256, abs=5e-4)


def test_the_advice_against_the_long_last_step_is_what_was_measured_to_help() -> None:
    [finding] = [
        finding
        for finding in lint_lane(parse_lane("dpmpp_2m:20"), SD_SCHEDULER).findings
        if finding.code == "last_jump"
    ]
    bug = known_bugs.bug_of("last_jump")
    assert bug is not None
    for text in (finding.message, bug.remedy):
        assert "Karras levels" in text
        assert "noise in the picture" in text


def test_the_levels_of_the_gaussian_model_are_those_of_its_pipeline() -> None:
    source, pipe = find_model("gaussian"), build_pipeline()
    assert {key: pipe.scheduler.config[key] for key in source.scheduler_config if key != "_class_name"} == {
        key: value for key, value in source.scheduler_config.items() if key != "_class_name"
    }
    for text in ("ddim:10", "dpmpp_2m:10", "euler:10"):
        lint = lint_lane(parse_lane(text), source.scheduler_config)
        built = probe(build_scheduler(parse_lane(text), pipe.scheduler.config), 10)
        assert lint.probe is not None
        assert lint.probe.sigmas == pytest.approx(built.sigmas)
        if text == "euler:10":
            assert lint.probe.sigmas[0] == pytest.approx(14.6, abs=0.05)


def test_settings_say_where_they_come_from() -> None:
    config = SD_SCHEDULER | {"timestep_spacing": "leading", "use_karras_sigmas": True, "set_alpha_to_one": False}
    lane = lane_with("dpmpp_2m:10", solver_order=3)
    found = {setting.name: setting for setting in lane_settings(lane, config)}
    origins = {
        "solver_order": "lane",
        "use_karras_sigmas": "table",
        "timestep_spacing": "model",
        "lower_order_final": "default",
        "set_alpha_to_one": "ignored",
    }
    assert {name: found[name].origin for name in origins} == origins
    assert (found["use_karras_sigmas"].value, found["use_karras_sigmas"].replaced) == (False, True)
    bare = {key: value for key, value in SD_SCHEDULER.items() if key != "clip_sample"}
    clip = {setting.name: setting for setting in lane_settings(parse_lane("ddim:10"), bare)}["clip_sample"]
    assert (clip.value, clip.origin) == (False, "lab")
    resolved = build_scheduler(lane, config).config
    assert all(resolved[name] == setting.value for name, setting in found.items() if setting.origin != "ignored")


def test_defaults_that_a_loaded_scheduler_fills_in_do_not_count_as_the_models() -> None:
    stored = diffusers.PNDMScheduler.from_config(SD_SCHEDULER).config
    found = {setting.name: setting.origin for setting in lane_settings(parse_lane("euler:10"), stored)}
    assert found["timestep_spacing"] == "default"
    assert found == {s.name: s.origin for s in lane_settings(parse_lane("euler:10"), SD_SCHEDULER)} | {
        name: origin for name, origin in found.items() if origin == "ignored"
    }


class ShiftedEuler(diffusers.EulerDiscreteScheduler):
    """A scheduler with an off-by-one: it tells the denoiser the timestep after the one it is at."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.timesteps = (self.timesteps + 1).clamp(max=999)


class Stumbling(diffusers.EulerDiscreteScheduler):
    """A scheduler that raises in its second step."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        if self.step_index:
            raise RuntimeError("stumbled")
        return super().step(*args, **kwargs)


def test_an_off_by_one_of_a_plug_in_is_found() -> None:
    entry = Scheduler("shifted", "Shifted", f"{__name__}:ShiftedEuler")
    lint = lint_lane(Lane("shifted:10", entry, 10), SD_SCHEDULER)
    [finding] = [finding for finding in lint.findings if finding.code == "wrong_level"]
    assert finding.severity == "warning"
    assert "at call 9" in finding.message, "where one timestep weighs most"
    assert not codes(lint_lane(parse_lane("euler:10"), SD_SCHEDULER)) & {"wrong_level", "rounded_timesteps"}
    karras = codes(lint_lane(parse_lane("dpmpp_2m_karras:50"), SD_SCHEDULER))
    assert "rounded_timesteps" in karras
    assert "wrong_level" not in karras


def test_a_scheduler_that_raises_is_a_finding_not_a_crash() -> None:
    lint = lint_lane(Lane("x:4", Scheduler("x", "X", f"{__name__}:Stumbling"), 4), SD_SCHEDULER)
    assert lint.probe is None
    assert lint.findings[0].severity == "error"
    assert "RuntimeError: stumbled" in lint.findings[0].message


BREAKING: dict[str, tuple[Lane, dict[str, Any]]] = {
    "fixed_stride_linspace": (lane_with("ddim:9", timestep_spacing="linspace"), {}),
    "fixed_stride_trailing": (lane_with("pndm:30", timestep_spacing="trailing"), {}),
    "outside_training": (parse_lane("ddim:1000"), {}),
    "clip_sample": (lane_with("ddim:10", clip_sample=True), {}),
    "inherited": (parse_lane("dpmpp_2m:10"), {"timestep_spacing": "leading"}),
    "solver_to_zero": (lane_with("dpmpp_2m:10", algorithm_type="dpmsolver"), {}),
    "zero_snr": (lane_with("ddim:10", rescale_betas_zero_snr=True), {}),
    "repeated_timestep": (parse_lane("dpmpp_2m_karras:50"), {}),
    "rounded_timesteps": (parse_lane("dpmpp_2m_karras:20"), {}),
    "last_jump": (parse_lane("dpmpp_2m:20"), {}),
    "stops_noisy": (parse_lane("deis:20"), {}),
    "start": (parse_lane("ddim:20"), {}),
    "more_calls": (parse_lane("pndm:20"), {}),
    "pndm_velocity": (parse_lane("pndm:20"), V),
}


@pytest.mark.parametrize("bug", KNOWN_BUGS, ids=lambda bug: bug.code)
def test_each_known_bug_still_holds_in_the_installed_diffusers(bug: KnownBug) -> None:
    assert bug.holds(), f"diffusers {diffusers.__version__} no longer does it: remove the entry and what warns of it"


@pytest.mark.parametrize("code", [bug.code for bug in KNOWN_BUGS if bug.code != "one_timestep"])
@pytest.mark.filterwarnings("ignore:.*algorithm_type.*:FutureWarning")
def test_each_known_bug_is_found_in_a_lane_that_has_it_and_not_in_one_that_has_not(code: str) -> None:
    lane, config = BREAKING[code]
    assert code in codes(lint_lane(lane, SD_SCHEDULER | config))
    assert code not in codes(lint_lane(parse_lane("lms:10"), {**SD_SCHEDULER, "steps_offset": 0}))


def test_ddpm_follows_its_own_list_of_timesteps_so_that_any_step_count_may_trail() -> None:
    found = probed(lane_with("ddpm:30", timestep_spacing="trailing"))
    assert known_bugs.worst_level(found) < 1e-4


def test_an_entry_that_no_longer_holds_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mended = KnownBug("mended", (1,), "0.1", "something", "nothing", lambda: False)
    monkeypatch.setattr(known_bugs, "KNOWN_BUGS", (mended,))
    assert main(["lint", "--bugs"]) == 1
    assert "NO LONGER" in capsys.readouterr().out
