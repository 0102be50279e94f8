"""The denoiser seam: many unmodified pipeline calls run at once and share each forward of one denoiser.

Every pipeline call runs in its own greenlet. A stand-in for the denoiser parks the call and returns control to the hub.
Once all running calls are parked, the hub joins those with equal shapes and options along the batch axis, runs one
forward per group, and gives every call its slice. Calls of different schedulers and step counts share forwards; when
one ends, the next waiting one takes its place: continuous batching.

The hub must run under one outer `torch.no_grad()`: grad mode belongs to the thread, not to the greenlet.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from greenlet import getcurrent, greenlet
from torch import nn

from engine.errors import LabError
from engine.patience import patience
from engine.sampling.joining import Axes, Call, KnownEqual, bind, join, signature_of, split
from engine.sampling.room import LOST_DEVICE, is_lost_device, is_out_of_memory, release_unused
from engine.sampling.standins import Denoised, StandIn

T = TypeVar("T")


class Parking(StandIn):
    """Stands in for the denoiser in one pipeline call; counts its calls.

    Args:
        real: The denoiser.
        axes: The batch axes of its arguments; None to run every call alone.
    """

    def __init__(self, real: nn.Module, axes: Axes | None = None) -> None:
        super().__init__(real)
        self.__dict__.update(calls=0, watch=None, axes=axes)

    def show_answers(self, watch: Callable[[Any], None]) -> None:
        """Passes every output to a function before the pipeline gets it."""
        self.__dict__["watch"] = watch

    def forward(self, *args: Any, **kwargs: Any) -> Denoised:
        """Parks the call until the hub has its output."""
        self.__dict__["calls"] += 1
        hub = getcurrent().parent
        if hub is None:
            raise RuntimeError("A parking denoiser was called outside a hub.")
        answer = hub.switch(bind(self.real, args, kwargs, self.axes))
        if self.watch is not None:
            self.watch(answer)
        return Denoised((answer,))


class Hub:
    """Runs jobs at once and merges their denoiser calls.

    Attributes:
        max_batch: Most jobs in flight, and therefore most calls per forward. Halved when memory runs out.
        forwards: Forwards run so far.
        tell: Called after each forward with the number of calls in it.
    """

    def __init__(self, max_batch: int, tell: Callable[[int], None] | None = None) -> None:
        self.tell = tell
        self.max_batch = max_batch
        self.forwards = 0
        self._equal = KnownEqual()

    def run(self, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Runs every job and yields results as they finish, in no fixed order.

        A job is a function that calls pipelines with `Parking` denoisers. It should return errors rather than raise
        them: an exception ends the run.
        """
        waiting = iter(jobs)
        parked: list[tuple[greenlet, Call]] = []
        try:
            while True:
                while len(parked) < self.max_batch and (job := next(waiting, None)) is not None:
                    yield from _advance(greenlet(job), None, parked)
                if not parked:
                    return
                calls, parked = parked, []
                for group in _groups(calls, self._equal):
                    for lane, answer in self._answers(group):
                        yield from _advance(lane, answer, parked)
        finally:
            for lane, _ in parked:
                lane.throw()

    def _answers(self, group: list[tuple[greenlet, Call]]) -> list[tuple[greenlet, Any]]:
        """Each call's slice of a shared forward, or an exception if the call fails even alone."""
        answers: list[tuple[greenlet, Any]] = []
        while group:
            part = group[: self.max_batch]
            results: list[Any] = []
            failed: Exception | None = None
            try:
                results = self._forward([call for _, call in part])
            except Exception as error:
                # Retried below rather than in this handler, as the traceback holds the tensors of the failed forward.
                failed = error.with_traceback(None)
            if failed is not None and is_lost_device(failed):
                raise LabError(f"{LOST_DEVICE} ({failed})")
            if failed is not None and len(part) == 1:
                results = [failed]
            elif failed is not None and not is_out_of_memory(failed):
                results = [self._answers([single])[0][1] for single in part]
            if not results:
                self.max_batch = len(part) // 2
                release_unused()
                continue
            answers += zip((lane for lane, _ in part), results, strict=True)
            group = group[len(part) :]
        return answers

    def _forward(self, calls: list[Call]) -> list[Any]:
        """Runs the calls in one forward and returns each one's rows."""
        self.forwards += 1
        denoiser = calls[0].denoiser
        options = {"return_dict": False} if "return_dict" in signature_of(denoiser).parameters else {}
        output = denoiser(**join(calls), **options)
        answer = output if isinstance(output, torch.Tensor) else output[0]
        if self.tell is not None:
            self.tell(len(calls))
        return split(answer, calls)


def _advance(lane: greenlet, answer: Any, parked: list[tuple[greenlet, Call]]) -> Iterator[Any]:
    """Resumes a job until it parks again; yields its result if it ends."""
    with patience("between two denoiser calls"):
        if isinstance(answer, Exception):
            outcome = lane.throw(answer)
        else:
            outcome = lane.switch() if answer is None else lane.switch(answer)
    if lane.dead:
        yield outcome
    else:
        parked.append((lane, outcome))


def _groups(parked: list[tuple[greenlet, Call]], known: KnownEqual) -> list[list[tuple[greenlet, Call]]]:
    """Parked calls in groups that can share a forward."""
    groups: dict[tuple[Any, ...], list[list[tuple[greenlet, Call]]]] = {}
    for lane, call in parked:
        same_shapes = groups.setdefault(call.agreement(), [])
        for group in same_shapes:
            if group[0][1].same_constants(call, known):
                group.append((lane, call))
                break
        else:
            same_shapes.append([(lane, call)])
    return list(itertools.chain.from_iterable(groups.values()))
