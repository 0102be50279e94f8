"""Custom schedules, lists of timesteps or sigmas: which classes take them, and what can be wrong with them.

The lists are those of `pipe(..., timesteps=...)` and `sigmas=...` in diffusers. How its classes read them, and where
they silently misread them, was checked in the source and by running diffusers 0.42.1. Imports no torch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

ScheduleKind = Literal["timesteps", "sigmas"]
Remark = tuple[Literal["error", "warning", "info"], str, str]

# What each diffusers class takes; all others take neither.
TAKEN: Mapping[str, tuple[ScheduleKind, ...]] = {
    "DDPMScheduler": ("timesteps",),
    "DPMSolverMultistepScheduler": ("timesteps",),
    "DPMSolverSinglestepScheduler": ("timesteps",),
    "EulerDiscreteScheduler": ("timesteps", "sigmas"),
    "HeunDiscreteScheduler": ("timesteps",),
    "LCMScheduler": ("timesteps",),
    "TCDScheduler": ("timesteps",),
    "FlowMatchEulerDiscreteScheduler": ("sigmas",),
    "FlowMatchLCMScheduler": ("sigmas",),
    "UniPCMultistepScheduler": ("sigmas",),
}
# Classes that truncate timesteps to whole numbers.
WHOLE_TIMESTEPS = frozenset(TAKEN) - {"EulerDiscreteScheduler", "HeunDiscreteScheduler"}
# Classes whose list of sigmas includes the final level.
WITH_LAST_SIGMA = frozenset({"EulerDiscreteScheduler"})
# Classes that compute with the list, so it must be an array.
ARRAYS = frozenset({"UniPCMultistepScheduler"})
# Classes whose steps can be corrected by coefficients, and how many a step takes.
FITTED = {"DPMSolverMultistepScheduler": 3}
# What to use instead of a class that takes no list.
INSTEAD = {
    "DDIMScheduler": "Euler does, and solves the same equation",
    "DEISMultistepScheduler": "DPM++ 2M does",
    "FlowMatchHeunDiscreteScheduler": "Flow Euler does",
    "UniPCMultistepScheduler": "DPM++ 2M does; UniPC takes sigmas only for flow models",
}

# Align Your Steps (Sabour et al. 2024, arXiv:2404.14507): levels for ten steps, ending at timestep 0.
_AYS_TIMESTEPS = {
    "sd": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0),
}
_AYS_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@dataclass(frozen=True)
class CustomSchedule:
    """A list of timesteps or sigmas, as `set_timesteps` of a scheduler takes it, and how its steps are corrected.

    Attributes:
        kind: What the values are.
        values: From noise to picture.
        coefficients: Of sample, x0 estimate and the estimate before, which are added to the result of each step; empty
            to take the steps as they are (`engine.sampling.fitted`).
    """

    kind: ScheduleKind
    values: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...] = ()

    def steps(self, scheduler_class: str) -> int:
        """The number of steps that a class makes of it."""
        return len(self.values) - (self.kind == "sigmas" and scheduler_class in WITH_LAST_SIGMA)

    @property
    def plain(self) -> "CustomSchedule":
        """The list without coefficients."""
        return replace(self, coefficients=())

    def spec(self) -> dict[str, list[Any]]:
        """Plain data; whole timesteps become integers."""
        whole = self.kind == "timesteps"
        values = [int(value) if whole and value == int(value) else float(value) for value in self.values]
        return {self.kind: values} | (
            {"coefficients": [list(row) for row in self.coefficients]} if self.coefficients else {}
        )

    def argument(self, scheduler_class: str) -> dict[str, Any]:
        """The argument of `set_timesteps`."""
        spec: dict[str, Any] = self.plain.spec()
        return {key: np.array(values) for key, values in spec.items()} if scheduler_class in ARRAYS else spec


def takes_coefficients(target: str, config: Mapping[str, Any]) -> bool:
    """Whether fitted coefficients can correct the steps of a class, `module:Class`, with a configuration."""
    return target.rpartition(":")[2] in FITTED and config.get("algorithm_type") == "dpmsolver++"


def training_sigmas(config: Mapping[str, Any]) -> npt.NDArray[np.float64] | None:
    """Noise over signal at each training timestep; None if the configuration has no linear or scaled-linear betas."""
    if "FlowMatch" in str(config.get("_class_name", "")) or config.get("prediction_type") == "flow_prediction":
        return None
    start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    count, schedule = int(config.get("num_train_timesteps", 1000)), config.get("beta_schedule", "linear")
    if config.get("trained_betas") or schedule not in {"linear", "scaled_linear"}:
        return None
    betas = np.linspace(start, end, count) if schedule == "linear" else np.linspace(start**0.5, end**0.5, count) ** 2
    signal = np.cumprod(1 - betas)
    sigmas: npt.NDArray[np.float64] = np.sqrt((1 - signal) / signal)
    return sigmas


def timesteps_at(sigmas: Sequence[float], config: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """The timesteps, with fractions, at which a model's noise schedule has these levels.

    Raises:
        ValueError: The configuration has no noise schedule that `training_sigmas` knows.
    """
    known = training_sigmas(config)
    if known is None:
        raise ValueError("the noise schedule is not given by betas")
    return np.interp(np.log(sigmas), np.log(known), np.arange(len(known)))


def align_your_steps(steps: int, model: str = "sd") -> CustomSchedule:
    """Timesteps of Align Your Steps: the published list for ten steps, else its levels interpolated log-linearly.

    Args:
        steps: Number of steps.
        model: "sd" or "sdxl", each of which has its own list.
    """
    known = training_sigmas(_AYS_BETAS)
    assert known is not None  # it is given by betas
    listed = np.log(known[list(_AYS_TIMESTEPS[model])])
    levels = np.interp(np.linspace(0, 10, steps + 1)[:-1], np.arange(11), listed)
    found = timesteps_at(np.exp(levels).tolist(), _AYS_BETAS).round()
    return CustomSchedule("timesteps", tuple(found.tolist()))


def remarks(
    schedule: CustomSchedule, scheduler_class: str, config: Mapping[str, Any], spacings: Sequence[str]
) -> Iterator[Remark]:
    """What is wrong with a list for a class on a model: severity, code and message.

    Args:
        schedule: The list.
        scheduler_class: Name of the diffusers class.
        config: The model's scheduler configuration, overridden by the lane's.
        spacings: Names of settings that place the levels themselves.
    """
    kind = schedule.kind
    taken = TAKEN.get(scheduler_class, ())
    flow = "FlowMatch" in scheduler_class or str(config.get("prediction_type")) == "flow_prediction"
    flow = flow or "FlowMatch" in str(config.get("_class_name", "")) or bool(config.get("use_flow_sigmas"))
    if kind not in taken or (scheduler_class in ARRAYS and not flow):
        yield "error", "no_custom_schedule", _refusal(scheduler_class, kind, () if scheduler_class in ARRAYS else taken)
        return
    if kind == "timesteps" and flow:
        yield (
            "error",
            "no_custom_schedule",
            f"{scheduler_class} takes no list of timesteps for a flow model.",
        )
        return
    on = [name for name in spacings if config.get(name)]
    if on:
        yield "error", "two_schedules", f"{on[0]} also sets the levels; switch it off, or remove the {kind}."
    if kind == "timesteps" and config.get("interpolation_type") == "log_linear":
        yield "error", "two_schedules", f"{scheduler_class} ignores the list with interpolation_type 'log_linear'."
    yield from _of_coefficients(schedule, scheduler_class, config)
    yield from _of_values(schedule, scheduler_class)
    yield from _of_timesteps(schedule, scheduler_class, config) if kind == "timesteps" else ()
    yield from _of_sigmas(schedule, scheduler_class, config, flow) if kind == "sigmas" else ()


def _refusal(scheduler_class: str, kind: ScheduleKind, taken: Sequence[str]) -> str:
    remedy = f"give it {taken[0]}" if taken else INSTEAD.get(scheduler_class, "Euler and DPM++ 2M do")
    return f"{scheduler_class} takes no list of {kind}: {remedy}."


def _of_values(schedule: CustomSchedule, scheduler_class: str) -> Iterator[Remark]:
    pairs = list(pairwise(schedule.values))
    rising = [after for before, after in pairs if after > before]
    if rising:
        message = f"{schedule.kind} must fall from noise to picture; {rising[0]:g} follows a smaller one."
        yield "error", "unsorted_schedule", message
    twice = [after for before, after in pairs if after == before]
    if twice:
        message = f"{schedule.kind} has {twice[0]:g} twice: a step between equal levels does nothing."
        yield "error", "repeated_level", message
    elif not rising and schedule.kind == "timesteps" and scheduler_class in WHOLE_TIMESTEPS:
        cut = [int(value) for value in schedule.values]
        same = next((after for before, after in pairwise(cut) if after == before), None)
        if same is not None:
            yield "error", "repeated_level", f"{scheduler_class} truncates timesteps, which gives {same} twice."


def _of_coefficients(schedule: CustomSchedule, scheduler_class: str, config: Mapping[str, Any]) -> Iterator[Remark]:
    rows, count = schedule.coefficients, FITTED.get(scheduler_class)
    if rows and (count is None or config.get("algorithm_type", "dpmsolver++") != "dpmsolver++"):
        yield "error", "no_coefficients", f"{scheduler_class} with these settings takes no coefficients; remove them."
    elif rows and (len(rows) != schedule.steps(scheduler_class) or any(len(row) != count for row in rows)):
        yield "error", "no_coefficients", f"coefficients need a row of {count} numbers for each step."


def _of_timesteps(schedule: CustomSchedule, scheduler_class: str, config: Mapping[str, Any]) -> Iterator[Remark]:
    last = int(config.get("num_train_timesteps", 1000)) - 1
    outside = [value for value in schedule.values if not 0 <= value <= last]
    if outside:
        yield "error", "clipped_schedule", f"timestep {outside[0]:g} is outside the model's, 0 to {last}."
    fractions = [value for value in schedule.values if value != int(value)]
    if fractions and scheduler_class in WHOLE_TIMESTEPS:
        message = f"{scheduler_class} truncates {fractions[0]:g} to {int(fractions[0])}; give whole timesteps."
        yield "error", "fractional_timesteps", message


def _of_sigmas(
    schedule: CustomSchedule, scheduler_class: str, config: Mapping[str, Any], flow: bool
) -> Iterator[Remark]:
    *levels, last = schedule.values
    if scheduler_class in WITH_LAST_SIGMA:
        if last != 0:
            message = f"{scheduler_class} stops at the last of its sigmas; end the list with 0.0."
            yield "error", "stops_noisy", message
    else:
        levels.append(last)
        if last == 0:
            yield "error", "repeated_level", f"{scheduler_class} appends the final 0 itself; remove it."
    known = training_sigmas(config)
    low, high = (0.0, 1.0) if flow or known is None else (float(known[0]), float(known[-1]))
    high = math.inf if known is None and not flow else high
    outside = [level for level in levels if not low * (1 - 1e-3) <= level <= high * (1 + 1e-3)]
    if outside:
        yield (
            "error",
            "clipped_schedule",
            f"sigma {outside[0]:g} is outside {low:.4g} to {high:.4g}, the levels of the model"
            + (" (before its shift)." if flow else "; the denoiser would be given another one."),
        )
