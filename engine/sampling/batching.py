"""The denoiser seam: many unmodified pipeline calls run at once and share each forward of one denoiser.

Every pipeline call runs in a greenlet of its own. Where it calls its denoiser, a stand-in parks the call and hands
control to the hub. When all running calls are parked, the hub joins those that agree in shapes and options along the
batch axis, runs one forward for each such group, and hands every call its own slice. Calls of other schedulers and
other step counts share forwards; when one ends, the next waiting one takes its place: continuous batching.

The hub has to run under one outer `torch.no_grad()`: grad mode belongs to the thread, not to the greenlet.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from greenlet import getcurrent, greenlet
from torch import nn

from engine.sampling.standins import StandIn

Path = tuple[str | int, ...]
T = TypeVar("T")


class Denoised(tuple[torch.Tensor]):
    """A denoiser's answer that works for pipelines asking for a tuple and for those asking for `.sample`."""

    @property
    def sample(self) -> torch.Tensor:
        """The prediction, one row per row of the input."""
        return self[0]


@dataclass(frozen=True)
class Call:
    """One parked denoiser call.

    Attributes:
        rows: Batch rows of the input.
        leaves: Every argument by its path (argument name, then keys inside containers).
    """

    rows: int
    leaves: dict[Path, Any]

    def is_joined(self, path: Path) -> bool:
        """Whether a leaf has one row, or a fixed number of rows, for each batch row."""
        return has_rows(path, self.leaves[path], self.rows)

    def agreement(self) -> tuple[Any, ...]:
        """What has to be equal for two calls to share a forward (tensors that are not joined: by shape)."""
        signature: list[Any] = []
        for path, leaf in self.leaves.items():
            if isinstance(leaf, torch.Tensor):
                joined = self.is_joined(path)
                shape = (leaf.shape[0] // self.rows, *leaf.shape[1:]) if joined else tuple(leaf.shape)
                signature.append((path, joined, shape, leaf.dtype, leaf.device))
            else:
                signature.append((path, leaf))
        return tuple(signature)


def has_rows(path: Path, leaf: Any, rows: int) -> bool:
    """Whether the first axis of a denoiser's argument is that of its batch rows, told by its name and its length."""
    if not isinstance(leaf, torch.Tensor) or leaf.ndim == 0:
        return False
    # They belong to the picture size, though their first axis may look like rows.
    if path[0] in {"img_ids", "txt_ids", "image_rotary_emb"}:
        return False
    return leaf.shape[0] > 0 and leaf.shape[0] % rows == 0


class Parking(StandIn):
    """Stands in for the denoiser in one pipeline call; counts its calls."""

    def __init__(self, real: nn.Module) -> None:
        super().__init__(real)
        self.__dict__.update(calls=0, watch=None)

    def show_answers(self, watch: Callable[[torch.Tensor], None]) -> None:
        """Shows every answer to a function before the pipeline gets it."""
        self.__dict__["watch"] = watch

    def forward(self, *args: Any, **kwargs: Any) -> Denoised:
        """Parks the call until the hub has its answer."""
        self.__dict__["calls"] += 1
        hub = getcurrent().parent
        if hub is None:
            raise RuntimeError("A parking denoiser was called outside a hub.")
        answer = hub.switch(bind(self.real, args, kwargs))
        if self.watch is not None:
            self.watch(answer)
        return Denoised((answer,))


def bind(denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Binds a call's arguments to names by the denoiser's signature, with one timestep per row."""
    bound = inspect.signature(denoiser.forward).bind(*args, **kwargs).arguments
    extra = bound.pop("kwargs", {})
    arguments = {**bound, **extra}
    arguments.pop("return_dict", None)
    rows = int(next(value for value in arguments.values() if isinstance(value, torch.Tensor)).shape[0])
    if "timestep" in arguments:
        like = next(value for value in arguments.values() if isinstance(value, torch.Tensor))
        # float32 holds whole and fractional timesteps alike, so that schedulers of both kinds can share a forward.
        arguments["timestep"] = torch.as_tensor(arguments["timestep"], device=like.device).float().expand(rows)
    return Call(rows, dict(_flatten(arguments)))


class Hub:
    """Runs jobs at once and merges their denoiser calls.

    Attributes:
        max_batch: Most jobs in flight, and so most calls that share a forward. Lowered when memory runs out.
        forwards: Forwards run so far.
        tell: Told after each forward how many calls it has answered.
    """

    def __init__(self, denoiser: nn.Module, max_batch: int, tell: Callable[[int], None] | None = None) -> None:
        self.denoiser = denoiser
        self.tell = tell
        self.max_batch = max_batch
        self.forwards = 0
        self._has_return_dict = "return_dict" in inspect.signature(denoiser.forward).parameters

    def run(self, jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Runs every job to its end and yields results as they come, in no fixed order.

        A job is a function that calls pipelines whose denoiser is a `Parking` of this hub's denoiser. It should
        return its errors rather than raise them: what it raises ends the run.
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
                for group in _groups(calls):
                    for lane, answer in self._answers(group):
                        yield from _advance(lane, answer, parked)
        finally:
            for lane, _ in parked:
                lane.throw()

    def _answers(self, group: list[tuple[greenlet, Call]]) -> list[tuple[greenlet, Any]]:
        """Each call's slice of a shared forward; an exception instead if a call fails alone."""
        answers: list[tuple[greenlet, Any]] = []
        while group:
            part = group[: self.max_batch]
            results: list[Any] = []
            try:
                results += self._forward([call for _, call in part])
            except torch.OutOfMemoryError as error:
                # Tried again below, not in this handler: the traceback holds the tensors of the forward that failed.
                results += [error.with_traceback(None)] if len(part) == 1 else []
            except Exception as error:
                results += [error] if len(part) == 1 else [self._answers([single])[0][1] for single in part]
            if not results:
                self.max_batch = len(part) // 2
                torch.cuda.empty_cache()
                continue
            answers += zip((lane for lane, _ in part), results, strict=True)
            group = group[len(part) :]
        return answers

    def _forward(self, calls: list[Call]) -> tuple[torch.Tensor, ...]:
        """Runs the calls in one forward; each one's slice of the answer."""
        self.forwards += 1
        first = calls[0]
        joined = {
            path: torch.cat([call.leaves[path] for call in calls]) if first.is_joined(path) else leaf
            for path, leaf in first.leaves.items()
        }
        options = {"return_dict": False} if self._has_return_dict else {}
        output = self.denoiser(**_unflatten(joined), **options)
        answer = output if isinstance(output, torch.Tensor) else output[0]
        total = sum(call.rows for call in calls)
        if self.tell is not None:
            self.tell(len(calls))
        return answer.split([call.rows * answer.shape[0] // total for call in calls])


def _advance(lane: greenlet, answer: Any, parked: list[tuple[greenlet, Call]]) -> Iterator[Any]:
    """Runs a job on until it parks again, or yields its result if it ends."""
    if isinstance(answer, Exception):
        outcome = lane.throw(answer)
    else:
        outcome = lane.switch() if answer is None else lane.switch(answer)
    if lane.dead:
        yield outcome
    else:
        parked.append((lane, outcome))


def _groups(parked: list[tuple[greenlet, Call]]) -> list[list[tuple[greenlet, Call]]]:
    """Parked calls in groups that can share a forward."""
    groups: dict[tuple[Any, ...], list[list[tuple[greenlet, Call]]]] = {}
    for lane, call in parked:
        same_shapes = groups.setdefault(call.agreement(), [])
        for group in same_shapes:
            if _same_constants(group[0][1], call):
                group.append((lane, call))
                break
        else:
            same_shapes.append([(lane, call)])
    return [group for same_shapes in groups.values() for group in same_shapes]


def _same_constants(one: Call, other: Call) -> bool:
    return all(
        one.is_joined(path) or leaf is other.leaves[path] or torch.equal(leaf, other.leaves[path])
        for path, leaf in one.leaves.items()
        if isinstance(leaf, torch.Tensor)
    )


def _flatten(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Leaves of nested mappings and sequences; the kind of a sequence is kept in its path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, (*path, key))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _flatten(item, (*path, place))
    else:
        yield path, value


def _unflatten(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    """The inverse of `_flatten`; sequences come back as tuples."""
    tree: dict[Any, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return {key: _sequences(value) for key, value in tree.items()}


def _sequences(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    items = {key: _sequences(item) for key, item in value.items()}
    return tuple(items.values()) if items and all(isinstance(key, int) for key in items) else items
