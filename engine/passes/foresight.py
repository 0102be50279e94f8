"""Looks ahead: before any work every lane is tried once and every prompt read; the cache keeps the outcome.

Lanes are tried by the pipeline's configurations alone unless the model is loaded anyway. Imports torch only for what
the cache doesn't know yet.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cache import lint_tables
from engine.cache.connection import migrate, reading
from engine.errors import CacheError, CacheMissing, LabError, StudyError
from engine.passes.context import PassContext
from engine.passes.plan import StudyPlan
from engine.study.cells import Cell, digest
from engine.study.schedulers import class_version
from engine.study.source import ModelSource
from engine.study.study import Study

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# A plan is no reason to wait for a run that holds the cache.
PATIENCE_OF_PLANS = 2.0
ANY = "diffusers:DiffusionPipeline"
# Also for those whom the system lets write whatever a file's mode says.
ANY_MAY_WRITE = 0o222


@dataclass(frozen=True)
class TriedLane:
    """The outcome of a lane's call with a silent denoiser.

    Attributes:
        call: Digest of all that decides how it goes, but for prompt and seed.
        lane: Its key.
        calls: Denoiser calls until it ended.
        error: Why every cell of the lane would fail, or None.
        handed: What the pipeline hands `set_timesteps`.
        prompts: (reading, note) of prompts that were read on the occasion.
        asked: Digest of the arguments of the call that they were read for.
    """

    call: str
    lane: str
    calls: int
    error: str | None = None
    handed: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    asked: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain data, for the cache."""
        return {key: value for key, value in vars(self).items() if value not in (None, "", {})}


@dataclass(frozen=True)
class Foresight:
    """What is known about a study before its cells are made.

    Attributes:
        tried: How the lanes' calls go, by config_id.
        prompts: (reading, note) of the study's prompts as the model reads them, as far as that is known.
        negative: What a person should know of the negative prompt.
        fresh: Those of `tried` that the cache lacks, by config_id.
        untried: Why lanes could not be tried; "" if all were.
    """

    tried: Mapping[str, TriedLane] = field(default_factory=dict)
    prompts: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()
    untried: str = ""
    negative: str | None = None

    @property
    def notes(self) -> Iterator[str]:
        """Remarks on the prompts, for people."""
        if self.negative:
            yield f"The negative prompt {self.negative}."
        same: dict[str, list[str]] = {}
        for prompt, (read, note) in self.prompts.items():
            same.setdefault(read, []).append(prompt)
            if note:
                yield f"Prompt {prompt[:60]!r} {note}."
        for prompts in same.values():
            if len(prompts) > 1:
                listed = ", ".join(repr(prompt[:60]) for prompt in prompts[:4])
                yield (
                    f"{len(prompts)} prompts are one to the model, which reads the same tokens: {listed}. They give "
                    "the same pictures, and count as one prompt; keep one of them."
                )

    def distinct(self, prompts: Sequence[str]) -> list[str]:
        """Prompts without those that are one to the model with an earlier one."""
        first: dict[str, str] = {}
        for prompt in prompts:
            first.setdefault(self.prompts[prompt][0] if prompt in self.prompts else prompt, prompt)
        return list(first.values())

    def refuse(self, pipeline: str) -> None:
        """Raises every refusal at once.

        Raises:
            StudyError: There are lanes whose cells would all fail.
        """
        errors = [f"Lane '{row.lane}': {pipeline} refuses it: {row.error}" for row in self.tried.values() if row.error]
        if errors:
            raise StudyError("\n".join(errors))


NOTHING = Foresight()


def foresee_plan(plan: StudyPlan, cache: Path) -> Foresight:
    """What is known of a plan, tried by configurations alone and kept in the cache.

    Raises:
        StudyError: Lanes whose cells would all fail, or an argument that the pipeline doesn't take.
    """
    cells = cells_to_make(plan)
    found = foresee(cells, plan.study, plan.source, cache)
    keep(cache, cells, plan.source, found)
    found.refuse(plan.source.pipeline)
    return found


def foresee_run(context: PassContext, cells: Sequence[Cell], study: Study) -> Foresight:
    """What is known of cells that are about to be made; what configurations alone refuse is tried with the model.

    Raises:
        StudyError: As `foresee_plan`.
    """
    found = foresee(cells, study, context.source, context.cache)
    if found.untried or any(row.error for row in found.tried.values()):
        found = foresee(cells, study, context.source, context.cache, lambda: context.model.pipe)
    found.refuse(context.source.pipeline)
    return found


def cells_to_make(plan: StudyPlan) -> list[Cell]:
    """The cells that a run of a plan makes, references and runs whose prompt is exchanged among them."""
    jobs = [job.cell for job in (*plan.missing_images, *plan.missing_references)]
    return [*jobs, *(swap.first for swap in plan.missing_swaps)]


