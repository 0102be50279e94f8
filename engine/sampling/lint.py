"""Checks what a lane's scheduler really runs, and reports what is noteworthy.

`probe` measures the levels; the rules here turn them into findings, together with those of the configuration alone
(engine/study/lanes.py). Codes of findings are those of `known_bugs.py`.
"""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import diffusers

from engine.errors import StudyError
from engine.patience import patience
from engine.sampling.building import build_scheduler, resolved_config, scheduler_type
from engine.sampling.probe import NO_SIGNAL, Probe, probe
from engine.sampling.recording import NoiseLevels
from engine.study.families import family_of
from engine.study.lanes import Finding, Lane, check_lane

# Raised whenever a lane gets other findings or levels.
LINT_VERSION = 3

# Smaller relative differences of sigma are rounding errors.
SAME_LEVEL = 1e-3
# A last step to zero from more than this multiple of the model's lowest level reduces higher-order solvers to order 1.
LONG_JUMP = 2.0
# Stopping at 'sigma_min' is no remedy (docs/findings.md): DPM++ 2M gains nothing, UniPC a little, Karras lanes lose.
SHORTER_JUMP = (
    "Karras levels, or more steps near the end, shorten the jump; final_sigmas_type = 'sigma_min' does not "
    "repair it, it leaves the last level's noise in the picture"
)
# Settings that define the model rather than the way it is sampled.
OF_THE_MODEL = {
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
}

Origin = Literal["lane", "table", "lab", "model", "default", "ignored"]


@dataclass(frozen=True)
class Setting:
    """A value of a scheduler's configuration and where it comes from.

    Attributes:
        origin: "lane" (the study's), "table" (the scheduler's entry), "lab" (latents are never clipped, Brownian trees
            are seeded, switches of other solvers are off, flow settings are on), "model" (the model's scheduler
            configuration), "default" (the class's), "ignored" (the model has it, but the class does not take it).
        replaced: The model's own value, if it was replaced.
    """

    name: str
    value: Any
    origin: Origin
    replaced: Any = None


@dataclass(frozen=True)
class Lint:
    """The results for a lane on a model.

    Attributes:
        probe: The measured levels; None if the scheduler raised, which is then a finding.
        settings: All settings, by name.
        findings: Worst first.
    """

    lane: Lane
    probe: Probe | None
    settings: tuple[Setting, ...]
    findings: tuple[Finding, ...]


def lint_lane(
    lane: Lane, model_config: Mapping[str, Any], pipeline: str = "", handed: Mapping[str, Any] | None = None
) -> Lint:
    """Checks a lane on a model from the model's scheduler configuration alone, without weights.

    Args:
        lane: The lane.
        model_config: The model's own scheduler configuration (`scheduler/scheduler_config.json`).
        pipeline: The class name of the model's pipeline, if known.
        handed: What the pipeline passes to `set_timesteps` (`engine.sampling.dry_run`), if known.
    """
    findings = [
        *check_lane(lane, model_config, family_of(pipeline, model_config)),
        *_of_pipeline(lane, pipeline),
        *_of_coefficients(lane),
    ]
    measured, settings = None, tuple[Setting, ...]()
    try:
        settings = tuple(lane_settings(lane, model_config))
        plain = replace(lane, schedule=lane.schedule.plain) if lane.schedule else lane
        scheduler = build_scheduler(plain, model_config)  # coefficients fitted to a model don't fit a perfect denoiser
        with patience("while its noise levels were measured"):
            measured = probe(scheduler, lane.steps, handed, _trained_levels(model_config))
    except StudyError as error:
        findings.append(Finding("error", "not_built", str(error)))
    except Exception as error:  # any error of a scheduler
        findings.append(Finding("error", "raises", f"it raises {type(error).__name__}: {error}"))
    if measured is not None:
        findings += _of_levels(lane, measured)
    findings += _of_settings(lane, settings)
    order = {"error": 0, "warning": 1, "info": 2}
    return Lint(lane, measured, settings, tuple(sorted(findings, key=lambda finding: order[finding.severity])))


def _trained_levels(model_config: Mapping[str, Any]) -> NoiseLevels | None:
    """The noise schedule of the model, from its own scheduler; None if that is not from diffusers."""
    kind: Any = getattr(diffusers, str(model_config.get("_class_name")), None)
    return None if kind is None else NoiseLevels(kind.from_config(model_config))


def lane_settings(lane: Lane, model_config: Mapping[str, Any]) -> Iterator[Setting]:
    """Every setting of a lane's scheduler, then the model's settings that its class ignores.

    Raises:
        StudyError: As in `build_scheduler`.
    """
    taken = {
        name: parameter.default
        for name, parameter in inspect.signature(scheduler_type(lane).__init__).parameters.items()
        if name != "self"
    }
    left_out = set(model_config.get("_use_default_values") or ())
    models = {key: value for key, value in model_config.items() if not key.startswith("_") and key not in left_out}
    resolved = resolved_config(build_scheduler(lane, model_config))
    for name in sorted(taken.keys() & resolved.keys()):
        value, own = resolved[name], models.get(name)
        origin: Origin = "default"
        if name in lane.overrides:
            origin = "lane"
        elif name in lane.scheduler.overrides:
            origin = "table"
        elif name == "noise_sampler_seed" or (name == "clip_sample" and own is not False):
            origin = "lab"
        elif name in models:
            origin = "model" if value == own else "lab"
        yield Setting(name, value, origin, own if origin != "model" and own != value else None)
    for name in sorted(models.keys() - taken.keys()):
        yield Setting(name, models[name], "ignored")


