"""The noise floor of a study: a few cells rerun in ways that should not matter; the differences are stored."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.cache.lint_tables import NoiseRow, write_noise
from engine.environment import Memory
from engine.passes.context import PassContext, open_context
from engine.study.cells import Cell, cells, check_lanes
from engine.study.study import Study

if TYPE_CHECKING:
    from engine.measuring.noise_floor import Distances

METRICS = ("latent_error", "picture_rms")
BATCHES = (2, 8)


def chosen_cells(study: Study, every: Sequence[Cell], lanes: int, each: int) -> list[Cell]:
    """The baseline and the next lanes of a study, `lanes` together, with the first `each` prompts and seeds."""
    keys = [study.baseline, *(lane.key for lane in study.lanes if lane.key != study.baseline)][:lanes]
    found: dict[str, list[Cell]] = {key: [] for key in keys}
    for cell in every:
        if cell.lane.key in found and len(found[cell.lane.key]) < each:
            found[cell.lane.key].append(cell)
    return [cell for mine in found.values() for cell in mine]


def run_noise(
    study: Study,
    cache: Path,
    *,
    device: str = "auto",
    memory: Memory = "standard",
    lanes: int = 4,
    each: int = 4,
    compiled: bool = True,
    say: Callable[[str], None] = print,
) -> list[NoiseRow]:
    """Measures the noise floor of a study's lanes and writes it.

    Raises:
        LabError: Something on the user's side is wrong; raised before any work.
    """
    from engine.measuring.noise_floor import measure_noise

    context = open_context(study, cache, device=device, memory=memory)
    check_lanes(study.lanes, context.source.scheduler_config, context.source.family)
    every = cells(study, context.source, context.environment.device)
    mine = chosen_cells(study, every, lanes, each)
    writer, model = context.writer, context.model  # a cache that can't be written is refused before any work
    batches = (*BATCHES, context.max_batch(mine))
    say(f"{len(mine)} cells, each alone and then in every variation, on {model.device} in {mine[0].dtype}")
    rows: list[NoiseRow] = []
    for found in measure_noise(model, mine, batches, compiled=compiled, memory=memory):
        rows += _rows(found, mine, context)
        say(f"  {found.variation:<10} {found.reason or _sentence(found)}")
    writer.places(context.source, context.environment)
    write_noise(cache, rows)
    return rows


def _rows(found: "Distances", mine: Sequence[Cell], context: PassContext) -> Iterator[NoiseRow]:
    """One row for each lane and metric."""
    by_lane: dict[str, list[Cell]] = defaultdict(list)
    for cell in mine:
        by_lane[cell.lane.key].append(cell)
    for lane, lane_cells in by_lane.items():
        first = lane_cells[0]
        for metric, table in zip(METRICS, (found.latents, found.pictures), strict=True):
            values = [table[cell.trajectory_id] for cell in lane_cells if cell.trajectory_id in table]
            yield NoiseRow(
                environment_id=context.environment.environment_id,
                model_id=context.source.model_id,
                config_id=first.config_id,
                lane=lane,
                dtype=first.dtype,
                guidance_scale=first.guidance_scale,
                width=first.width,
                height=first.height,
                variation=found.variation,
                metric=metric,
                n=len(values),
                median=float(np.median(values)) if values else None,
                largest=max(values, default=None),
                reason=found.reason or None,
            )


def _sentence(found: "Distances") -> str:
    latents, pictures = list(found.latents.values()), list(found.pictures.values())
    return (
        f"latents differ by {np.median(latents):.2g} (median; largest {max(latents):.2g}), "
        f"pictures by {np.median(pictures):.2g} of 255 (largest {max(pictures):.2g}), {len(latents)} cells"
    )
