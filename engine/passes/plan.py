"""The plan of a study: what a cache lacks of it on this machine, and what making that takes. Imports no torch."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.cache import queries
from engine.cache.connection import Connection, reading
from engine.cache.input_pictures import refuse_large
from engine.environment import Environment, Memory, describe, resolve_device
from engine.errors import CacheError, CacheMissing
from engine.passes.images import ImageJob, expected_bytes, expected_calls, in_running_order, missing_images
from engine.passes.swaps import missing_swaps
from engine.passes.timing import MissingTiming, missing_timings, timing_calls
from engine.study.cells import Cell, cells, reference_cells, study_findings
from engine.study.lanes import Finding, Lane
from engine.study.prompt_swaps import Swap, swaps
from engine.study.reference import fitting_reference
from engine.study.source import ModelSource
from engine.study.study import Study
from engine.study.vocabulary import vocabulary_notes


@dataclass(frozen=True)
class StudyPlan:
    """A study, resolved on this machine, against a cache.

    Attributes:
        cells: All cells of the study.
        references: The converged solution and its check, for every prompt and seed.
        swaps: Runs whose prompt is exchanged on the way.
        findings: Warnings about lanes.
        missing_images: Cells that the cache lacks, in the order they should run.
        missing_timings: Timing samples that the cache lacks for this environment.
        missing_references: Cells of the references that the cache lacks.
        missing_swaps: Those of `swaps` that the cache lacks.
        remarks: What was replaced in the study for this model.
        seconds_per_call: Median seconds of a denoiser call at batch 1, if this machine has timed the model.
    """

    study: Study
    source: ModelSource
    environment: Environment
    cells: tuple[Cell, ...]
    references: tuple[tuple[Cell, Cell], ...]
    swaps: tuple[Swap, ...]
    findings: tuple[tuple[Lane, Finding], ...]
    missing_images: tuple[ImageJob, ...]
    missing_timings: tuple[MissingTiming, ...]
    missing_references: tuple[ImageJob, ...]
    missing_swaps: tuple[Swap, ...]
    seconds_per_call: float | None
    remarks: tuple[str, ...] = ()

    @property
    def nothing_to_do(self) -> bool:
        """Whether the cache holds all of it."""
        return not (self.missing_images or self.missing_timings or self.missing_references or self.missing_swaps)

    @property
    def notes(self) -> list[str]:
        """Remarks for people before pictures are made: on the prompts, and on what was replaced."""
        started = [picture.remark for picture in self.study.pipeline.pictures.values() if picture.remark]
        return [*vocabulary_notes(self.source.name, self.study.prompts), *self.remarks, *started]

    @property
    def image_calls(self) -> int:
        """Expected denoiser calls of the image pass."""
        return expected_calls(job.cell for job in self.missing_images)

    @property
    def reference_calls(self) -> int:
        """Expected denoiser calls of the converged solutions."""
        return expected_calls(job.cell for job in self.missing_references)

    @property
    def swap_calls(self) -> int:
        """Expected denoiser calls of the runs whose prompt is exchanged."""
        return expected_calls(swap.first for swap in self.missing_swaps)

    @property
    def timing_calls(self) -> int:
        """Expected denoiser calls of the timing pass, warm-up included, weighted with the batch size."""
        return timing_calls(self.missing_timings, self.study.timing.warmup)

    @property
    def seconds(self) -> float | None:
        """Expected seconds of the denoiser calls alone, as if none were batched; loading and scoring come on top."""
        if self.seconds_per_call is None:
            return None
        return self.seconds_per_call * (self.image_calls + self.timing_calls + self.reference_calls + self.swap_calls)

    @property
    def bytes(self) -> int:
        """Expected growth of the cache."""
        clip_frames = self.study.pipeline.clip_frames(self.source.family.frames)
        return expected_bytes([*self.missing_images, *self.missing_references], clip_frames)

    def facts(self) -> dict[str, Any]:
        """Facts for programs at the start of a run: where it runs, and how much there is to do."""
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
            "missing": len(self.missing_images),
            "samples": sum(timing.missing for timing in self.missing_timings),
            "references": len(self.missing_references),
            "denoiser_seconds": self.seconds,
        }


def plan_study(
    study: Study, source: ModelSource, cache: Path, device: str, memory: Memory, *, compiled: bool = False
) -> StudyPlan:
    """Compares a study with a cache; a cache that isn't there yet holds nothing. `compiled` is for the times.

    Raises:
        StudyError: A lane is known to be wrong on this model, or a picture is too large.
        CacheError: The cache cannot be read, or an older version wrote it.
    """
    refuse_large(study.pipeline.pictures)
    references, remark = fitting_reference(study.reference, source.scheduler_config, source.family)
    study = replace(study, reference=references)
    findings = study_findings(study, source)
    environment = describe(resolve_device(device), memory, compiled=compiled)
    try:
        with reading(cache) as db:
            plan = _compare(db, study, source, environment, findings)
    except CacheMissing:
        plan = _compare(None, study, source, environment, findings)
    return replace(plan, remarks=(remark,) if remark else ())


def check_disk(plan: StudyPlan, cache: Path) -> None:
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


def _compare(
    db: Connection | None,
    study: Study,
    source: ModelSource,
    environment: Environment,
    findings: Sequence[tuple[Lane, Finding]],
) -> StudyPlan:
    """Asks each pass what is missing."""
    device = environment.device
    every = cells(study, source, device)
    pairs = reference_cells(study, source, device)
    exchanged = swaps(study, source, device)
    own = {cell.trajectory_id for cell in every}
    converged = [ImageJob(cell) for pair in pairs for cell in pair if cell.trajectory_id not in own]
    images = missing_images(db, [ImageJob(cell, study.frames) for cell in every])
    pace = None if db is None else queries.seconds_per_call(db, environment.environment_id, source.model_id, every[0])
    return StudyPlan(
        study,
        source,
        environment,
        cells=tuple(every),
        references=tuple(pairs),
        swaps=tuple(exchanged),
        findings=tuple(findings),
        missing_images=tuple(in_running_order(images, study)),
        missing_timings=tuple(missing_timings(db, every, study.timing, source, environment)),
        missing_references=tuple(missing_images(db, converged)),
        missing_swaps=tuple(missing_swaps(db, exchanged)),
        seconds_per_call=pace,
    )
