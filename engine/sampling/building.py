"""Builds a lane's scheduler from the model's own configuration."""

import copy
import functools
import importlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine.errors import StudyError, did_you_mean
from engine.study.custom_schedules import FITTED, CustomSchedule
from engine.study.families import kind_of
from engine.study.lanes import Lane, unusual
from engine.study.schedulers import ALGORITHMS, SPACINGS


def build_scheduler(lane: Lane, model_config: Mapping[str, Any], seed: int = 0) -> Any:
    """A fresh scheduler for one cell.

    Every scheduler starts from the model's own configuration. Settings that the model leaves at a default keep the
    default of the new class; latents are never clipped; Brownian-tree samplers are seeded. A custom schedule is set
    whatever the pipeline requests: the same as `pipe(..., timesteps=...)`, also for pipelines without that argument.

    Raises:
        StudyError: The class cannot be found or built, or an override is not one of its parameters.
    """
    scheduler_class = scheduler_type(lane)
    parameters = inspect.signature(scheduler_class.__init__).parameters
    overrides = _checked_overrides(lane, scheduler_class, parameters)
    if "clip_sample" in parameters:
        overrides.setdefault("clip_sample", False)
    if "noise_sampler_seed" in parameters:
        overrides.setdefault("noise_sampler_seed", seed % 2**63)
    foreign = model_config.get("_class_name") != scheduler_class.__name__
    choices = [*ALGORITHMS, *unusual(model_config)] if foreign else []
    overrides = {**_pinned(lane, parameters, choices), **_flow(model_config, parameters), **overrides}
    try:
        scheduler = scheduler_class.from_config(model_config, **overrides)
    except Exception as error:
        raise StudyError(f"Lane '{lane.key}': {scheduler_class.__name__} refuses its configuration: {error}") from error
    return _scheduled(scheduler, lane)


class Schedulers:
    """Builds fresh schedulers for many cells of one model, as `build_scheduler` does, but each lane's only once.

    Further ones are copies of one that was never used. What diffusers does not contain, and what depends on the seed,
    is always built anew.
    """

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        self._model_config = model_config
        self._unused: dict[str, tuple[Lane, Any]] = {}

    def fresh(self, lane: Lane, seed: int) -> Any:
        """A fresh scheduler for one cell.

        Raises:
            StudyError: As in `build_scheduler`.
        """
        known, unused = self._unused.get(lane.key, (None, None))
        if known != lane:
            unused = build_scheduler(replace(lane, schedule=None), self._model_config, seed)
            if not type(unused).__module__.startswith("diffusers.") or "noise_sampler_seed" in unused.config:
                return _scheduled(unused, lane)
            self._unused[lane.key] = lane, unused
        return _scheduled(copy.deepcopy(unused), lane)


def _scheduled(scheduler: Any, lane: Lane) -> Any:
    """The scheduler, with the lane's custom schedule if it has one."""
    if lane.schedule is not None:
        _set_schedule(scheduler, lane.key, lane.schedule)
    return scheduler


def _set_schedule(scheduler: Any, lane: str, schedule: CustomSchedule) -> None:
    """Makes `set_timesteps` of a scheduler use the lane's timesteps or sigmas, and `step` its coefficients."""
    own, name = scheduler.set_timesteps, type(scheduler).__name__
    if schedule.kind not in inspect.signature(own).parameters:
        raise StudyError(f"Lane '{lane}': set_timesteps of {name} takes no {schedule.kind}.")

    @functools.wraps(own)
    def set_timesteps(num_inference_steps: int | None = None, device: Any = None, **options: Any) -> None:
        asked = {key: value for key, value in options.items() if key not in {"timesteps", "sigmas"}}
        own(device=device, **asked, **schedule.argument(name))

    scheduler.set_timesteps, scheduler.custom_schedule = set_timesteps, schedule
    if schedule.coefficients:
        if name not in FITTED:
            raise StudyError(f"Lane '{lane}': {name} takes no coefficients.")
        from engine.sampling.fitted import FittedDPMSolver

        scheduler.__class__, scheduler.coefficients = FittedDPMSolver, schedule.coefficients


def _pinned(lane: Lane, parameters: Mapping[str, inspect.Parameter], choices: Iterable[str]) -> dict[str, Any]:
    """Switches of the model's scheduler that must not apply to a registered entry.

    A configuration written for another solver (DEIS, `sde-dpmsolver++`, exponential levels) would be refused, or would
    turn this solver into another one.
    """
    if SPACINGS[0] not in lane.scheduler.overrides:
        return {}
    pinned = {name: parameters[name].default for name in choices if name in parameters}
    return pinned | {name: False for name in SPACINGS if name in parameters}


def _flow(model_config: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Settings for a flow model; the name of the shift depends on the kind of solver."""
    if kind_of(model_config) != "flow":
        return {}
    shift = model_config.get("flow_shift", model_config.get("shift", 1.0))
    if "use_flow_sigmas" in parameters:
        return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    return {"shift": shift} if "shift" in parameters and "shift" not in model_config else {}


def scheduler_type(lane: Lane) -> type[Any]:
    """The class of a lane's scheduler.

    Raises:
        StudyError: It cannot be imported, or is not a diffusers scheduler.
    """
    module, _, name = lane.scheduler.target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise StudyError(
            f"Lane '{lane.key}': scheduler class '{lane.scheduler.target}' cannot be imported: {error}."
            + (did_you_mean(name, dir(importlib.import_module("diffusers"))) if module == "diffusers" else "")
        ) from error
    needed = [part for part in ("from_config", "set_timesteps", "step") if not hasattr(found, part)]
    if not isinstance(found, type) or needed:
        raise StudyError(
            f"Lane '{lane.key}': '{lane.scheduler.target}' is not a diffusers scheduler"
            + (f" (no {needed[0]}); derive it from SchedulerMixin and ConfigMixin." if needed else ".")
        )
    return found


def resolved_config(scheduler: Any) -> dict[str, Any]:
    """Every setting that a scheduler uses, as plain JSON data."""
    config = {key: value for key, value in dict(scheduler.config).items() if not key.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps(config, default=_plain))
    schedule = getattr(scheduler, "custom_schedule", None)
    return plain | {"class": type(scheduler).__name__} | (schedule.spec() if schedule else {})


def _checked_overrides(lane: Lane, scheduler_class: type[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in lane.config:
        if key not in parameters and not open_ended:
            remedy = did_you_mean(key, parameters)
            if key in inspect.signature(scheduler_class.step).parameters:
                remedy = f" It is an argument of the pipeline call: set it in a table [pipeline], {key} = ..."
            raise StudyError(f"Lane '{lane.key}': {scheduler_class.__name__} has no setting '{key}'.{remedy}")
    return dict(lane.config)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) or hasattr(value, "tolist") else str(value)