def foresee(
    cells: Sequence[Cell],
    study: Study,
    source: ModelSource,
    cache: Path,
    loaded: "Callable[[], DiffusionPipeline] | None" = None,
) -> Foresight:
    """Reads what the cache knows, and tries the rest.

    Args:
        cells: Cells to be made, of any number of lanes; of none, nothing is tried.
        study: Its prompts are read.
        source: The model.
        cache: Only read.
        loaded: Returns the pipeline with its weights, which decides about lanes that were refused without.

    Raises:
        StudyError: An argument of `[pipeline]` that the pipeline doesn't take.
    """
    lanes = {cell.config_id: cell for cell in reversed(cells)}
    asked = digest(study.pipeline.identity())[:16]
    stored = _stored(cache, source)
    tried = {
        key: stored[key]
        for key, cell in reversed(lanes.items())
        if key in stored and stored[key].call == call_id(cell) and not (loaded and stored[key].error)
    }
    read = {prompt: found for each in stored.values() if each.asked == asked for prompt, found in each.prompts.items()}
    untried = [cell for key, cell in reversed(lanes.items()) if key not in tried]
    negative = [study.negative_prompt] if study.negative_prompt else []
    unread = [prompt for prompt in dict.fromkeys([*study.prompts, *negative]) if prompt not in read]
    prompts = {prompt: read[prompt] for prompt in study.prompts if prompt in read}
    if not cells or not (untried or unread):
        return Foresight(tried, prompts, negative=next((read[text][1] for text in negative), None) if cells else None)
    from engine.sampling.dry_run import check_arguments, dry_run
    from engine.sampling.standins import remembering_text
    from engine.sampling.tokens import read_prompts

    try:
        pipe = remembering_text(_unloaded(source, cells[0].dtype) if loaded is None else loaded())
    except LabError:
        raise
    except Exception as error:  # whatever the libraries raise on configurations alone
        return Foresight(tried, prompts, untried=f"{type(error).__name__}: {error}"[:300])
    check_arguments(pipe, untried)
    fresh, passing, untold = dict[str, TriedLane](), dict[str, TriedLane](), ""
    for cell, found in zip(untried, dry_run(pipe, untried), strict=True):
        lane = TriedLane(call_id(cell), cell.lane.key, found.calls, found.error, found.handed)
        if found.untold:
            untold = str(found.error)
        else:
            (fresh if found.lasting else passing)[cell.config_id] = lane
    new = {each.prompt: (each.reading, each.note) for each in read_prompts(pipe, unread, study.pipeline.arguments)}
    tried |= fresh | passing
    if new and (keeper := next(iter(fresh or tried), None)):
        before = stored[keeper].prompts if keeper in stored and stored[keeper].asked == asked else {}
        tried[keeper] = replace(tried[keeper], prompts={**before, **new}, asked=asked)
        fresh[keeper] = tried[keeper]
    read |= new
    prompts = {prompt: read[prompt] for prompt in study.prompts}
    return Foresight(tried, prompts, frozenset(fresh), untold, next((read[text][1] for text in negative), None))


def keep(cache: Path, cells: Sequence[Cell], source: ModelSource, found: Foresight) -> None:
    """Writes what is new of the lanes of cells; a cache that cannot or may not be written is left as it is."""
    if not found.fresh or (cache.exists() and not cache.stat().st_mode & ANY_MAY_WRITE):
        return
    from engine.passes.lints import store_lints

    new = [cell for cell in cells if cell.config_id in found.fresh]
    with contextlib.suppress(CacheError):
        if not cache.exists():
            migrate(cache)
        store_lints(cache, new, source, source.scheduler_config, found, PATIENCE_OF_PLANS)


def call_id(cell: Cell) -> str:
    """Digest of all that decides how the call of a cell goes, but for prompt and seed."""
    release = class_version(ANY)
    size = [cell.width, cell.height, cell.guidance_scale, bool(cell.negative_prompt)]
    return digest([cell.model, cell.config_id, release, *size, cell.pipeline.identity()])[:32]


def _stored(cache: Path, source: ModelSource) -> dict[str, TriedLane]:
    """What the cache knows of lanes of a model; it may be a stranger's."""
    try:
        with reading(cache) as db:
            found = lint_tables.dry_runs(db, source.model_id)
    except CacheMissing:
        return {}
    lanes = {}
    for key, value in found.items():
        with contextlib.suppress(TypeError, ValueError, AttributeError):
            lane = TriedLane(**value)
            lanes[key] = replace(lane, prompts={prompt: (read[0], read[1]) for prompt, read in lane.prompts.items()})
    return lanes


def _unloaded(source: ModelSource, dtype: str) -> "DiffusionPipeline":
    """The pipeline without weights; of a model that has no files, as it is."""
    from engine.sampling.hollow import hollow_pipeline
    from engine.sampling.models import load, quiet

    quiet()
    if source.kind == "memory":
        from engine.sampling.loaded import loaded_pipeline

        return loaded_pipeline(source, dtype)
    return hollow_pipeline(source) if source.folder is not None else load(source, "cpu", "float32").pipe
