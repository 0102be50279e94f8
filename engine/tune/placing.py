"""Converts between noise levels, which a search moves, and the timesteps or sigmas that a scheduler class takes."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import StudyError
from engine.sampling.building import build_scheduler
from engine.study.custom_schedules import (
    ARRAYS,
    TAKEN,
    WHOLE_TIMESTEPS,
    WITH_LAST_SIGMA,
    CustomSchedule,
    timesteps_at,
    training_sigmas,
)
from engine.study.families import kind_of
from engine.study.lanes import Lane, parse_lane
from engine.study.schedulers import SCHEDULERS, Scheduler
from engine.study.tunable import same_solver, sets_levels, tunable_schedulers

Levels = npt.NDArray[np.float64]
# Levels closer than this, in log sigma, count as the same.
CLOSEST = 0.02
# Start of flows, whose pure noise has no finite level.
NOISE = math.log(1e6)
# Placements that a search starts from, by the suffix of the scheduler's key.
KNOWN_STARTS = ("karras", "ays", "beta", "exponential", "lu")


class Placing:
    """Places levels for a scheduler at a number of steps.

    Levels are log(noise / signal), falling. For flows they are taken before the shift, which only adds a constant.

    Args:
        scheduler: The scheduler to tune, which must place its levels as its class does by default.
        steps: Number of steps.
        config: The model's own scheduler configuration.

    Raises:
        StudyError: The scheduler takes no list on this model, draws noise, or places its levels itself.
    """

    def __init__(self, scheduler: Scheduler, steps: int, config: Mapping[str, Any]) -> None:
        self.lane = Lane(f"{scheduler.key}:{steps}", scheduler, steps)
        self.steps, self.config = steps, config
        self.flow = kind_of(config) == "flow"
        name = self.lane.scheduler_class
        kinds = TAKEN.get(name, ()) if kind_of(config) == "flow" or name not in ARRAYS else ()
        if scheduler.stochastic:
            raise StudyError(
                f"'{scheduler.key}' draws noise, so its pictures have no converged solution to be compared with."
            )
        if not kinds or (self.flow and "sigmas" not in kinds) or (not self.flow and training_sigmas(config) is None):
            raise StudyError(
                f"'{scheduler.key}' takes no list of timesteps or sigmas on this model, so it can't be tuned. "
                f"These do on some: {', '.join(tunable_schedulers())}."
            )
        if sets_levels(scheduler):
            others = same_solver(scheduler) or tunable_schedulers()
            raise StudyError(
                f"'{scheduler.key}' places its noise levels itself, so it can't be tuned. "
                f"Tune {' or '.join(others)} instead."
            )
        self.kind = "sigmas" if self.flow or name in WITH_LAST_SIGMA else "timesteps"
        self.whole = name in WHOLE_TIMESTEPS and self.kind == "timesteps"
        known = training_sigmas(config)
        self.lowest = math.log(1e-3) if known is None else float(np.log(known[0]))
        self.highest = NOISE if known is None else float(np.log(known[-1]))

    def schedule(self, levels: Levels) -> CustomSchedule | None:
        """The list for these levels; None if two of them coincide or one is below the model's lowest."""
        if bool((np.diff(levels) > -CLOSEST).any()) or levels[-1] < self.lowest - CLOSEST / 10:
            return None
        sigmas = np.exp(np.clip(levels, self.lowest, self.highest))
        if self.flow:
            return CustomSchedule("sigmas", tuple(round(float(share), 5) for share in sigmas / (1 + sigmas)))
        if self.kind == "sigmas":
            return CustomSchedule("sigmas", (*(float(f"{sigma:.6g}") for sigma in sigmas), 0.0))
        timesteps = timesteps_at(sigmas.tolist(), self.config)
        found = tuple(float(t) for t in (timesteps.round() if self.whole else timesteps.round(2)))
        return CustomSchedule("timesteps", found) if len(set(found)) == len(found) else None

    def levels(self, schedule: CustomSchedule) -> Levels:
        """The levels of a list."""
        values = np.array(schedule.values[: self.steps], float)
        if self.flow:
            return np.array([NOISE if s >= 1 else math.log(s / (1 - s)) for s in values])
        if schedule.kind == "sigmas":
            return np.log(values)
        known = training_sigmas(self.config)
        assert known is not None  # checked above
        return np.interp(values, np.arange(len(known)), np.log(known))

    def with_schedule(self, schedule: CustomSchedule) -> Lane:
        """The lane with a custom schedule."""
        return replace(self.lane, schedule=schedule)

    def starts(self) -> dict[str, Levels]:
        """Levels to start a search from, by name: the class's default and those of its variants."""
        if self.flow:
            even = np.linspace(1, 1 / self.steps, self.steps)
            return {"default": self.levels(CustomSchedule("sigmas", tuple(even.tolist())))}
        found = {"default": self._placed(self.lane)}
        for name in KNOWN_STARTS:
            key = f"{self.lane.scheduler.key}_{name}"
            if key in SCHEDULERS:
                found[name] = self._placed(parse_lane(f"{key}:{self.steps}"))
        return {name: levels for name, levels in found.items() if self.schedule(levels) is not None}

    def _placed(self, lane: Lane) -> Levels:
        """The levels of a lane's steps as its scheduler places them, without Heun's second calls."""
        scheduler = build_scheduler(lane, self.config)
        scheduler.set_timesteps(self.steps)
        sigmas = np.asarray(scheduler.sigmas.cpu(), float)
        sigmas = sigmas[sigmas > 0]
        if lane.scheduler.calls == "2*steps-1":
            sigmas = sigmas[[0, *range(1, len(sigmas), 2)]][: self.steps]
        return np.clip(np.log(sigmas[: self.steps]), self.lowest, self.highest)
