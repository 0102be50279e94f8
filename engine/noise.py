"""The noise floor of a study: a few of its cells run again in ways that should not matter, and kept in the cache."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.cache.connection import migrate
from engine.cache.lint_tables import NoiseRow, write_noise
from engine.cache.writer import CacheWriter
from engine.environment import Environment, describe, resolve_device
from engine.study.plan import Cell, cells, check_lanes
from engine.study.source import find_model
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
    memory: Literal["standard", "low"] = "standard",
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
    from engine.sampling.image_pass import default_max_batch
    from engine.sampling.models import fetch, load

    source = fetch(find_model(study.model))
    check_lanes(study.lanes, source.scheduler_config)
    device = resolve_device(device)
    environment = describe(device, memory)
    every = cells(study, source, device)
    mine = chosen_cells(study, every, lanes, each)
    migrate(cache)
    model = load(source, device, mine[0].dtype, memory)
    batches = (*BATCHES, default_max_batch(device, mine[0].width, mine[0].height))
    say(f"{len(mine)} cells, each alone and then in every variation; {device}, {mine[0].dtype}")
    rows: list[NoiseRow] = []
    for found in measure_noise(model, mine, batches, compiled=compiled, memory=memory):
        fresh = list(_rows(found, mine, environment, source.model_id))
        rows += fresh
        say(f"  {found.variation:<10} {found.reason or _sentence(found)}")
    CacheWriter(cache).places(source, environment)
    write_noise(cache, rows)
    return rows


def _rows(found: "Distances", mine: Sequence[Cell], environment: Environment, model_id: str) -> Iterator[NoiseRow]:
    """One row for each lane and metric."""
    by_lane: dict[str, list[Cell]] = defaultdict(list)
    for cell in mine:
        by_lane[cell.lane.key].append(cell)
    for lane, lane_cells in by_lane.items():
        first = lane_cells[0]
        for metric, table in zip(METRICS, (found.latents, found.pictures), strict=True):
            values = [table[cell.trajectory_id] for cell in lane_cells if cell.trajectory_id in table]
            yield NoiseRow(
                environment.environment_id,
                model_id,
                first.config_id,
                lane,
                first.dtype,
                first.guidance_scale,
                first.width,
                first.height,
                found.variation,
                metric,
                len(values),
                float(np.median(values)) if values else None,
                max(values, default=None),
                found.reason or None,
            )


def _sentence(found: "Distances") -> str:
    latents, pictures = list(found.latents.values()), list(found.pictures.values())
    return (
        f"latents apart by {np.median(latents):.2g} (median; largest {max(latents):.2g}), "
        f"pictures by {np.median(pictures):.2g} of 255 (largest {max(pictures):.2g}), {len(latents)} cells"
    )
