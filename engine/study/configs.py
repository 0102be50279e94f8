"""Makes lanes from `scheduler_configs`, the dictionary of the Python API."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from engine.errors import StudyError, did_you_mean
from engine.study.custom_schedules import CustomSchedule
from engine.study.lanes import Lane, check_steps, described, known_schedule
from engine.study.reading import custom_schedule
from engine.study.schedulers import SCHEDULERS, Scheduler

KEY_LETTERS, DIGEST_LETTERS = 64, 8
CONFIG_KEYS = ("scheduler_class", "num_inference_steps", "description", "config", "timesteps", "sigmas")


def lane_of(name: str, config: Mapping[str, Any]) -> Lane:
    """The lane of an entry of `scheduler_configs`.

    Raises:
        StudyError: A key is missing or unknown, a value is of the wrong kind, or a tuned schedule is asked for at
            another number of steps or with settings of its own.
    """
    if not isinstance(config, Mapping):
        raise StudyError(f"scheduler_configs['{name}'] must be a dict, not {config!r}.")
    for key in config:
        if key not in CONFIG_KEYS:
            raise StudyError(f"scheduler_configs['{name}']: unknown key '{key}'.{did_you_mean(key, CONFIG_KEYS)}")
    for key in CONFIG_KEYS[:2]:
        if key not in config:
            raise StudyError(f"scheduler_configs['{name}'] lacks '{key}'.")
    overrides, description = config.get("config", {}), config.get("description", "")
    if not isinstance(overrides, Mapping):
        raise StudyError(f"scheduler_configs['{name}']: config must be a dict, not {overrides!r}.")
    if not isinstance(description, str):
        raise StudyError(f"scheduler_configs['{name}']: description must be text, not {description!r}.")
    steps = check_steps(name, config["num_inference_steps"])
    entry = _entry(name, config["scheduler_class"])
    schedule = _schedule(name, config, entry, steps)
    if overrides or schedule:
        if entry.levels == "tuned":
            raise StudyError(f"scheduler_configs['{name}']: '{entry.key}' was tuned as it is; give it no settings.")
        # A variant gets its own key, so that it can be compared with the plain scheduler.
        entry = replace(entry, key=_key(name), label=name)
    schedule = schedule or known_schedule(entry, steps)
    return Lane(f"{entry.key}:{steps}", entry, steps, dict(overrides), described(entry, description), schedule)


def _schedule(name: str, config: Mapping[str, Any], entry: Scheduler, steps: int) -> CustomSchedule | None:
    """The list of timesteps or sigmas, if one is given."""
    where, kinds = f"scheduler_configs['{name}']", [key for key in ("timesteps", "sigmas") if key in config]
    if not kinds:
        return None
    if len(kinds) > 1:
        raise StudyError(f"{where}: 'timesteps' and 'sigmas' both set the schedule; give one of them.")
    schedule = custom_schedule(kinds[0], config[kinds[0]], where)
    told = schedule.steps(entry.target.rpartition(":")[2])
    if told != steps:
        raise StudyError(f"{where}: '{kinds[0]}' has {told} steps, num_inference_steps is {steps}; make them agree.")
    return schedule


def _entry(name: str, scheduler_class: Any) -> Scheduler:
    """The registered entry of a key or a scheduler class, or a new one."""
    if isinstance(scheduler_class, str) and scheduler_class in SCHEDULERS:
        return SCHEDULERS[scheduler_class]
    if isinstance(scheduler_class, str):
        target = scheduler_class if ":" in scheduler_class else f"diffusers:{scheduler_class}"
    elif inspect.isclass(scheduler_class):
        root = scheduler_class.__module__.partition(".")[0]
        module = "diffusers" if root == "diffusers" else scheduler_class.__module__
        target = f"{module}:{scheduler_class.__qualname__}"
    else:
        raise StudyError(f"scheduler_configs['{name}']: scheduler_class must be a class, not {scheduler_class!r}.")
    known = next((entry for entry in SCHEDULERS.values() if entry.target == target), None)
    if known is not None:
        return known
    return SCHEDULERS.check(Scheduler(_key(name), name, target))


def _key(name: str) -> str:
    """A unique, stable key for a name.

    Names of letters, digits, '.', '+', '-' and single spaces are kept, with underscores for spaces. Other characters
    would be lost, so such names, and those of registered schedulers, also get a digest.
    """
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "_", name).strip("_").lstrip(".+-_")
    if plain.replace("_", " ") == name and 0 < len(plain) <= KEY_LETTERS and plain not in SCHEDULERS:
        return plain
    room = KEY_LETTERS - DIGEST_LETTERS - 1
    return f"{plain[:room] or 'scheduler'}_{sha256(name.encode()).hexdigest()[:DIGEST_LETTERS]}"
