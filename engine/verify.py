"""Whether a cache can be trusted: a few of a study's finished cells made again, and compared with what is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.cache import queries
from engine.cache.connection import migrate, reading
from engine.environment import describe, resolve_device
from engine.errors import StudyError
from engine.study.plan import Cell, cells, check_lanes
from engine.study.source import find_model
from engine.study.study import Study

# Relative L2. The order of additions in a batch moves float32 by some 1e-6; half formats have three digits or two.
TOLERANCES = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.1}


@dataclass(frozen=True)
class Checked:
    """A cell that was made again.

    Attributes:
        place: Where the stored one was made: device, torch and diffusers.
        distance: Relative L2 distance of the final latents; None if it failed.
        tolerance: The most that counts as the same.
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
        """Whether the cell came out as it is stored."""
        return self.distance is not None and self.distance <= self.tolerance


def spread(every: Sequence[Cell], count: int) -> list[Cell]:
    """So many cells, evenly spread over all."""
    if count >= len(every):
        return list(every)
    return [every[place * len(every) // count] for place in range(count)]


def verify(
    study: Study,
    cache: Path,
    *,
    count: int = 8,
    device: str = "auto",
    memory: Literal["standard", "low"] = "standard",
) -> list[Checked]:
    """Makes some finished cells again, whoever made them and wherever; writes nothing.

    Raises:
        LabError: Something on the user's side is wrong, or the cache holds no finished cell of the study.
    """
    from engine.measuring.formulas import relative_distance
    from engine.measuring.noise_floor import NO_FRAMES
    from engine.sampling.image_pass import default_max_batch, sample_cells
    from engine.sampling.models import fetch, load

    source = fetch(find_model(study.model))
    check_lanes(study.lanes, source.scheduler_config)
    device = resolve_device(device)
    describe(device, memory)
    every = sorted(cells(study, source, device), key=lambda cell: study.lanes.index(cell.lane))
    if cache.exists():
        migrate(cache)
    with reading(cache) as db:
        done = queries.finished(db, [cell.trajectory_id for cell in every])
        chosen = spread([cell for cell in every if cell.trajectory_id in done], count)
        stored = queries.latents(db, [cell.trajectory_id for cell in chosen])
        places = queries.places(db, [cell.trajectory_id for cell in chosen])
    chosen = [cell for cell in chosen if cell.trajectory_id in stored]
    if not chosen:
        raise StudyError(
            f"The cache {cache} holds no finished cell of '{study.name}' with these settings ({every[0].dtype}, "
            f"guidance {study.guidance_scale:g}, the weights of {source.name} on this machine). "
            "Give the --set of the run, e.g. --set dtype='float32'."
        )
    model = load(source, device, chosen[0].dtype, memory)
    batch = default_max_batch(device, chosen[0].width, chosen[0].height)
    found = {sample.cell.trajectory_id: sample for sample in sample_cells(model, chosen, NO_FRAMES, batch)}
    checked = []
    for cell in chosen:
        sample = found[cell.trajectory_id]
        distance = None if sample.final is None else relative_distance(sample.final, stored[cell.trajectory_id])
        checked.append(
            Checked(
                cell.lane.key,
                cell.prompt,
                cell.seed,
                places[cell.trajectory_id],
                distance,
                TOLERANCES[cell.dtype],
                sample.error or "",
            )
        )
    return checked
