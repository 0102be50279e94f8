"""The search: pictures are solved and recorded, starts are compared, and the best ones are refined.

Search, validation and test have disjoint prompts; those of the test are not used here. A search is identified by the
split and everything else that errors depend on, and its measurements are stored under that identity.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.analysis.calibration import is_other, picture_scale
from engine.errors import StudyError
from engine.measuring.formulas import relative_distance
from engine.progress import Progress
from engine.sampling.models import Model
from engine.study.cells import Cell, digest
from engine.study.custom_schedules import CustomSchedule
from engine.study.schedulers import Scheduler
from engine.tune.converged import ConvergedPictures, picture_key, solve, solver_of_high_budget
from engine.tune.evaluations import Evaluations
from engine.tune.local_errors import shortest, step_errors
from engine.tune.placing import Levels, Placing
from engine.tune.refining import Errors, Refined, Refiner, robust_mean
from engine.tune.trials import PromptSeed, TrialRun, Trials

Objective = Literal["latent_error", "other_pictures"]
# Each picture has its own seed, counted from these; those of the test start at 0.
SEARCH_SEED, VALIDATION_SEED = 1_000_001, 2_000_002
RECORDED_START = "local errors"


@dataclass(frozen=True)
class Split:
    """Disjoint prompts of search, validation and test."""

    search: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split_prompts(pool: Sequence[str], search: int, validation: int, test: int, seed: int = 0) -> Split:
    """Shuffles a pool and takes so many prompts for each part; the test gets fewer if the pool runs out.

    Raises:
        StudyError: The pool is too small.
    """
    order = [pool[place] for place in np.random.default_rng(seed).permutation(len(pool))]
    if len(order) < search + validation + 1:
        raise StudyError(
            f"The pool has {len(pool)} prompts, but search and validation need {search + validation} and the test at "
            "least one more; give --prompts FILE with more, or ask for fewer."
        )
    ends = search, search + validation, search + validation + test
    return Split(tuple(order[: ends[0]]), tuple(order[ends[0] : ends[1]]), tuple(order[ends[1] : ends[2]]))


@dataclass(frozen=True)
class FoundSchedule:
    """What a search found.

    Attributes:
        best: The best on validation, of refined and unrefined starts.
        refined: All refined starts.
        starts: Objective on validation, by start.
        schedules: The schedule of each start.
        validation: Median error on validation, by start and for the chosen schedule ("chosen").
        evaluations: Errors measured in this call, and in total.
        calls: Denoiser calls of this call; shared beginnings count once.
        seconds: Wall seconds of this call.
        levels: Grid of the recordings, with the gain at each level and the local error over the squared distance.
    """

    best: Refined
    refined: tuple[Refined, ...]
    starts: dict[str, float]
    schedules: dict[str, CustomSchedule]
    validation: dict[str, float]
    evaluations: tuple[int, int]
    calls: int
    seconds: float
    levels: dict[str, list[float]] = field(default_factory=dict)

    @property
    def better(self) -> bool:
        """Whether the chosen schedule beats every known start on validation."""
        known = [value for name, value in self.starts.items() if name != RECORDED_START]
        return self.best.validation < min(known)


class ScheduleSearch:
    """One search.

    Args:
        model: The loaded model.
        like: A cell with the settings that all pictures share.
        scheduler: The scheduler to tune.
        steps: Number of steps.
        split: Prompts of each part.
        folder: Where measurements are stored.
        max_batch: Most pictures in flight.
        objective: What is minimised.
        progress: Where progress is reported.
    """

    def __init__(
        self,
        model: Model,
        like: Cell,
        scheduler: Scheduler,
        steps: int,
        split: Split,
        folder: Path,
        max_batch: int,
        objective: Objective = "latent_error",
        progress: Progress | None = None,
    ) -> None:
        self._progress, self._objective = progress or Progress(), objective
        self.trials = Trials(model, like, max_batch)
        self.placing = Placing(scheduler, steps, self.trials.config)
        self._solver = solver_of_high_budget(self.trials.config, model.source.family)
        self._shots = {
            "search": [PromptSeed(prompt, seed) for seed, prompt in enumerate(split.search, SEARCH_SEED)],
            "validation": [PromptSeed(prompt, seed) for seed, prompt in enumerate(split.validation, VALIDATION_SEED)],
        }
        of_pictures = [like.model, like.dtype, like.guidance_scale, like.negative_prompt, like.width, like.height]
        of_pictures += [like.pipeline.identity(), self._solver.schedule.spec() if self._solver.schedule else ""]
        solved = digest([of_pictures, self._solver.key, [list(split.search), list(split.validation)]])[:12]
        self.identity = digest([solved, scheduler.key, scheduler.target, dict(scheduler.overrides), steps, like.code])[
            :12
        ]
        self._pictures = folder / f"converged-{solved}"
        self.evaluations = Evaluations(folder / f"evaluations-{self.identity}.jsonl")
        self._converged: ConvergedPictures | None = None

    @property
    def converged(self) -> ConvergedPictures:
        """The converged solutions, computed on first use."""
        if self._converged is None:
            shots = self._shots["search"], self._shots["validation"]
            self._progress.start("converged solutions", len(shots[0]) + len(shots[1]), "pictures")
            self._converged = solve(self.trials, self._solver, *shots, self._pictures, self._progress.advance)
        return self._converged

    @cached_property
    def _scale(self) -> float:
        """Median distance between pictures, over all pairs, since every prompt has its own seed."""
        finals = list(self.converged.finals.values())
        return picture_scale(finals, [0] * len(finals))

    def measure(self, split: str) -> Callable[[Sequence[CustomSchedule], int | None], Errors]:
        """A function that gives the errors of schedules on the pictures of a split; only unknown ones are run."""

        def errors(schedules: Sequence[CustomSchedule], pictures: int | None) -> Errors:
            shots = self._shots[split][:pictures]
            jobs = [
                TrialRun(self.placing.with_schedule(schedule), shot, remember=True)
                for schedule in dict.fromkeys(schedules)
                for shot in shots
                if self.evaluations.get(schedule, picture_key(shot)) is None
            ]
            self._run(jobs)
            found = [[self.evaluations.get(each, picture_key(shot)) for shot in shots] for each in schedules]
            return np.array(found, float)

        return errors

    def _run(self, jobs: Sequence[TrialRun]) -> None:
        finals = self.converged.finals
        for outcome in self.trials.run(jobs):
            schedule, key = outcome.trial.lane.schedule, picture_key(outcome.trial.shot)
            assert schedule is not None  # every trial has one
            error = math.inf
            if outcome.final is not None:
                error = relative_distance(outcome.final.double().numpy().ravel(), finals[key])
            self.evaluations.add([(schedule, key, error)])
            self._progress.advance(1)

    def _figure(self, errors: Errors) -> float:
        if self._objective == "latent_error":
            return robust_mean(errors)
        # Ties between equal shares are broken by the latent error.
        return float(np.mean(is_other(errors, self._scale))) + 1e-3 * robust_mean(errors)

    def starts(self) -> dict[str, Levels]:
        """The known schedules, and the one estimated from the recordings."""
        found = self.placing.starts()
        recordings = self.converged.recordings
        if recordings is not None and not self.placing.flow:
            found[RECORDED_START] = shortest(recordings, self.placing.steps, self.placing.lane.scheduler.order)
        return found

    def run(self, rounds: int = 5, keep: int = 2) -> FoundSchedule:
        """Compares the starts, refines the best `keep`, and selects on validation."""
        began, before = time.monotonic(), len(self.evaluations)
        starts = self.starts()
        self._progress.start("evaluations", 0, "pictures")
        search, validation = self.measure("search"), self.measure("validation")
        refiner = Refiner(self.placing, search, validation, self._figure, self._progress.note)
        lists = {name: found for name, levels in starts.items() if (found := self.placing.schedule(levels)) is not None}
        judged = validation(list(lists.values()), None)
        figures = {name: self._figure(errors) for name, errors in zip(lists, judged, strict=True)}
        refined = tuple(refiner.refine(name, starts[name], rounds) for name in refiner.race(starts, keep))
        # An unrefined start wins if nothing beats it on validation.
        plain = [Refined(name, lists[name], math.nan, value, value, 0) for name, value in figures.items()]
        best = min((*refined, *plain), key=lambda each: each.validation)
        medians = {name: float(np.median(errors)) for name, errors in zip(lists, judged, strict=True)}
        medians["chosen"] = float(np.median(validation([best.schedule], None)[0]))
        return FoundSchedule(
            best,
            refined,
            figures,
            lists,
            medians,
            (len(self.evaluations) - before, len(self.evaluations)),
            self.trials.calls,
            time.monotonic() - began,
            self._curves(),
        )

    def _curves(self) -> dict[str, list[float]]:
        recordings = self.converged.recordings
        if recordings is None:
            return {}
        first, _, _ = step_errors(recordings, 1)
        places = np.arange(len(recordings.levels) - 2)
        local = first[places, places + 2] / (recordings.levels[places] - recordings.levels[places + 2]) ** 2
        rows: dict[str, Any] = {"log_snr": -2 * recordings.levels, "gain": recordings.gain, "local_error": local}
        return {key: [float(value) for value in values] for key, values in rows.items()}
