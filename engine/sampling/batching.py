"""The denoiser seam: many unmodified pipeline calls run at once and share each forward of one denoiser.

Every pipeline call runs in its own greenlet. A stand-in for the denoiser parks the call and returns control to the hub.
Once all running calls are parked, the hub joins those with equal shapes and options along the batch axis, runs one
forward per group, and gives every call its slice. Calls of different schedulers and step counts share forwards; when
one ends, the next waiting one takes its place: continuous batching.

The hub must run under one outer `torch.no_grad()`: grad mode belongs to the thread, not to the greenlet.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch
from greenlet import getcurrent, greenlet
from torch import nn

from engine.patience import patience
from engine.sampling.compiling import bucket, is_compiled
from engine.sampling.joining import Axes, Call, KnownEqual, bind, join, signature_of, split
from engine.sampling.room import is_out_of_memory, raise_if_lost, release_unused
from engine.sampling.side_by_side import Teams
from engine.sampling.standins import Denoised, StandIn

T = TypeVar("T")
# A job and the denoiser call that it waits for.
Parked: TypeAlias = tuple[greenlet, Call]
# What comes of a forward: the rows of each call, or why there are none.
Outcome: TypeAlias = list[Any] | Exception
# Calls that share a forward, and that forward where a team runs it; None where it is run when it is waited for.
Turn: TypeAlias = tuple[list[Parked], Future[Outcome] | None]


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
        self._teams = Teams()

    def run(self, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Runs every job and yields results as they finish, in no fixed order.

        A job is a function that calls pipelines with `Parking` denoisers. It should return errors rather than raise
        them: an exception ends the run.
        """
        waiting = iter(jobs)
        parked: list[Parked] = []
        turns: deque[Turn] = deque()
        running: list[greenlet] = []
        try:
            while True:
                while len(parked) + _flying(turns) < self.max_batch and (job := next(waiting, None)) is not None:
                    running.append(greenlet(job))
                    yield from _advance([(running[-1], None)], parked)
                running = [lane for lane in running if not lane.dead]
                self._hand_out(parked, turns)
                if not turns:
                    return
                yield from _advance(self._answers(*turns.popleft()), parked)
        finally:
            # Also those between two calls: collected as garbage they would leave grad mode as they found it, off.
            for lane in running:
                if not lane.dead:
                    lane.throw()
            self._teams.close()

    def _hand_out(self, parked: list[Parked], turns: deque[Turn]) -> None:
        """Gives parked calls that can share a forward to each team that has none, and takes them off the list."""
        if not parked:
            return
        live, denoiser = len(parked) + _flying(turns), parked[0][1].denoiser
        teams = 1 if is_compiled(denoiser) else self._teams.count(live, denoiser)
        if len(turns) >= teams:
            return
        groups = _groups(parked, self._equal)
        parked.clear()
        if teams == 1:
            turns += [(group, None) for group in groups]
            return
        most = min(math.ceil(live / teams), self.max_batch)
        for group in groups:
            while group and len(turns) < teams:
                share, group = group[:most], group[most:]
                turns.append((share, self._teams.start(partial(_forward, [call for _, call in share]), teams)))
            parked += group

    def _answers(self, group: list[Parked], begun: Future[Outcome] | None = None) -> list[tuple[greenlet, Any]]:
        """Each call's slice of a shared forward, or an exception if the call fails even alone.

        Args:
            group: Calls that can share a forward.
            begun: That forward, where a team runs it already.
        """
        answers: list[tuple[greenlet, Any]] = []
        while group:
            size = self._size(group) if begun is None else len(group)
            part = group[:size]
            if begun is None:
                calls = [call for _, call in part]
                outcome = _forward([*calls, *calls[:1] * (size - len(calls))])  # filled up to the size
            else:
                outcome, begun = begun.result(), None
            if not isinstance(outcome, Exception):
                self._count(len(part))
                results = outcome[: len(part)]
            elif len(part) == 1:
                results = [outcome]
            elif is_out_of_memory(outcome):
                self.max_batch = max(1, size // 2)
                release_unused()
                continue
            else:
                results = [self._answers([single])[0][1] for single in part]
            answers += zip((lane for lane, _ in part), results, strict=True)
            group = group[len(part) :]
        return answers

    def _size(self, group: list[Parked]) -> int:
        """Calls of the next forward."""
        count = min(len(group), self.max_batch)
        return bucket(count, self.max_batch) if is_compiled(group[0][1].denoiser) else count

    def _count(self, calls: int) -> None:
        self.forwards += 1
        if self.tell is not None:
            self.tell(calls)


def _flying(turns: Iterable[Turn]) -> int:
    """How many calls wait for a forward that runs."""
    return sum(len(group) for group, _ in turns)


def _forward(calls: Sequence[Call]) -> Outcome:
    """Runs some calls together: each one's rows, or the error without its traceback, which holds their tensors."""
    denoiser = calls[0].denoiser
    options = {"return_dict": False} if "return_dict" in signature_of(denoiser).parameters else {}
    try:
        output = denoiser(**join(calls), **options)
        return split(output if isinstance(output, torch.Tensor) else output[0], calls)
    except Exception as error:
        raise_if_lost(error)
        return error.with_traceback(None)


def _advance(answers: Sequence[tuple[greenlet, Any]], parked: list[Parked]) -> Iterator[Any]:
    """Resumes each job with its answer until it parks again; yields its result if it ends."""
    left = deque(answers)
    while left:
        with patience("between two denoiser calls") as anew:  # entered seldom: it costs as much as a small forward
            ended = False
            while left and not ended:
                lane, answer = left.popleft()
                anew()
                if isinstance(answer, Exception):
                    outcome = lane.throw(answer)
                else:
                    outcome = lane.switch() if answer is None else lane.switch(answer)
                ended = lane.dead
                if not ended:
                    parked.append((lane, outcome))
        if ended:
            yield outcome


def _groups(parked: list[Parked], known: KnownEqual) -> list[list[Parked]]:
    """Parked calls in groups that can share a forward."""
    groups: dict[tuple[Any, ...], list[list[Parked]]] = {}
    for lane, call in parked:
        same_shapes = groups.setdefault(call.agreement(), [])
        for group in same_shapes:
            if group[0][1].same_constants(call, known):
                group.append((lane, call))
                break
        else:
            same_shapes.append([(lane, call)])
    return list(itertools.chain.from_iterable(groups.values()))
