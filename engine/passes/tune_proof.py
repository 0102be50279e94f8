"""Tuning: a schedule is searched, written, and proved on prompts that the search has not seen.

The proof is a decision like any other: the baseline is the scheduler's default at twice the calls, the tuned lane the
only candidate, and the known schedules at the same calls stand beside it. What is measured of the errors on the way is
kept with the schedule.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.analysis.statistics import resampled_interval
from engine.cache import queries
from engine.cache.connection import reading
from engine.measuring.formulas import relative_distance
from engine.passes.context import PassContext, open_context
from engine.passes.decide import decide_study
from engine.passes.images import ImageJob, make_images, missing_images
from engine.passes.search_budget import DecideOutcome, SearchBudget
from engine.paths import DATA
from engine.progress import Progress
from engine.study.cells import cells, reference_cells
from engine.study.lanes import Lane, parse_lane
from engine.study.prompt_pool import BUNDLED_POOL, GENERAL_POOL, read_prompts
from engine.study.schedulers import SCHEDULERS
from engine.study.study import Study, parse_study
from engine.study.tuned import TunedSchedule, register_one, tuned_folder

if TYPE_CHECKING:
    from engine.tune.search import FoundSchedule

Floats = npt.NDArray[np.float64]
BUNDLED_GUIDANCE, GUIDANCE = 2.0, 7.5
POOLS = {"bundled": BUNDLED_POOL, "gaussian": DATA / "prompts" / "gaussian_154.txt"}
BESIDE = ("karras", "ays", "beta")
FEWEST_CALIBRATION, CALIBRATION = 10, 30


@dataclass(frozen=True)
class TuneRequest:
    """What is to be tuned, and with how much effort; see `python -m engine tune --help`."""

    model: str = "bundled"
    scheduler: str = "dpmpp_2m"
    steps: int = 10
    name: str = ""
    guidance: float | None = None
    prompts: Path | None = None
    search: int = 32
    validation: int = 32
    test: int = 300
    rounds: int = 5
    objective: str = "latent_error"
    proof: bool = True

    @property
    def called(self) -> str:
        """The name of what is found."""
        plain = f"{self.model.rpartition('/')[2]}_{self.scheduler}_{self.steps}"
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", self.name or plain)[:50]

    @property
    def guidance_scale(self) -> float:
        """Guidance of its pictures."""
        default = BUNDLED_GUIDANCE if self.model == "bundled" else GUIDANCE
        return default if self.guidance is None else self.guidance


@dataclass
class TuneOutcome:
    """What came of it.

    Attributes:
        found: What the search found.
        tuned: The schedule as it was written.
        files: Where.
        decision: The proof; None without one.
    """

    found: "FoundSchedule"
    tuned: TunedSchedule
    files: tuple[Path, Path]
    decision: DecideOutcome | None = None


def tune(
    request: TuneRequest,
    cache: Path,
    *,
    device: str = "auto",
    max_batch: int | None = None,
    progress: Progress | None = None,
    budget: SearchBudget | None = None,
) -> TuneOutcome:
    """Searches a schedule, writes it beside the cache, and proves it.

    Raises:
        LabError: Something on the user's side is wrong; raised before any work.
    """
    from engine.tune.exporting import tuned_schedule, write_tuned
    from engine.tune.search import ScheduleSearch, split_prompts

    progress = progress or Progress()
    scheduler = SCHEDULERS.lookup(request.scheduler)
    study = _study(request, (Lane(f"{scheduler.key}:{request.steps}", scheduler, request.steps),), ("",))
    context = open_context(study, cache, device=device, max_batch=max_batch, progress=progress)
    like = cells(study, context.source, context.environment.device)[0]
    pool = read_prompts(request.prompts or POOLS.get(request.model, GENERAL_POOL))
    split = split_prompts(pool, request.search, request.validation, request.test)
    folder = tuned_folder(cache) / f"{request.called}.search"
    search = ScheduleSearch(
        context.model,
        like,
        scheduler,
        request.steps,
        split,
        folder,
        context.max_batch([like]),
        "other_pictures" if request.objective == "other_pictures" else "latent_error",
        progress,
    )
    found = search.run(request.rounds)
    lane, config = search.placing.lane, search.trials.config
    evidence: dict[str, Any] = {"search": _search_evidence(found, request, search.placing.config)}
    tuned = tuned_schedule(request.called, lane, found.best.schedule, like, context.source, config, evidence)
    outcome = TuneOutcome(found, tuned, write_tuned(tuned, cache))
    register_one(tuned)
    if request.proof:
        outcome.decision, test = _proof(request, tuned, split.test, context, budget)
        outcome.tuned = replace(tuned, evidence={**evidence, "test": test})
        outcome.files = write_tuned(outcome.tuned, cache)
    return outcome


def _study(request: TuneRequest, lanes: Sequence[Lane], prompts: Sequence[str], **more: Any) -> Study:
    data = {
        "name": f"tuned-{request.called}",
        "model": request.model,
        "description": f"A schedule tuned for {request.scheduler}:{request.steps}, on prompts it has not seen.",
        "prompts": ["."],
        "guidance_scale": request.guidance_scale,
        "lanes": ["ddim:2"],
        **more,
    }
    plain = parse_study(data)
    return replace(plain, lanes=tuple(lanes), prompts=tuple(prompts), baseline=lanes[0].key)


def _search_evidence(found: "FoundSchedule", request: TuneRequest, config: Any) -> dict[str, Any]:
    from engine.tune.placing import Placing

    placing = Placing(SCHEDULERS.lookup(request.scheduler), request.steps, config)
    schedules = {**found.schedules, "chosen": found.best.schedule}
    return {
        "start": found.best.start,
        "better": found.better,
        "prompts": {"search": request.search, "validation": request.validation},
        "objective": request.objective,
        "validation_median": found.validation,
        "log_snr": {name: (-2 * placing.levels(schedule)).tolist() for name, schedule in schedules.items()},
        "curves": found.levels,
        "evaluations": found.evaluations[1],
    }


def proof_lanes(request: TuneRequest, tuned: TunedSchedule, best: str) -> list[Lane]:
    """The default at twice the calls first, the tuned lane, and known schedules at the same calls.

    Args:
        request: What was asked for.
        tuned: What was found.
        best: The start that did best on validation, which is among them.
    """
    keys = [request.scheduler, *(f"{request.scheduler}_{name}" for name in dict.fromkeys((*BESIDE, best)))]
    beside = [parse_lane(f"{key}:{request.steps}") for key in keys if key in SCHEDULERS]
    return [parse_lane(f"{request.scheduler}:{2 * request.steps}"), parse_lane(tuned.lane), *beside]


def _proof(
    request: TuneRequest,
    tuned: TunedSchedule,
    prompts: Sequence[str],
    context: PassContext,
    budget: SearchBudget | None,
) -> tuple[DecideOutcome, dict[str, Any]]:
    """The decision on prompts of the test, and what errors all lanes have there."""
    known = {name: value for name, value in tuned.evidence["search"]["validation_median"].items() if name != "chosen"}
    lanes = proof_lanes(request, tuned, min(known, key=lambda name: known[name]))
    study = _study(request, lanes, prompts[:1], reference={}, timing={"repeats": 5, "warmup": 1})
    calibration = max(FEWEST_CALIBRATION, min(CALIBRATION, len(prompts) // 3))
    shown = tuple(lane.key for lane in lanes[2:])
    settings = replace(
        study.decide, shown_only=shown, shown_prompts="all", calibration_prompts=calibration, order_seed=1
    )
    study = replace(study, decide=settings)
    outcome = decide_study(
        study,
        context.cache,
        device=context.environment.device,
        max_batch=context.most_in_flight,
        progress=context.progress,
        budget=budget,
        pool=prompts,
    )
    test = {"decision": outcome.decision.sentence if outcome.decision else "", "baseline": lanes[0].key}
    return outcome, test | _errors(replace(study, prompts=tuple(prompts)), context)


def _errors(study: Study, context: PassContext) -> dict[str, Any]:
    """Median latent error by lane on all prompts of the test that have a ground truth, with 95 % intervals."""
    device = context.environment.device
    made = cells(study, context.source, device)
    pairs = reference_cells(study, context.source, device)
    with reading(context.cache) as db:
        jobs = missing_images(db, [ImageJob(cell) for cell in (*made, *(each for pair in pairs for each in pair))])
    make_images(context, jobs, "pictures of the test")
    with reading(context.cache) as db:
        ids = [cell.trajectory_id for cell in (*made, *(each for pair in pairs for each in pair))]
        latents = queries.latents(db, ids)
    tolerance = study.reference.tolerance if study.reference else 0.0
    truth = {}
    for solution, check in pairs:
        both = latents.get(solution.trajectory_id), latents.get(check.trajectory_id)
        if both[0] is not None and both[1] is not None and relative_distance(both[1], both[0]) <= tolerance:
            truth[solution.prompt] = both[0]
    errors = {lane.key: np.full(len(truth), np.inf) for lane in study.lanes}
    places = {prompt: place for place, prompt in enumerate(truth)}
    for cell in made:
        if cell.prompt in truth and cell.trajectory_id in latents:
            distance = relative_distance(latents[cell.trajectory_id], truth[cell.prompt])
            errors[cell.lane.key][places[cell.prompt]] = distance
    return {"n": len(truth), "prompts": len(study.prompts), **_compared(errors)}


def _compared(errors: dict[str, Any]) -> dict[str, Any]:
    """Medians with intervals, and the tuned lane's over that of the best known lane at the same calls."""
    n = len(next(iter(errors.values())))
    if n < 2:
        return {"lanes": {}}
    rows = {}
    for lane, values in errors.items():
        low, high = resampled_interval(partial(_medians, values), n)
        rows[lane] = {"median": float(np.median(values)), "low": low, "high": high}
    _, tuned, *beside = errors
    best = min(beside, key=lambda lane: rows[lane]["median"])
    low, high = resampled_interval(lambda draws: _medians(errors[tuned], draws) / _medians(errors[best], draws), n)
    ratio = rows[tuned]["median"] / rows[best]["median"]
    return {"lanes": rows, "best_known": best, "ratio": {"value": ratio, "low": low, "high": high}}


def _medians(values: Floats, draws: npt.NDArray[np.int64]) -> Floats:
    medians: Floats = np.median(values[draws], axis=1)
    return medians
