"""The search: pictures are split, solved and recorded; starts are raced, and the best refined.

Pictures are split by prompt and seed into those of the search, those that validate, and those of the test, which are
not looked at here. The split, and all that errors depend on, is the identity of a search; what it has measured is kept
under that name.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.errors import StudyError
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
# Each picture has a seed of its own, from these on; the test has those of its study, which begin at 0.
SEARCH_SEED, VALIDATION_SEED = 1_000_001, 2_000_002
# A picture whose latents are further from the converged ones, in parts of their norm, is another one.
OTHER_PICTURE = 0.3
RECORDED_START = "local errors"


@dataclass(frozen=True)
class Split:
    """Prompts of search, validation and test: no prompt is in two of them."""

    search: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split_prompts(pool: Sequence[str], search: int, validation: int, test: int, seed: int = 0) -> Split:
    """Shuffles a pool and takes so many prompts for each part, the test as many as are left at most.

    Raises:
        StudyError: The pool is too small.
    """
    order = [pool[place] for place in np.random.default_rng(seed).permutation(len(pool))]
    if len(order) < search + validation + 1:
        raise StudyError(
            f"The pool holds {len(pool)} prompts, but search and validation need {search + validation} and the test at "
            "least one more; give --prompts FILE with more, or ask for fewer."
        )
    ends = search, search + validation, search + validation + test
    return Split(tuple(order[: ends[0]]), tuple(order[ends[0] : ends[1]]), tuple(order[ends[1] : ends[2]]))


@dataclass(frozen=True)
class FoundSchedule:
    """What a search found.

    Attributes:
        best: What validation chose, of refined starts and starts as they are.
        refined: All refined starts.
        starts: Objective on the pictures that validate, by start.
        schedules: Their lists.
        validation: Median error on those pictures, by start and of the chosen schedule ("chosen").
        evaluations: Errors measured now, and in all.
        calls: Denoiser calls answered now; shared beginnings count once.
        seconds: Wall seconds of this call.
        levels: Grid of the recordings, with the gain at each of its levels and the local error per unit of log sigma.
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
        """Whether the chosen schedule beats every known start on the pictures that validate."""
        known = [value for name, value in self.starts.items() if name != RECORDED_START]
        return self.best.validation < min(known)


class ScheduleSearch:
    """One search.

    Args:
        model: The loaded model.
        like: A cell with what all pictures have in common.
        scheduler: Which is tuned.
        steps: How many steps.
        split: Prompts.
        folder: Where what is measured is kept.
        max_batch: Most pictures in flight.
        objective: What is made small.
        progress: Is told.
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
        """The converged solutions, made when they are first asked for."""
        if self._converged is None:
            shots = self._shots["search"], self._shots["validation"]
            self._progress.start("converged solutions", len(shots[0]) + len(shots[1]), "pictures")
            self._converged = solve(self.trials, self._solver, *shots, self._pictures, self._progress.advance)
        return self._converged

    def measure(self, split: str) -> Callable[[Sequence[CustomSchedule], int | None], Errors]:
        """Errors of schedules on the pictures of a split; what is known already is not run again."""

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
                end = finals[key]
                error = float(np.linalg.norm(outcome.final.double().numpy().ravel() - end) / np.linalg.norm(end))
            self.evaluations.add([(schedule, key, error)])
            self._progress.advance(1)

    def _figure(self, errors: Errors) -> float:
        if self._objective == "latent_error":
            return robust_mean(errors)
        # Ties between equal shares are broken by the latent error.
        return float(np.mean(errors > OTHER_PICTURE)) + 1e-3 * robust_mean(errors)

    def starts(self) -> dict[str, Levels]:
        """Known schedules, and the one that the recordings say."""
        found = self.placing.starts()
        recordings = self.converged.recordings
        if recordings is not None and not self.placing.flow:
            found[RECORDED_START] = shortest(recordings, self.placing.steps, self.placing.lane.scheduler.order)
        return found

    def run(self, rounds: int = 5, keep: int = 2) -> FoundSchedule:
        """Races the starts, refines the best, and lets validation choose."""
        began, before = time.monotonic(), len(self.evaluations)
        starts = self.starts()
        self._progress.start("evaluations", 0, "pictures")
        search, validation = self.measure("search"), self.measure("validation")
        refiner = Refiner(self.placing, search, validation, self._figure, self._progress.note)
        lists = {name: found for name, levels in starts.items() if (found := self.placing.schedule(levels)) is not None}
        judged = validation(list(lists.values()), None)
        figures = {name: self._figure(errors) for name, errors in zip(lists, judged, strict=True)}
        refined = tuple(refiner.refine(name, starts[name], rounds) for name in refiner.race(starts, keep))
        # A start that nothing beats on the pictures that validate is kept as it is.
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
