"""The lanes that take part in a decision, and their cells prompt by prompt. Imports no torch."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from engine.cache.connection import reading
from engine.cache.decision_tables import made_digest
from engine.errors import StudyError
from engine.passes.context import PassContext
from engine.passes.foresight import Foresight, foresee_run, keep
from engine.passes.images import ImageJob, missing_images
from engine.study.cells import Cell, cells, digest, reference_cells, study_findings
from engine.study.lanes import MAX_STEPS, Lane
from engine.study.prompt_pool import pool_prompts
from engine.study.study import Study

FEW_STEPS = 8


@dataclass(frozen=True)
class Roles:
    """The lanes of a decision on one machine.

    Attributes:
        baseline: The lane that the others would replace.
        negative: The negative control; None where it is the baseline's picture of another prompt.
        positive: The positive control.
        candidates: Lanes that may be named.
        shown: Lanes that are only there to be seen.
        pool: Prompts, in no order yet.
    """

    study: Study
    context: PassContext
    baseline: Lane
    negative: Lane | None
    positive: Lane
    candidates: tuple[Lane, ...]
    shown: tuple[Lane, ...]
    pool: tuple[str, ...]

    @property
    def controls(self) -> tuple[Lane, ...]:
        """Controls that have cells of their own."""
        return (self.positive,) if self.negative is None else (self.negative, self.positive)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the pictures a prompt that candidates are looked at by."""
        return seeds_from(self.study.seeds, self.study.decide.seeds)

    @property
    def other_seed(self) -> int:
        """The second seed of the baseline, which its seed noise is taken from."""
        return seeds_from(self.study.seeds, 2)[1]

    def cells(self, lanes: Iterable[Lane], prompts: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
        """Cells of lanes, prompt by prompt."""
        lanes = tuple(lanes)
        if not lanes or not prompts:
            return []
        asked = replace(self.study, lanes=lanes, baseline=lanes[0].key, prompts=tuple(prompts), seeds=tuple(seeds))
        return cells(asked, self.context.source, self.context.environment.device)

    def calibrating(self, prompts: Sequence[str]) -> list[Cell]:
        """What calibrates: baseline and both controls with the first seed, and the baseline with another."""
        return [
            *self.cells((self.baseline, *self.controls), prompts, self.seeds[:1]),
            *self.cells((self.baseline,), prompts, (self.other_seed,)),
        ]

    @cached_property
    def about(self) -> dict[str, str]:
        """Digest of what the pictures of baseline and candidates depend on, as `FixedTerms.about`."""
        model, arguments = self.context.source.model_id, self.study.pipeline.digest
        return {
            cell.lane.key: made_digest(
                *(cell.config_id, model, cell.width, cell.height, cell.dtype),
                *(cell.guidance_scale, cell.negative_prompt, arguments),
            )
            for cell in self.cells((self.baseline, *self.candidates), ("",), (0,))
        }

    @cached_property
    def digest(self) -> str:
        """Of all that the evidence depends on: another one makes another study."""
        one = self.cells((self.baseline, *self.candidates), ("",), (0,))
        settings = {key: value for key, value in self.study.decide.spec().items() if key not in NOT_ASKED}
        reference = self.study.reference.spec() if self.study.reference else None
        return digest([[cell.trajectory_id for cell in one], settings, reference, list(self.seeds)])[:32]


# Settings that change no evidence.
NOT_ASKED = frozenset({"pool", "shown_only", "shown_prompts"})


def roles(study: Study, context: PassContext, pool: Sequence[str] | None = None) -> Roles:
    """Who takes part in the decision of a study.

    Args:
        study: With its lanes and settings.
        context: Where it runs.
        pool: Prompts to draw from; the study's pool unless given.

    Raises:
        StudyError: There is no candidate, or a lane is known to be wrong.
    """
    shown_only = set(study.decide.shown_only)
    baseline = next(lane for lane in study.lanes if lane.key == study.baseline)
    others = [lane for lane in study.lanes if lane is not baseline]
    candidates = tuple(lane for lane in others if lane.key not in shown_only)
    shown = tuple(lane for lane in others if lane.key in shown_only)
    if not candidates:
        raise StudyError(f"Study '{study.name}' has no lane to put in place of {baseline.key}; add one to its lanes.")
    for lane, finding in study_findings(study, context.source):
        context.progress.note(f"Lane '{lane.key}': {finding.message}")
    negative, positive = controls(baseline)
    prompts = pool_prompts(study, context.source) if pool is None else tuple(dict.fromkeys(pool))
    return Roles(study, context, baseline, negative, positive, candidates, shown, prompts)


def controls(baseline: Lane) -> tuple[Lane | None, Lane]:
    """The negative control of a baseline, and the positive one.

    No lane is surely worse than one step of the same scheduler. There the negative control is None, and stands for the
    baseline's picture of another prompt.
    """
    fewer = 2 if baseline.steps > FEW_STEPS else 1
    negative = baseline.at(fewer) if fewer < baseline.steps else None
    return negative, baseline.at(min(2 * baseline.steps, MAX_STEPS))


def seeds_from(seeds: Sequence[int], count: int) -> tuple[int, ...]:
    """The first `count` of the study's seeds; where it has fewer, those after its largest."""
    more = range(max(seeds) + 1, max(seeds) + 1 + count)
    return (*seeds, *more)[:count]


def try_lanes(who: Roles, prompt: str) -> Foresight:
    """Try the lanes that lack the cell of a prompt, without their weights, and read the pool."""
    study, context = who.study, who.context
    lanes = (who.baseline, *who.controls, *who.candidates, *who.shown)
    cells = who.cells(lanes, (prompt,), who.seeds[:1])
    asked = replace(study, prompts=(prompt,), seeds=who.seeds[:1])
    pairs = reference_cells(asked, context.source, context.environment.device)
    jobs = [ImageJob(cell) for cell in (*cells, *(cell for pair in pairs for cell in pair))]
    db = contextlib.nullcontext() if not context.cache.exists() else reading(context.cache)
    with db as connection:
        missing = missing_images(connection, jobs)
    lacking = [job.cell for job in missing]
    ahead = foresee_run(context, lacking, replace(study, prompts=who.pool))
    keep(context.cache, lacking, context.source, ahead)
    for note in ahead.notes:
        context.progress.note(note)
    return ahead
