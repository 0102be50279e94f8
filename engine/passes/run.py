"""Running a study: what the cache lacks is made, pass by pass, in this order."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine import waiting
from engine.cache.connection import migrate
from engine.environment import Compiling, Memory
from engine.passes.context import PassContext, fetched_source
from engine.passes.foresight import cells_to_make, foresee_run
from engine.passes.images import make_images
from engine.passes.live import shown_live
from engine.passes.plan import StudyPlan, check_disk, plan_study
from engine.passes.scores import score
from engine.passes.swaps import make_swaps
from engine.passes.timing import take_times
from engine.progress import Progress
from engine.study.model_parts import equipped
from engine.study.study import Study

if TYPE_CHECKING:
    from engine.passes.cluster import Cluster


@dataclass
class RunOutcome:
    """What a run did.

    Attributes:
        cached: Cells that were there before.
        done: Cells made.
        failed: Cells and scores that failed, each a row with its error.
        timed: Timing samples taken.
        untimed: Lanes that could not be timed.
        references: Converged solutions made, checks included.
        swaps: Runs made whose prompt changes on the way.
        scored: Values of metrics taken.
        seconds: Wall seconds of the run.
    """

    cached: int = 0
    done: int = 0
    failed: int = 0
    timed: int = 0
    untimed: int = 0
    references: int = 0
    swaps: int = 0
    scored: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 if all is there, 1 if something failed."""
        return 1 if self.failed or self.untimed else 0


def run_study(
    study: Study,
    cache: Path,
    *,
    device: str = "auto",
    memory: Memory = "standard",
    max_batch: int | None = None,
    progress: Progress | None = None,
    cluster: "Cluster | None" = None,
    compiling: Compiling = "",
) -> RunOutcome:
    """Makes what a cache lacks of a study; a finished cell is never computed again.

    Each group of cells is committed by itself: a run that is stopped, even killed, loses at most the group in flight,
    and the next run goes on from there.

    Raises:
        LabError: Something on the user's side is wrong; raised before any work, except for a disk that fills up.
    """
    progress, start = progress or Progress(), time.monotonic()
    source = equipped(fetched_source(study.model, progress, device, study.dtype), study.pipeline.parts)
    if cache.exists():
        migrate(cache)
    plan = plan_study(study, source, cache, device, memory, compiled=compiling == "all")
    for lane, finding in plan.findings:
        progress.note(f"Lane '{lane.key}': {finding.message}")
    for note in plan.notes:
        progress.note(note)
    if plan.environment.device == "cpu" and waiting.too_late():
        progress.note(waiting.too_late())
    check_disk(plan, cache)
    progress.begin(plan.facts())
    outcome = RunOutcome(cached=len(plan.cells) - len(plan.missing_images))
    with shown_live(study, cache, progress) as told:
        dtype = plan.cells[0].dtype
        context = PassContext(cache, source, plan.environment, dtype, max_batch, told, cluster, compiling)
        if plan.nothing_to_do:
            _record_study(plan, context)
        else:
            _make_missing(plan, context, outcome)
        context.release_model()
        scoring = score(plan, cache, told)
    outcome.scored = scoring.scored
    outcome.failed += scoring.failed
    outcome.seconds = time.monotonic() - start
    progress.finish({**asdict(outcome), "study": study.name, "cache": str(cache)})
    return outcome


def _record_study(plan: StudyPlan, context: PassContext) -> None:
    """Records what the study shows, before any of it is made."""
    swaps = [swap.swap_id for swap in plan.swaps]
    context.writer.begin(plan.study, plan.cells, plan.source, plan.environment, swaps)


def _make_missing(plan: StudyPlan, context: PassContext, outcome: RunOutcome) -> None:
    """The passes that need the model."""
    from engine.passes.lints import store_lints
    from engine.sampling.standins import model_config

    # Lanes whose cells would all fail are refused before anything is written.
    ahead = foresee_run(context, cells_to_make(plan), plan.study)
    for note in ahead.notes:
        context.progress.note(note)
    config = model_config(context.model.pipe)
    _record_study(plan, context)
    if context.compiling:
        context.writer.places(plan.source, context.makes_in)
    context.writer.set_parameters(plan.source, context.model.parameters)
    every = [*plan.cells, *(cell for pair in plan.references for cell in pair)]
    store_lints(context.cache, every, plan.source, config, ahead)
    if plan.missing_images:
        images = make_images(context, plan.missing_images)
        outcome.done, outcome.failed = images.done, outcome.failed + images.failed
    if plan.missing_timings:
        timings = take_times(context, plan.missing_timings, plan.cells, plan.study.timing.warmup)
        outcome.timed, outcome.untimed = timings.done, timings.failed
    if plan.missing_references:
        references = make_images(context, plan.missing_references, "references")
        outcome.references, outcome.failed = references.done, outcome.failed + references.failed
    if plan.missing_swaps:
        if context.cluster is not None:
            context.cluster.dismiss()  # they are made here, and take the device
        swaps = make_swaps(context, plan.missing_swaps)
        outcome.swaps, outcome.failed = swaps.done, outcome.failed + swaps.failed
