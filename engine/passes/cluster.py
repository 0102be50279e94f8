"""Cells made by workers on a Ray cluster, each of which holds the model; this process is the only one that writes.

A worker gets a unit of cells and streams finished rows back. Rows that nobody has read yet are bounded: workers wait
for the disk rather than fill memory. What a lost worker had not handed over is made again by the others, and whatever
comes, a cell is yielded once. Workers need the lab, the model and plug-ins under the same names as here.
"""

import math
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.environment import Environment, Memory, describe, resolve_device
from engine.errors import LabError
from engine.passes.context import MadeCell, PassContext, fetched_source
from engine.passes.images import ImageJob, make_here, trajectory_row
from engine.progress import Progress
from engine.study.model_parts import ModelParts, equipped
from engine.study.reading import read_plugins

# Cells of a unit: enough for forwards to be shared to the end of it, few enough for all workers to end together.
FEWEST_CELLS, MOST_CELLS = 16, 64
# Rows that a worker has finished and nobody has read yet; with more it waits.
MOST_UNREAD = 16
# Workers that may be lost over a cell before it counts as failed: it may be the cell that kills them. After each loss
# units are a quarter as large, so that in the end the cell is alone.
MOST_LOSSES, SMALLER = 4, 4
# How often interrupts are looked for while nothing comes.
SECONDS_APART = 0.5
# After which it is said that no worker is ready.
PATIENCE_SECONDS = 60.0
NOT_INSTALLED = "--ray needs Ray, which is not installed here; run `pip install 'scheduler-lab[cluster]'`."


@dataclass(frozen=True)
class WorkOrder:
    """What a worker needs to make the same cells as this process.

    Attributes:
        model: Its name, as `find_model` takes it.
        parts: What the study puts into it.
        fingerprint: Of its files, parts included.
        device: "cuda", "mps" or "cpu".
        memory: How the model is loaded.
        dtype: Number format of the cells.
        diffusers: Release, which is part of a cell's identity.
        most_in_flight: Most cells that share a forward, or None.
        plugins: What to import first.
        compiled: Whether its forwards are compiled.
    """

    model: str
    parts: ModelParts | None
    fingerprint: str
    device: str
    memory: Memory
    dtype: str
    diffusers: str
    most_in_flight: int | None
    plugins: tuple[str, ...]
    compiled: bool


class CellWorker:
    """Makes cells in a process of its own.

    Args:
        order: What it works with.
    """

    def __init__(self, order: WorkOrder) -> None:
        self._order = order
        self._context: PassContext | None = None

    def prepare(self) -> Environment:
        """Loads the model.

        Returns:
            Where it runs.

        Raises:
            LabError: It would make other cells than its driver, or cannot load the model.
        """
        order = self._order
        here = describe(resolve_device(order.device), order.memory, compiled=order.compiled)
        read_plugins(order.plugins, None)
        source = fetched_source(order.model, Progress(), order.device, order.dtype)
        if order.parts:
            source = equipped(source, order.parts)
        for what, mine, asked in (
            ("files of the model", source.fingerprint, order.fingerprint),
            ("release of diffusers", here.diffusers, order.diffusers),
        ):
            if mine != asked:
                raise LabError(f"Worker on {os.uname().nodename}: other {what} ({mine}) than its driver ({asked}).")
        self._context = PassContext(
            Path(os.devnull),
            source,
            here,
            order.dtype,
            order.most_in_flight,
            compiling="all" if order.compiled else "",
        )
        _ = self._context.model
        return here

    def make(self, jobs: Sequence[ImageJob]) -> Iterator[Any]:
        """Yields the cells as they are stored, each as it is finished."""
        assert self._context is not None  # prepared
        yield from make_here(self._context, jobs)


@dataclass
class _Worker:
    """A worker as the driver knows it: where it runs, once it is prepared, and its jobs not handed over yet."""

    actor: Any
    environment: Environment | None = None
    jobs: dict[str, ImageJob] = field(default_factory=dict)