def _of_pipeline(lane: Lane, pipeline: str) -> Iterator[Finding]:
    """Whether a custom schedule can be passed to the pipeline call, or only set in the scheduler."""
    found = getattr(diffusers, pipeline, None) if pipeline else None
    if lane.schedule is None or found is None:
        return
    kind, taken = lane.schedule.kind, inspect.signature(found.__call__).parameters
    if kind not in taken:
        yield Finding(
            "info",
            "wrapped_schedule",
            f"{pipeline} takes no '{kind}': set_timesteps of the scheduler is wrapped.",
        )
    if "strength" in taken and "image" in taken:
        yield Finding("warning", "cut_schedule", f"{pipeline} skips the part of the list that its strength excludes.")


def _of_coefficients(lane: Lane) -> Iterator[Finding]:
    if lane.schedule is not None and lane.schedule.coefficients:
        words = "fitted coefficients correct its steps; the levels are those of the schedule."
        yield Finding("info", "fitted", words)


def _of_levels(lane: Lane, found: Probe) -> Iterator[Finding]:
    """Findings about the measured levels."""
    calls = len(found.timesteps)
    if calls != lane.scheduler.expected_calls(lane.steps):
        yield Finding(
            "warning",
            "unexpected_calls",
            f"{calls} denoiser calls for {lane.steps} steps; the scheduler's entry "
            f"expects {lane.scheduler.expected_calls(lane.steps)}.",
        )
    elif calls != lane.steps:
        yield Finding("info", "more_calls", f"{calls} denoiser calls for {lane.steps} steps: compare at equal calls.")
    yield from _of_timesteps(found, planned_twice=calls != lane.steps)
    if found.starts_as_noise:
        signal = 1 / math.sqrt(1 + found.told[0] ** 2)
        yield Finding(
            "info",
            "start",
            f"the first call gets pure noise, though its timestep {found.timesteps[0]:g} stands for sigma "
            f"{found.told[0]:.3g}, with {signal:.1%} of signal.",
        )
    yield from _of_the_end(lane, found)


def _of_timesteps(found: Probe, *, planned_twice: bool) -> Iterator[Finding]:
    off = [
        0.0 if min(sigma, told) > NO_SIGNAL else abs(sigma / told - 1)
        for sigma, told in zip(found.sigmas, found.told, strict=True)
    ]
    worst = max(range(len(off)), key=off.__getitem__)
    if off[worst] > SAME_LEVEL:
        pairs = zip(found.timesteps, found.true_timesteps, off, strict=True)
        wrong = max(abs(a - b) for a, b, gap in pairs if gap > 0) > found.rounding
        yield Finding(
            "warning" if wrong else "info",
            "wrong_level" if wrong else "rounded_timesteps",
            f"the timestep stands for another noise level than that of the latents, by {off[worst]:.1%} of sigma "
            f"at call {worst} (timestep {found.told[worst]:.4g}, latents {found.sigmas[worst]:.4g})"
            + ("." if wrong else ": timesteps are rounded, levels are not."),
        )
    calls = list(zip(found.timesteps, found.sigmas, strict=True))
    twice = [a[0] for a, b in pairwise(calls) if a[0] == b[0] and abs(a[1] / b[1] - 1) > SAME_LEVEL]
    if twice and not planned_twice:  # Heun, PNDM and others call twice at a timestep on purpose
        listed = ", ".join(f"{timestep:g}" for timestep in twice)
        yield Finding("warning", "repeated_timestep", f"two levels share the timestep {listed}.")
    if any(b > a for a, b in pairwise(found.told)):
        yield Finding("warning", "rising_timesteps", "timesteps rise during the run.")
    if len(set(found.timesteps)) > 1 and found.timesteps[-1] < 0 and not found.log_time:
        yield Finding("error", "outside_training", f"the last timestep is {found.timesteps[-1]:g}.")


def _of_the_end(lane: Lane, found: Probe) -> Iterator[Finding]:
    last = found.sigmas[-1]
    if found.final_sigma > 0:
        yield Finding(
            "info",
            "stops_noisy",
            f"it stops at sigma {found.final_sigma:.3g}, after {last:.3g}: that much noise stays in the latents.",
        )
    elif found.jumps_to_zero:
        long = lane.scheduler.order > 1 and not lane.stochastic and last > LONG_JUMP * found.lowest
        yield Finding(
            "warning" if long else "info",
            "last_jump",
            f"the last step is a first-order jump from sigma {last:.3g} to 0"
            + (f": a solver of order {lane.scheduler.order} then shows order 1. {SHORTER_JUMP}." if long else "."),
        )


def _of_settings(lane: Lane, settings: Sequence[Setting]) -> Iterator[Finding]:
    if not settings:
        return
    defaults = inspect.signature(scheduler_type(lane).__init__).parameters
    inherited = [
        f"{setting.name} = {setting.value!r}"
        for setting in settings
        if setting.origin == "model"
        and setting.name not in OF_THE_MODEL
        and setting.value != defaults[setting.name].default
    ]
    if inherited:
        yield Finding(
            "info",
            "inherited",
            f"from the model's configuration, not {_class(lane)}'s default: " + ", ".join(inherited) + ".",
        )
    replaced = [
        f"{setting.name} = {setting.value!r} (model: {setting.replaced!r})"
        for setting in settings
        if setting.replaced is not None
    ]
    if replaced:
        yield Finding("info", "replaced", "instead of the model's own: " + ", ".join(replaced) + ".")
    ignored = [setting.name for setting in settings if setting.origin == "ignored"]
    if ignored:
        yield Finding("info", "ignored", f"{_class(lane)} does not take the model's {', '.join(ignored)}.")


def _class(lane: Lane) -> str:
    return lane.scheduler.target.rpartition(":")[2]
