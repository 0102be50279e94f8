"""Whether a cache can be trusted: recomputes a few finished cells of a study and compares them with the stored ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.cache import queries
from engine.cache.connection import migrate, reading
from engine.environment import Memory
from engine.errors import StudyError
from engine.passes.context import open_context
from engine.passes.images import NO_FRAMES
from engine.study.cells import Cell, cells, check_lanes, evenly_spaced
from engine.study.study import Study

# Relative L2. The order of additions in a batch changes float32 by about 1e-6; half formats have two or three digits.
TOLERANCES = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.1}


@dataclass(frozen=True)
class Checked:
    """A recomputed cell.

    Attributes:
        place: Where the stored cell was made: device, torch and diffusers.
        distance: Relative L2 distance of the final latents; None if it failed.
        tolerance: Largest distance that counts as the same.
        error: Why it failed; empty if it did not.
    """

    lane: str
    prompt: str
    seed: int
    place: str
    distance: float | None
    tolerance: float
    error: str = ""

    @property
    def same(self) -> bool:
        """Whether the cell matches the stored one."""
        return self.distance is not None and self.distance <= self.tolerance


def verify(
    study: Study, cache: Path, *, count: int = 8, device: str = "auto", memory: Memory = "standard"
) -> list[Checked]:
    """Recomputes some finished cells, including those of other machines; writes nothing.

    Raises:
        LabError: Something on the user's side is wrong, or the cache has no finished cell of the study.
    """
    from engine.measuring.formulas import relative_distance
    from engine.sampling.image_pass import sample_cells

    context = open_context(study, cache, device=device, memory=memory)
    source = context.source
    check_lanes(study.lanes, source.scheduler_config, source.family)
    every = cells(study, source, context.environment.device)
    place = {lane.key: number for number, lane in enumerate(study.lanes)}  # a family may have its own levels for a lane
    every.sort(key=lambda cell: place[cell.lane.key])
    chosen, stored, places = _stored(cache, every, count)
    if not chosen:
        raise StudyError(
            f"The cache {cache} has no finished cell of '{study.name}' with these settings ({every[0].dtype}, "
            f"guidance {study.guidance_scale:g}, the weights of {source.name} on this machine). "
            "Use the same --set options as the run, e.g. --set dtype='float32'."
        )
    found = sample_cells(context.model, chosen, NO_FRAMES, context.max_batch(chosen))
    samples = {sample.cell.trajectory_id: sample for sample in found}
    checked = []
    for cell in chosen:
        sample, latents = samples[cell.trajectory_id], stored[cell.trajectory_id]
        checked.append(
            Checked(
                lane=cell.lane.key,
                prompt=cell.prompt,
                seed=cell.seed,
                place=places[cell.trajectory_id],
                distance=None if sample.final is None else relative_distance(sample.final, latents),
                tolerance=TOLERANCES[cell.dtype],
                error=sample.error or "",
            )
        )
    return checked


def _stored(cache: Path, every: Sequence[Cell], count: int) -> tuple[list[Cell], dict[str, np.ndarray], dict[str, str]]:
    """Evenly spaced finished cells, with their final latents and where each was made, by trajectory id."""
    if cache.exists():
        migrate(cache)
    with reading(cache) as db:
        done = queries.finished(db, [cell.trajectory_id for cell in every])
        finished = [cell for cell in every if cell.trajectory_id in done]
        chosen = [finished[place] for place in evenly_spaced(len(finished), count)]
        ids = [cell.trajectory_id for cell in chosen]
        latents, places = queries.latents(db, ids), queries.places(db, ids)
    return [cell for cell in chosen if cell.trajectory_id in latents], latents, places
