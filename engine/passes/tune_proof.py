"""Tuning: a schedule is searched, written, and proved on prompts that the search has not seen.

The proof is a decision like any other: the baseline is the scheduler's default at twice the calls, the tuned lane the
only candidate, and the known schedules at the same calls stand beside it. What is measured of the errors on the way is
kept with the schedule.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cache import queries
from engine.cache.connection import reading
from engine.errors import StudyError
from engine.measuring import clip
from engine.passes.context import PassContext, open_context
from engine.passes.decide import decide_study
from engine.passes.decision_evidence import stored_terms
from engine.passes.search_budget import DecideOutcome, SearchBudget
from engine.passes.tune_evidence import proof_evidence
from engine.paths import DATA
from engine.progress import Progress
from engine.study.cells import Cell, cells, study_findings
from engine.study.custom_schedules import CustomSchedule
from engine.study.lanes import Lane, check_lane, parse_lane
from engine.study.prompt_pool import BUNDLED_POOL, GENERAL_POOL, prompt_classes
from engine.study.reference import fitting_reference
from engine.study.schedulers import SCHEDULERS
from engine.study.source import ModelSource
from engine.study.study import Study, parse_study
from engine.study.tuned import ALONE, CHOSEN, GITS, TunedSchedule, best_known, read_tuned, register_one, tuned_folder

if TYPE_CHECKING:
    from engine.tune.search import FoundSchedule

BUNDLED_GUIDANCE, GUIDANCE = 2.0, 7.5
POOLS = {"bundled": BUNDLED_POOL, "gaussian": DATA / "prompts" / "gaussian_154.txt"}
BESIDE = ("karras", "ays", "beta")
FEWEST_CALIBRATION, CALIBRATION = 10, 30

LONGEST_NAME = 50


@dataclass(frozen=True)
class TuneRequest:
    """What is to be tuned, and with how much effort; see `python -m engine tune --help`."""

    model: str = "bundled"
    scheduler: str = "dpmpp_2m"
    steps: int = 10
    name: str = ""
    guidance: float | None = None
    negative_prompt: str = ""
    prompts: Path | None = None
    search: int = 32
    validation: int = 32
    test: int = 300
    rounds: int = 5
    objective: str = "latent_error"
    proof: bool = True
    coefficients: bool = False

    @property
    def called(self) -> str:
        """The name of what is found."""
        solver = f"_{self.scheduler}_{self.steps}"
        plain = self.model.rpartition("/")[2][: LONGEST_NAME - len(solver)] + solver
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", self.name or plain)[:LONGEST_NAME]

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
    _refuse_unfit(request, context)
    clip.judge_on(context.environment.device)
    like = cells(study, context.source, context.environment.device)[0]
    _refuse_other_conditions(tuned_folder(cache) / f"{request.called}.json", like, scheduler.key, context.source)
    classes = prompt_classes(request.prompts or POOLS.get(request.model, GENERAL_POOL))
    split = split_prompts(tuple(classes), request.search, request.validation, request.test)
    folder = tuned_folder(cache) / f"{request.called}.search"
    search = ScheduleSearch(
        context.model,
        like,
        scheduler,
        request.steps,
        split,
        folder,
        context.max_batch([like]),
        request.objective,
        progress,
    )
    if request.coefficients:
        search.refuse_coefficients()
    found = search.run(request.rounds)
    alone = found.best.schedule
    if request.coefficients:
        found = search.with_coefficients(found)
    lane, config = search.placing.lane, search.trials.config
    evidence: dict[str, Any] = {"search": _search_evidence(found, request, search.placing.config)}
    tuned = tuned_schedule(request.called, lane, found.best.schedule, like, context.source, config, evidence)
    outcome = TuneOutcome(found, tuned, write_tuned(tuned, cache))
    register_one(tuned)
    if request.proof:
        schedules = {GITS: found.schedules.get(GITS), "oss": search.oss()}
        schedules[ALONE] = alone if found.best.schedule.coefficients else None
        computed = {name: schedule for name, schedule in schedules.items() if schedule is not None}
        del search
        context.release_model()  # the decision loads it for itself
        outcome.decision, test = _proof(request, tuned, split.test, classes, computed, context, budget)
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
        "negative_prompt": request.negative_prompt,
        "lanes": ["ddim:2"],
        **more,
    }
    plain = parse_study(data)
    return replace(plain, lanes=tuple(lanes), prompts=tuple(prompts), baseline=lanes[0].key)


def _refuse_other_conditions(file: Path, like: Cell, scheduler: str, source: ModelSource) -> None:
    """Refuses to overwrite a schedule that was tuned for something else.

    Raises:
        StudyError: There is one of this name.
    """
    try:
        there = read_tuned(file) if file.exists() else None
    except StudyError as error:
        raise StudyError(f"{error} Delete it, or give this search another --name.") from None
    if there is None:
        return
    asked = replace(
        there,
        scheduler=scheduler,
        steps=like.lane.steps,
        fingerprint=source.fingerprint or "",
        guidance_scale=like.guidance_scale,
        negative_prompt=like.negative_prompt,
        width=like.width,
        height=like.height,
    )
    if asked != there:
        raise StudyError(
            f"{file} was tuned for {there.scheduler} on {there.model}, {there.conditions}, which this search is not. "
            "Give this search another --name, or delete the file."
        )


def _refuse_unfit(request: TuneRequest, context: PassContext) -> None:
    """Refuses what neither search nor proof could run on the model, before it is loaded.

    Raises:
        StudyError: The scheduler can't be tuned, or a lane of the proof is known to be wrong.
    """
    from engine.tune.converged import solver_of_high_budget
    from engine.tune.placing import Placing

    if request.steps < 2:
        raise StudyError("A schedule of one step has no level to place: give --steps 2 or more.")
    source = context.source
    Placing(SCHEDULERS.lookup(request.scheduler), request.steps, source.scheduler_config)
    solver_of_high_budget(source.scheduler_config, source.family)
    study = _study(request, lanes := known_lanes(request, source), ("",))
    if request.proof:
        study = _well_referenced(_proof_study(request, [proof_baseline(request), *lanes], ("",)), source)
    study_findings(study, source)


def _search_evidence(found: "FoundSchedule", request: TuneRequest, config: Any) -> dict[str, Any]:
    from engine.tune.placing import Placing

    placing = Placing(SCHEDULERS.lookup(request.scheduler), request.steps, config)
    schedules = {**found.schedules, CHOSEN: found.best.schedule}
    return {
        "start": found.best.start,
        "better": found.better,
        "prompts": {"search": request.search, "validation": request.validation},
        "objective": request.objective,
        "validation_median": found.validation,
        "validation_objective": {**found.starts, CHOSEN: found.best.validation},
        "log_snr": {name: (-2 * placing.levels(schedule)).tolist() for name, schedule in schedules.items()},
        "curves": found.levels,
        **({"coefficients": found.coefficients} if found.coefficients else {}),
        "evaluations": found.evaluations[1],
    }


def proof_baseline(request: TuneRequest) -> Lane:
    """The default at twice the calls."""
    return parse_lane(f"{request.scheduler}:{2 * request.steps}")


def known_lanes(request: TuneRequest, source: ModelSource, best: str = "") -> list[Lane]:
    """The default at the same calls, and known placements of its levels that are not known to be wrong on the model.

    Args:
        request: What was asked for.
        source: The model.
        best: The known schedule that did best on validation, which is among them.
    """
    keys = [f"{request.scheduler}_{name}" for name in dict.fromkeys((*BESIDE, best))]
    variants = [parse_lane(f"{key}:{request.steps}") for key in keys if key in SCHEDULERS]
    fit = [lane for lane in variants if not _is_wrong(lane, source)]
    return [parse_lane(f"{request.scheduler}:{request.steps}"), *fit]


def _is_wrong(lane: Lane, source: ModelSource) -> bool:
    return any(each.severity == "error" for each in check_lane(lane, source.scheduler_config, source.family))


def proof_lanes(
    request: TuneRequest,
    tuned: TunedSchedule,
    source: ModelSource,
    best: str,
    computed: Mapping[str, CustomSchedule],
) -> list[Lane]:
    """The default at twice the calls first, the tuned lane, and known and computed schedules at the same calls.

    Args:
        request: What was asked for.
        tuned: What was found.
        source: The model.
        best: The known schedule that did best on validation, which is among them.
        computed: Schedules by methods of the literature, and what was found without coefficients, by their suffix.
    """
    base = SCHEDULERS.lookup(request.scheduler)
    others = []
    for name, schedule in computed.items():
        variant = replace(base, key=f"{base.key}_{name}", label=f"{base.label} {name.upper()}")
        others.append(Lane(f"{variant.key}:{request.steps}", variant, request.steps, schedule=schedule))
    return [proof_baseline(request), parse_lane(tuned.lane), *known_lanes(request, source, best), *others]


def _proof_study(request: TuneRequest, lanes: Sequence[Lane], prompts: Sequence[str]) -> Study:
    return _study(request, lanes, prompts, reference={}, timing={"repeats": 5, "warmup": 1})


def _well_referenced(study: Study, source: ModelSource) -> Study:
    """The study with a reference that suits the model, as a decision has it."""
    reference, _ = fitting_reference(study.reference, source.scheduler_config, source.family)
    return replace(study, reference=reference)


def _proof(
    request: TuneRequest,
    tuned: TunedSchedule,
    prompts: Sequence[str],
    classes: Mapping[str, str],
    computed: Mapping[str, CustomSchedule],
    context: PassContext,
    budget: SearchBudget | None,
) -> tuple[DecideOutcome, dict[str, Any]]:
    """The decision on prompts of the test, and what is shown beside it."""
    best = best_known(tuned.evidence["search"]["validation_objective"])
    lanes = proof_lanes(request, tuned, context.source, best, computed)
    study = _proof_study(request, lanes, prompts[:1])
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
    study = _well_referenced(replace(study, prompts=tuple(prompts)), context.source)
    if budget is not None:
        study = replace(study, prompts=examined(study, context))
    return outcome, test | proof_evidence(study, context, classes, outcome)


def examined(study: Study, context: PassContext) -> tuple[str, ...]:
    """Prompts of a proof that its decision had the budget for; at least one.

    They are those it used, or those it calibrated with, whichever are more.

    Args:
        study: With all prompts of the test.
        context: Where it runs.
    """
    terms, used, _ = stored_terms(context, study.name)
    order = terms.order if terms else study.prompts
    first = replace(study, lanes=study.lanes[:1], prompts=order[: study.decide.calibration_prompts])
    baseline = cells(first, context.source, context.environment.device)
    with reading(context.cache) as db:
        done = queries.finished(db, [cell.trajectory_id for cell in baseline])
    return tuple(order[: max(used, len(done), 1)])
