"""What every pass works with: the cache it writes to, the model that is loaded once, and the progress it reports to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cache.records import TrajectoryRow
from engine.cache.writer import CacheWriter
from engine.environment import Compiling, Environment, Memory, describe, resolve_device
from engine.progress import Progress
from engine.study.cells import Cell, resolve_dtype
from engine.study.model_parts import equipped
from engine.study.source import ModelSource, find_model
from engine.study.study import Study

if TYPE_CHECKING:
    from engine.passes.cluster import Cluster
    from engine.sampling.models import Model


@dataclass(frozen=True)
class PassOutcome:
    """What a pass did.

    Attributes:
        done: Units finished: cells, samples, runs.
        failed: Units that failed, each told to the progress.
    """

    done: int = 0
    failed: int = 0


@dataclass(frozen=True)
class MadeCell:
    """A cell as it is stored, and where it was made."""

    row: TrajectoryRow
    environment: Environment


@dataclass(frozen=True)
class PassContext:
    """One model on one device, writing to one cache; it serves any number of passes and lists of cells.

    Attributes:
        cache: The file that rows go to.
        source: The model, fetched.
        environment: Where it runs; its `memory` says how the model is loaded.
        dtype: "float32", "float16" or "bfloat16".
        most_in_flight: Most cells that share a forward; by device and picture size unless given.
        progress: Receives what passes report.
        cluster: Machines that make the cells; this process does unless given.
        compiling: Which forwards are compiled.
    """

    cache: Path
    source: ModelSource
    environment: Environment
    dtype: str
    most_in_flight: int | None = None
    progress: Progress = field(default_factory=Progress)
    cluster: "Cluster | None" = None
    compiling: Compiling = ""

    @cached_property
    def makes_in(self) -> Environment:
        """The environment in which cells are made; times are taken in `environment`."""
        if self.compiling != "cells":
            return self.environment
        return describe(self.environment.device, self.environment.memory, compiled=True)

    @cached_property
    def model(self) -> "Model":
        """The model, loaded when it is first asked for. Imports torch.

        Raises:
            LabError: The files make no pipeline, torch cannot use the device, or cannot compile here.
        """
        from engine.sampling.models import load

        device, memory = self.environment.device, self.environment.memory
        if not self.compiling:
            return load(self.source, device, self.dtype, memory)
        from engine.sampling.compiling import check_compiling, compile_denoisers

        check_compiling(device, memory)
        model = load(self.source, device, self.dtype, memory)
        compile_denoisers(model)
        return model

    def release_model(self) -> None:
        """Frees the model's memory for what judges its pictures; the model loads again when it is asked for."""
        if vars(self).pop("model", None) is not None:
            from engine.sampling.room import release_unused

            release_unused()

    @cached_property
    def writer(self) -> CacheWriter:
        """The cache's writer; the file is made, or migrated, when it is first asked for.

        Raises:
            CacheError: The file cannot be used.
        """
        return CacheWriter(self.cache)

    @property
    def max_batch_by(self) -> str:
        """What decides `max_batch`, as it is stored with a cell."""
        if self.most_in_flight is not None:
            return "--max-batch"
        if self.environment.memory != "standard":
            return "memory mode"
        return "free memory" if self.environment.device == "cuda" else "picture size"

    def max_batch(self, cells: Sequence[Cell]) -> int:
        """Most of the cells that share a forward; all are of one picture size."""
        if self.most_in_flight is not None:
            return self.most_in_flight
        if self.environment.memory != "standard":
            return 1
        from engine.sampling.image_pass import default_max_batch

        return default_max_batch(self.environment.device, cells[0].width, cells[0].height)


def fetched_source(model: str, progress: Progress, device: str = "cpu", dtype: str = "auto") -> ModelSource:
    """A model whose files are here, downloaded if need be, in the variant for a device and number format.

    Raises:
        ModelError: There is no such model, or it cannot be fetched.
    """
    source = find_model(model)
    if source.fingerprint is None:
        from engine.sampling.models import fetch

        progress.note(f"Fetching {source.name} from the hub.")
        source = fetch(source, resolve_dtype(dtype, resolve_device(device)))
    return source


def open_context(
    study: Study,
    cache: Path,
    *,
    device: str = "auto",
    memory: Memory = "standard",
    max_batch: int | None = None,
    progress: Progress | None = None,
    cluster: "Cluster | None" = None,
    compiling: Compiling = "",
) -> PassContext:
    """The context of a study on this machine; its model is fetched, but not loaded yet.

    Raises:
        LabError: There is no such model or device.
    """
    progress = progress or Progress()
    source = equipped(fetched_source(study.model, progress, device, study.dtype), study.pipeline.parts)
    device = resolve_device(device)
    environment, dtype = describe(device, memory, compiled=compiling == "all"), resolve_dtype(study.dtype, device)
    return PassContext(cache, source, environment, dtype, max_batch, progress, cluster, compiling)
