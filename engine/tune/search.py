"""The search: pictures are solved and recorded, starts are compared, and the best ones are refined.

Search, validation and test have disjoint prompts; those of the test are not used here. A search is identified by the
split and everything else that errors depend on, and its measurements are stored under that identity.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.analysis.calibration import is_other, picture_scale
from engine.errors import LabError, StudyError
from engine.measuring.evidence import Evidence, Subject
from engine.measuring.formulas import relative_distance
from engine.progress import Progress
from engine.sampling.models import Model
from engine.study.cells import Cell, digest
from engine.study.custom_schedules import CustomSchedule
from engine.study.reference import ReferenceSettings
from engine.study.schedulers import Scheduler
from engine.study.tuned import ALONE, CHOSEN, GITS, RECORDED, best_known
from engine.tune.coefficients import amplitudes, fit, refuse_unfit
from engine.tune.converged import ConvergedPictures, picture_key, recordable, solve, solver_of_high_budget, write_arrays
from engine.tune.evaluations import Evaluations, schedule_digest
from engine.tune.literature import OSS_LEVELS, gits, oss
from engine.tune.local_errors import shortest, step_errors
from engine.tune.objectives import LATENT_ERROR, OTHER_PICTURES, loss_of
from engine.tune.placing import Levels, Placing
from engine.tune.refining import Errors, Refined, Refiner, robust_mean
from engine.tune.trials import PromptSeed, TrialRun, Trials

# Each picture has its own seed, counted from these; those of the test start at 0.
SEARCH_SEED, VALIDATION_SEED = 1_000_001, 2_000_002
OSS_PICTURES = 8


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
        validation: Median latent error on validation, by start and for the chosen schedule ("chosen").
        evaluations: Pictures evaluated in this call, and in total.
        calls: Denoiser calls of this call; shared beginnings count once.
        seconds: Wall seconds of this call.
        levels: Grid of the recordings, with the gain at each level and the local error over the squared distance.
        coefficients: If they were asked for: the objective on validation with them ("fitted") and without ("alone"),
            the mean error ("mean", "mean_alone"), whether both are better, so that they are kept ("kept"),
            and the amplitude of the pictures over that of the converged ones ("amplitude", "amplitude_alone").
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
    coefficients: dict[str, float] = field(default_factory=dict)

    @property
    def better(self) -> bool:
        """Whether the chosen schedule beats every known start on validation."""
        return self.best.validation < self.starts[best_known(self.starts)]


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
        objective: What is minimised: "latent_error", "other_pictures", or a metric of pictures (`objectives.loss_of`).
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
        objective: str = LATENT_ERROR,
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
        self._errors = Evaluations(folder / f"evaluations-{self.identity}.jsonl")
        settings = ReferenceSettings(self._solver, self._solver, chosen=False)
        self._subject = Subject(model.source, settings)
        self._loss = loss_of(objective, self._subject)
        self._losses = self._errors
        if self._loss is not None:
            version = digest([self._loss.metric.key, self._loss.version])[:12]
            self._losses = Evaluations(folder / f"losses-{self.identity}-{self._loss.metric.key}-{version}.jsonl")
        self._converged: ConvergedPictures | None = None
        self._of_converged: dict[str, tuple[Evidence, float]] = {}

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
        """A function that gives what is minimised of schedules on pictures of a split; only unknown ones are run.

        That is the latent error, or the loss of the metric.
        """

        def losses(schedules: Sequence[CustomSchedule], pictures: int | None) -> Errors:
            shots = self._shots[split][:pictures]
            jobs = [
                TrialRun(self.placing.with_schedule(schedule), shot, remember=True)
                for schedule in dict.fromkeys(schedules)
                for shot in shots
                if self._losses.get(schedule, picture_key(shot)) is None
            ]
            self._run(jobs)
            return _table(self._losses, schedules, shots)

        return losses

    def _run(self, jobs: Sequence[TrialRun]) -> None:
        finals = self.converged.finals
        for outcome in self.trials.run(jobs):
            schedule, key = outcome.trial.lane.schedule, picture_key(outcome.trial.shot)
            assert schedule is not None  # every trial has one
            error = loss = math.inf
            if outcome.final is not None:
                error = relative_distance(outcome.final.double().numpy().ravel(), finals[key])
                loss = self._lost(outcome.trial.shot, outcome.final)
            if self._errors.get(schedule, key) is None:
                self._errors.add([(schedule, key, error)])
            if self._loss is not None:
                self._losses.add([(schedule, key, loss)])
            self._progress.advance(1)

    def _lost(self, shot: PromptSeed, final: torch.Tensor) -> float:
        """The loss of the chosen metric; 0 if none was chosen."""
        if self._loss is None:
            return 0.0
        key = picture_key(shot)
        if key not in self._of_converged:
            latents = torch.from_numpy(self.converged.finals[key]).float().view(final.shape)
            pictures = self.trials.pictures(shot, latents)
            best = Evidence(self._subject, shot.prompt, shot.seed, pictures, latents[0].numpy())
            best = replace(best, reference_pictures=pictures, reference_latents=best.latents)
            self._of_converged[key] = best, self._loss.value(best)
        best, value = self._of_converged[key]
        made = replace(best, pictures=self.trials.pictures(shot, final), latents=final[0].numpy())
        return self._loss.of(self._loss.value(made), value)

    def _figure(self, losses: Errors) -> float:
        if self._objective != OTHER_PICTURES:
            return robust_mean(losses)
        # Ties between equal shares are broken by the latent error.
        return float(np.mean(is_other(losses, self._scale))) + 1e-3 * robust_mean(losses)

    def starts(self) -> dict[str, Levels]:
        """The known schedules, and those estimated from the recordings."""
        found = self.placing.starts()
        recordings = self.converged.recordings
        if recordings is not None and not self.placing.flow:
            found[RECORDED] = shortest(recordings, self.placing.steps, self.placing.lane.scheduler.order)
            found[GITS] = gits(recordings, self.placing.steps)
        return found

    def oss(self) -> CustomSchedule | None:
        """The schedule of OSS, computed once; None without recordings, or for too many steps."""
        if self.converged.recordings is None or self.placing.steps > OSS_LEVELS:
            return None
        file = self._pictures / f"oss_{self.placing.steps}.npz"
        if not file.exists():
            self._progress.start("schedule of OSS", 1, "schedules")
            found = oss(self.trials, self._solver, self._shots["search"][:OSS_PICTURES], self.placing.steps)
            write_arrays(file, {"levels": found})
            self._progress.advance(1)
        return self.placing.schedule(np.load(file)["levels"])

    def run(self, rounds: int = 5, keep: int = 2) -> FoundSchedule:
        """Compares the starts, refines the best `keep` for at most `rounds`, and selects on validation.

        Raises:
            LabError: No start has a finite error.
        """
        began, before = time.monotonic(), len(self._losses)
        starts = self.starts()
        self._progress.start("evaluations", 0, "pictures")
        search, validation = self.measure("search"), self.measure("validation")
        refiner = Refiner(self.placing, search, validation, self._figure, self._progress.note)
        lists = {name: found for name, levels in starts.items() if (found := self.placing.schedule(levels)) is not None}
        judged = validation(list(lists.values()), None)
        figures = {name: self._figure(errors) for name, errors in zip(lists, judged, strict=True)}
        if not np.isfinite(list(figures.values())).any():
            raise LabError(self._all_failed(next(iter(lists.values())), judged[0]))
        refined = refiner.refine({name: starts[name] for name in refiner.race(starts, keep)}, rounds)
        # An unrefined start wins if nothing beats it on validation.
        plain = [Refined(name, lists[name], math.nan, value, value, 0) for name, value in figures.items()]
        best = min((*refined, *plain), key=lambda each: each.validation)
        known = _table(self._errors, [*lists.values(), best.schedule], self._shots["validation"])
        medians = dict(zip((*lists, CHOSEN), np.median(known, axis=1).tolist(), strict=True))
        return FoundSchedule(
            best,
            refined,
            figures,
            lists,
            medians,
            (len(self._losses) - before, len(self._losses)),
            self.trials.calls,
            time.monotonic() - began,
            self._curves(),
        )

    def _all_failed(self, schedule: CustomSchedule, errors: Errors) -> str:
        """What to say if no start has a finite error: the error of the first one's first failed picture."""
        shot = self._shots["validation"][int(np.argmin(np.isfinite(errors)))]
        lane = self.placing.with_schedule(schedule)
        [outcome] = self.trials.run([TrialRun(lane, shot)])  # not all errors are of this call
        why = outcome.error or "its latents or its loss are not finite"
        return (
            f"The search for {lane.key} cannot begin: every known schedule fails on some picture of validation. "
            f"The first one fails on {shot.prompt!r}, seed {shot.seed}: {why.rstrip('.')}. "
            "No schedule was written; tune another scheduler."
        )

    def refuse_coefficients(self) -> None:
        """Refuses to fit coefficients where that isn't possible.

        Raises:
            StudyError: Another scheduler than DPM++, or a model without recordings.
        """
        refuse_unfit(self.placing, recordable(self.trials))

    def with_coefficients(self, found: FoundSchedule) -> FoundSchedule:
        """Fits coefficients, and keeps them only if real runs on validation are better than the schedule alone,
        by the objective and in the mean.

        They are fitted to the schedule that was found, and to the default and the best known one: a refined schedule
        has already made up for errors of its solver that coefficients correct better.

        Raises:
            StudyError: As in `refuse_coefficients`.
            LabError: A run failed.
        """
        self.refuse_coefficients()
        began, before, calls = time.monotonic(), len(self._losses), self.trials.calls
        alone, shots = found.best.schedule, self._shots["validation"]
        known = [name for name in (best_known(found.starts), "default") if name in found.schedules]
        names = {found.schedules[name]: name for name in known} | {alone: found.best.start}
        self._progress.start("coefficients", len(names), "schedules")
        fitted = {self._fitted(schedule): name for schedule, name in names.items()}
        self._progress.start("evaluations", 0, "pictures")
        errors = self.measure("validation")([alone, *fitted], None)
        (without, mean_alone), *others = [(self._figure(row), float(row.mean())) for row in errors]
        # The objective weighs large errors little; a few pictures must not pay for the others.
        (with_them, mean), chosen = min(
            zip(others, fitted, strict=True), key=lambda each: (each[0][1] > mean_alone, each[0][0])
        )
        kept = with_them < without and mean <= mean_alone
        told = {"kept": kept, "fitted": with_them, "alone": without, "mean": mean, "mean_alone": mean_alone}
        told |= self._amplitudes(chosen, alone)
        best, medians = found.best, found.validation
        if kept:
            best = replace(best, start=fitted[chosen], schedule=chosen, search=math.nan, validation=with_them)
            known_errors = _table(self._errors, [chosen], shots)
            medians = {**medians, ALONE: medians[CHOSEN], CHOSEN: float(np.median(known_errors))}
        return replace(
            found,
            best=best,
            validation=medians,
            coefficients=told,
            evaluations=(found.evaluations[0] + len(self._losses) - before, len(self._losses)),
            calls=found.calls + self.trials.calls - calls,
            seconds=found.seconds + time.monotonic() - began,
        )

    def _fitted(self, schedule: CustomSchedule) -> CustomSchedule:
        """The schedule with coefficients, fitted once."""
        file = self._pictures / f"coefficients_{self.identity}_{schedule_digest(schedule)}.npz"
        if not file.exists():
            found = fit(self.trials, self.placing, self._solver, schedule, self._shots["search"])
            write_arrays(file, {"coefficients": np.array(found.coefficients)})
        self._progress.advance(1)
        return replace(schedule, coefficients=tuple(map(tuple, np.load(file)["coefficients"].tolist())))

    def _amplitudes(self, fitted: CustomSchedule, alone: CustomSchedule) -> dict[str, float]:
        """What is told of the amplitude with coefficients and without, measured once."""
        file = self._pictures / f"amplitudes_{self.identity}_{schedule_digest(fitted)}_{schedule_digest(alone)}.npz"
        if not file.exists():
            shots = self._shots["validation"]
            finals = {shot: self.converged.finals[picture_key(shot)] for shot in shots}
            lanes = [self.placing.with_schedule(each) for each in (fitted, alone)]
            write_arrays(file, {"ratios": np.array(amplitudes(self.trials, lanes, shots, finals))})
        with_them, without = np.load(file)["ratios"].tolist()
        return {"amplitude": with_them, "amplitude_alone": without}

    def _curves(self) -> dict[str, list[float]]:
        recordings = self.converged.recordings
        if recordings is None:
            return {}
        first, _, _ = step_errors(recordings, 1)
        places = np.arange(len(recordings.levels) - 2)
        local = first[places, places + 2] / (recordings.levels[places] - recordings.levels[places + 2]) ** 2
        rows: dict[str, Any] = {"log_snr": -2 * recordings.levels, "gain": recordings.gain, "local_error": local}
        return {key: [float(value) for value in values] for key, values in rows.items()}


def _table(known: Evaluations, schedules: Sequence[CustomSchedule], shots: Sequence[PromptSeed]) -> Errors:
    """Stored values of schedules (rows) on pictures (columns)."""
    return np.array([[known.get(each, picture_key(shot)) for shot in shots] for each in schedules], float)
