"""What a run of a study would do: which cells and timings the cache lacks. Imports no torch."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.cache import queries, swap_tables
from engine.cache.connection import reading
from engine.environment import Environment, describe, resolve_device
from engine.errors import CacheError, CacheMissing
from engine.study.known_prompts import prompt_notes
from engine.study.lanes import Finding, Lane
from engine.study.plan import Cell, cells, check_lanes, reference_cells
from engine.study.source import ModelSource
from engine.study.study import FrameSettings, Study
from engine.study.swaps import Swap, swaps


@dataclass(frozen=True)
class MissingTiming:
    """A lane that lacks timing samples at a batch size."""

    cell: Cell
    batch_size: int
    have: int
    missing: int


@dataclass(frozen=True)
class Outline:
    """A study, resolved on this machine, against a cache.

    Attributes:
        cells: All cells of the study.
        missing: Those the cache lacks, in the order they should run.
        timings: Timing samples the cache lacks for this environment.
        findings: Warnings about lanes.
        seconds_per_call: Median seconds of a denoiser call at batch 1, if this machine has timed the model.
        references: The converged solution and its check, for every prompt and seed.
        missing_references: Those of them that the cache lacks.
        swaps: Runs whose prompt changes on the way.
        missing_swaps: Those of them that the cache lacks.
    """

    study: Study
    source: ModelSource
    environment: Environment
    cells: tuple[Cell, ...]
    missing: tuple[Cell, ...]
    timings: tuple[MissingTiming, ...]
    findings: tuple[tuple[Lane, Finding], ...]
    seconds_per_call: float | None
    references: tuple[tuple[Cell, Cell], ...] = ()
    missing_references: tuple[Cell, ...] = ()
    swaps: tuple[Swap, ...] = ()
    missing_swaps: tuple[Swap, ...] = ()

    @property
    def nothing_to_do(self) -> bool:
        """Whether the cache holds all of it."""
        return not (self.missing or self.timings or self.missing_references or self.missing_swaps)

    @property
    def notes(self) -> list[str]:
        """What a person should know of the prompts before pictures are made of them."""
        return prompt_notes(self.source.name, self.study.prompts)

    @property
    def image_calls(self) -> int:
        """Expected denoiser calls of the image pass."""
        return _calls(self.missing)

    @property
    def reference_calls(self) -> int:
        """Expected denoiser calls of the converged solutions."""
        return _calls(self.missing_references)

    @property
    def swap_calls(self) -> int:
        """Expected denoiser calls of the changes of prompt."""
        return _calls([swap.first for swap in self.missing_swaps])

    @property
    def timing_calls(self) -> int:
        """Expected denoiser calls of the timing pass, warm-up included, weighted with the batch size."""
        return sum(
            timing.cell.lane.scheduler.expected_calls(timing.cell.lane.steps)
            * (timing.missing + self.study.timing.warmup)
            * timing.batch_size
            for timing in self.timings
        )

    @property
    def seconds(self) -> float | None:
        """Expected seconds of the denoiser calls alone, as if none were batched; loading and scoring come on top."""
        if self.seconds_per_call is None:
            return None
        return self.seconds_per_call * (self.image_calls + self.timing_calls + self.reference_calls + self.swap_calls)

    def facts(self) -> dict[str, Any]:
        """What a program should know at the start of a run: where it runs, and how much there is to do."""
        environment = self.environment
        return {
            "study": self.study.name,
            "model": self.source.name,
            "device": environment.device,
            "device_name": environment.device_name,
            "dtype": self.cells[0].dtype,
            "torch": environment.torch,
            "diffusers": environment.diffusers,
            "cells": len(self.cells),
            "missing": len(self.missing),
            "samples": sum(timing.missing for timing in self.timings),
            "references": len(self.missing_references),
            "denoiser_seconds": self.seconds,
        }

    @property
    def bytes(self) -> int:
        """Expected growth of the cache: lossless finals, step frames, and what DuckDB adds."""
        made = [*self.missing, *self.missing_references]
        if not made:
            return 0
        pixels = made[0].width * made[0].height
        frames = self.study.frames.count * len(self.study.frames.kinds)
        return int(pixels * (2.5 * len(made) + 1.3 * frames * len(self.missing))) + 2**20


def outline(study: Study, source: ModelSource, cache: Path, device: str, memory: str) -> Outline:
    """Compares a study with a cache; a cache that isn't there yet holds nothing.

    Raises:
        StudyError: A lane is known to be wrong on this model.
        CacheError: The cache cannot be read, or an older version wrote it.
    """
    references = study.reference
    lanes = (*study.lanes, references.lane, references.check) if references else study.lanes
    findings = tuple(check_lanes(lanes, source.scheduler_config))
    device = resolve_device(device)
    environment = describe(device, memory)
    every = cells(study, source, device)
    pairs = reference_cells(study, source, device)
    changes = swaps(study, source, device)
    own = {cell.trajectory_id for cell in every}
    converged = [cell for pair in pairs for cell in pair if cell.trajectory_id not in own]
    guided = study.guidance_scale > 1
    try:
        with reading(cache) as db:
            done = queries.finished(db, [cell.trajectory_id for cell in [*every, *converged]])
            timed = queries.timed_repeats(db, environment.environment_id, source.model_id, guided)
            pace = queries.durations(db, environment.environment_id, source.model_id)
            changed = swap_tables.swapped(db, [swap.swap_id for swap in changes]) if changes else set()
    except CacheMissing:
        done, timed, pace, changed = {}, {}, None, set()
    missing = [cell for cell in every if not _is_complete(done.get(cell.trajectory_id), study.frames)]
    return Outline(
        study,
        source,
        environment,
        tuple(every),
        tuple(_in_running_order(missing, study)),
        tuple(_missing_timings(every, timed, study)),
        findings,
        pace,
        tuple(pairs),
        tuple(cell for cell in converged if cell.trajectory_id not in done),
        tuple(changes),
        tuple(swap for swap in changes if swap.swap_id not in changed),
    )


def check_disk(plan: Outline, cache: Path) -> None:
    """Refuses a run that would fill the disk.

    Raises:
        CacheError: Less is free than the run is expected to need.
    """
    folder = next(parent for parent in (cache.parent, *cache.resolve().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if plan.bytes > free:
        raise CacheError(
            f"The run needs about {plan.bytes / 1e6:,.0f} MB for {cache}, but only {free / 1e6:,.0f} MB are free "
            "there. Free some space, give another --cache, or keep fewer frames (--set frames.count=4)."
        )


def _calls(cells: Sequence[Cell]) -> int:
    return sum(cell.lane.scheduler.expected_calls(cell.lane.steps) for cell in cells)


def _is_complete(cached: tuple[int, frozenset[str]] | None, frames: FrameSettings) -> bool:
    """Whether a cached cell has at least the frames asked for."""
    if cached is None:
        return False
    count, kinds = cached
    return frames.count == 0 or (count >= frames.count and kinds >= set(frames.kinds))


def _in_running_order(missing: Sequence[Cell], study: Study) -> list[Cell]:
    """Prompt by prompt and seed by seed, so that whole rows appear; long lanes first, so that short ones fill up."""
    prompts = {prompt: place for place, prompt in enumerate(study.prompts)}
    seeds = {seed: place for place, seed in enumerate(study.seeds)}
    return sorted(missing, key=lambda cell: (prompts[cell.prompt], seeds[cell.seed], -cell.lane.steps))


def _missing_timings(
    every: Sequence[Cell], timed: dict[tuple[str, int, int, int, str], int], study: Study
) -> list[MissingTiming]:
    found = []
    first_cells = {cell.lane.key: cell for cell in reversed(every)}
    for lane in study.lanes:
        cell = first_cells[lane.key]
        for batch_size in study.timing.batch_sizes:
            have = timed.get((cell.config_id, batch_size, cell.width, cell.height, cell.dtype), 0)
            if have < study.timing.repeats:
                found.append(MissingTiming(cell, batch_size, have, study.timing.repeats - have))
    return found