class Cluster:
    """Workers on a Ray cluster, hired when there are cells to make. A context manager: at its end they are let go.

    Args:
        address: Of the cluster; "local" starts one on this machine, "" finds the one that runs here, or starts one.
        most_workers: At most so many; one for each GPU of the cluster, or for each core, unless given.
        plugins: What the study imports.
        cores: Cores to offer of a cluster that is started here; all unless given.
    """

    def __init__(
        self, address: str = "", most_workers: int | None = None, plugins: Sequence[str] = (), cores: int | None = None
    ) -> None:
        self._address, self._most, self._plugins, self._cores = address, most_workers, plugins, cores
        # By the reference that has their next answer: to `prepare`, or to `make`.
        self._busy: dict[Any, _Worker] = {}
        self._idle: list[_Worker] = []
        self._order: WorkOrder | None = None
        self._hired = self._lost_early = 0
        self._refused: list[str] = []  # why workers could not be prepared

    def __enter__(self) -> "Cluster":
        """Connects.

        Raises:
            LabError: Ray is not installed, or there is no such cluster.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise LabError(NOT_INSTALLED) from error
        self._ray = ray
        local = {"num_cpus": self._cores, "include_dashboard": False} if self._address == "local" else {}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(self._address or None, log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise LabError(f"There is no Ray cluster at '{self._address}': {error}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():  # Ray ends the process on SIGTERM
                    signal.signal(number, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets workers go, and disconnects."""
        self.dismiss()
        self._ray.shutdown()

    @property
    def ready(self) -> int:
        """Workers that hold the model."""
        return sum(worker.environment is not None for worker in (*self._busy.values(), *self._idle))

    def dismiss(self) -> None:
        """Lets all workers go, so that their devices are free. They are hired again when there are cells to make."""
        for worker in (*self._busy.values(), *self._idle):
            self._ray.kill(worker.actor)
        self._busy, self._idle = {}, []
        self._refused, self._lost_early = [], 0

    def make(
        self, context: PassContext, jobs: Sequence[ImageJob], tell: Callable[[int], None]
    ) -> Generator[MadeCell, None, None]:
        """Yields every cell once, as it is stored; in no fixed order.

        Args:
            context: The model, device and number format, and whom to tell.
            jobs: The cells.
            tell: Told how many more denoiser calls are done, or none, at least twice a second.

        Raises:
            LabError: No worker can make them.
        """
        order = self._order_of(context)
        if order != self._order:
            self.dismiss()
            self._order = order
        waiting, losses, patient_until = deque(jobs), Counter[str](), time.monotonic() + PATIENCE_SECONDS
        try:
            while waiting or any(worker.jobs for worker in self._busy.values()):
                self._hire(context, len(waiting))
                while waiting and self._idle:
                    self._hand_out(waiting, losses)
                if not self._busy:
                    reasons = "; ".join(dict.fromkeys(self._refused))
                    raise LabError(f"No worker is left for {len(waiting)} cells; others were refused: {reasons}")
                ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=SECONDS_APART)
                tell(0)
                if not self._hired and time.monotonic() > patient_until:
                    context.progress.note("Ray: no worker is ready yet; `ray status` tells what they wait for.")
                    patient_until = math.inf
                for reference in ready:
                    try:
                        made = self._answer(context, reference)
                    except self._ray.exceptions.RayError as error:
                        worker = self._busy.pop(reference)
                        self._ray.kill(worker.actor)
                        if worker.environment is None:
                            self._never_ready(context, error)
                        else:
                            waiting.extendleft(reversed(self._left(context, worker, error, losses)))
                            yield from _given_up(worker, error)
                    else:
                        if made is not None:
                            tell(made.row.nfe or 0)
                            yield made
        finally:
            if any(worker.jobs for worker in self._busy.values()):
                self.dismiss()  # interrupted: what is under way is of no use

    def _hire(self, context: PassContext, cells: int) -> None:
        """Starts workers until there are as many as the cluster has devices, or as the cells need."""
        device = context.environment.device
        resource = "GPU" if device == "cuda" else "CPU"
        there = 1 if device == "mps" else int(self._ray.cluster_resources().get(resource, 0))
        if not there and not self._most and not self._hired:
            raise LabError(
                f"The Ray cluster has no {resource}, and the cells are made on '{device}'. Start a node that has one; "
                "if the cluster grows by itself, say how many workers it may have: --workers N."
            )
        wanted = max(1, self._most or there) - len(self._refused)
        have = len(self._busy) + len(self._idle)
        for _ in range(min(wanted, have + -(-cells // FEWEST_CELLS)) - have):
            kind = self._ray.remote(num_gpus=1) if device == "cuda" else self._ray.remote(num_cpus=1)
            worker = _Worker(kind(CellWorker).remote(self._order))
            self._busy[worker.actor.prepare.remote()] = worker

    def _order_of(self, context: PassContext) -> WorkOrder:
        source, here = context.source, context.environment
        if source.kind == "memory" or source.fingerprint is None:
            raise LabError("A pipeline that a program has loaded cannot be sent to a cluster; save it to a folder.")
        plugins = tuple(map(_found_from_anywhere, self._plugins))
        order = source.name, source.parts, source.fingerprint, here.device, here.memory, context.dtype
        return WorkOrder(*order, here.diffusers, context.most_in_flight, plugins, bool(context.compiling))

    def _hand_out(self, waiting: deque[ImageJob], losses: Counter[str]) -> None:
        """Gives an idle worker its next unit: the smaller, the fewer are left and the more workers it has cost."""
        worker = self._idle.pop()
        workers = len(self._busy) + len(self._idle) + 1
        size = min(MOST_CELLS, max(FEWEST_CELLS, len(waiting) // (2 * workers)))
        size = max(1, size // SMALLER ** losses[waiting[0].cell.trajectory_id])
        unit = [waiting.popleft() for _ in range(min(size, len(waiting)))]
        worker.jobs = {job.cell.trajectory_id: job for job in unit}
        options = {"num_returns": "streaming", "_generator_backpressure_num_objects": MOST_UNREAD}
        self._busy[worker.actor.make.options(**options).remote(unit)] = worker

    def _answer(self, context: PassContext, reference: Any) -> MadeCell | None:
        """What a worker says: that it is prepared, has finished a cell, or its unit."""
        worker = self._busy[reference]
        if worker.environment is None:
            worker.environment = self._ray.get(reference)
            self._hired += 1
            context.progress.note(f"Ray: worker {self._hired} is ready, on {worker.environment.device_name}.")
        else:
            try:
                row = self._ray.get(next(reference))
            except StopIteration:
                if worker.jobs:
                    raise RuntimeError(f"A worker left out {len(worker.jobs)} cells of its unit.") from None
            else:
                new = worker.jobs.pop(row.trajectory_id, None) is not None
                return MadeCell(row, worker.environment) if new else None
        self._idle.append(self._busy.pop(reference))
        return None

    def _never_ready(self, context: PassContext, error: Any) -> None:
        """Goes on without a worker that cannot be prepared; one that was lost in between is replaced."""
        reason, refused = _reason(error), isinstance(error, self._ray.exceptions.RayTaskError)
        if refused:
            self._refused.append(reason)
        else:
            self._lost_early += 1
        if not self.ready and (self._lost_early >= MOST_LOSSES or (refused and not self._busy)):
            raise LabError(f"No worker could be prepared: {reason}") from error
        told = "goes on without a worker" if refused else "a worker was lost before it was ready"
        context.progress.note(f"Ray: {told}: {reason}")

    def _left(self, context: PassContext, worker: _Worker, error: Any, losses: Counter[str]) -> list[ImageJob]:
        """Takes from a lost worker the jobs that others are to do; an error of the code itself is raised."""
        if isinstance(error, self._ray.exceptions.RayTaskError) and not isinstance(error, LabError):
            raise error
        losses.update(list(worker.jobs))
        again = [worker.jobs.pop(key) for key in list(worker.jobs) if losses[key] < MOST_LOSSES]
        context.progress.note(f"Ray: a worker was lost, and {len(again)} cells are made again: {_reason(error)}")
        return again


def _given_up(worker: _Worker, error: Exception) -> Iterator[MadeCell]:
    """The jobs that are left with a lost worker, as failed cells."""
    from engine.sampling.cell_maker import Sample

    assert worker.environment is not None  # it was prepared
    reason = f"LostWorker: {MOST_LOSSES} workers were lost over this cell: {_reason(error)}"
    for job in worker.jobs.values():
        yield MadeCell(trajectory_row(Sample(job.cell, nfe=0, error=reason), job.frames), worker.environment)


def _reason(error: Any) -> str:
    """An error in one line; of one that was raised in a worker, without its traceback there."""
    return str(getattr(error, "cause", None) or error).strip().partition("\n")[0]


def _found_from_anywhere(plugin: str) -> str:
    """An imported plug-in, named so that a worker finds it: a file by its full path."""
    return str(sys.modules[Path(plugin).stem].__file__) if plugin.endswith(".py") else plugin
