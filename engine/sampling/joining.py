"""Joins denoiser calls that can share a forward, along the batch axes of their arguments.

Nothing here depends on the family: the axes are learnt by comparing the arguments that a pipeline passes to its
denoiser for one prompt and for two. An axis that doubled is the batch axis; all other arguments must be equal.
"""

import functools
import inspect
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

# Argument name, then keys inside containers; list indices are one-tuples, tuple indices are numbers.
Path = tuple[Any, ...]
# The batch axis; "list" for a list with one entry per row; None if all rows share the value; "alone" if it depends on
# the number of rows in a way that can't be joined.
Axis = int | Literal["list", "alone"] | None
Axes = Mapping[Path, Axis]

# Names of the time argument. Denoisers take one number or one per row, and get the latter.
TIMES = frozenset({"timestep", "timesteps", "t"})


@dataclass(frozen=True)
class Call:
    """One denoiser call.

    Attributes:
        denoiser: The denoiser.
        rows: Rows of its batch; 0 if the axes are unknown, so that it must run alone.
        leaves: Every argument by its path.
        axes: The batch axis of each leaf.
    """

    denoiser: nn.Module
    rows: int
    leaves: dict[Path, Any]
    axes: dict[Path, Axis]

    def agreement(self) -> tuple[Any, ...]:
        """What must be equal for two calls to share a forward; of tensors without a batch axis only the shape."""
        if not self.rows or "alone" in self.axes.values():
            return (id(self),)
        signature: list[Any] = [id(self.denoiser)]
        for path, leaf in self.leaves.items():
            axis = self.axes[path]
            if isinstance(leaf, torch.Tensor):
                shape = tuple(size // self.rows if place == axis else size for place, size in enumerate(leaf.shape))
                signature.append((path, axis, shape, leaf.dtype, leaf.device))
            else:
                signature.append((path, axis) if axis == "list" else (path, _hashable(leaf)))
        return tuple(signature)

    def same_constants(self, other: "Call", known: "KnownEqual") -> bool:
        """Whether the tensors without a batch axis are equal in two calls that agree."""
        return all(
            self.axes[path] is not None or known.equal(leaf, other.leaves[path])
            for path, leaf in self.leaves.items()
            if isinstance(leaf, torch.Tensor)
        )


class KnownEqual:
    """Compares each pair of tensors once: every step passes the same constants, and comparing on a GPU waits for it."""

    def __init__(self) -> None:
        # For each pair, the versions of both tensors and the result; changes in place increase the version.
        self._like: Any = WeakIdKeyDictionary()

    def equal(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        """Whether two tensors of the same shape are equal."""
        if one is other:
            return True
        answers = self._like.setdefault(one, WeakIdKeyDictionary())
        versions, known = answers.get(other, (None, False))
        if versions == (one._version, other._version):
            return bool(known)
        found = torch.equal(one, other)
        answers[other] = ((one._version, other._version), found)
        return found


def bind(denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], axes: Axes | None) -> Call:
    """Binds a call's arguments to names by the denoiser's signature, with one timestep per row.

    Args:
        denoiser: The denoiser.
        args: Positional arguments.
        kwargs: Keyword arguments.
        axes: From `learn_axes`; None if they are unknown.
    """
    arguments = arguments_of(denoiser, args, kwargs)
    if axes is None:
        leaves = dict(flatten(arguments))
        return Call(denoiser, 0, leaves, dict.fromkeys(leaves))
    lists = {path for path, axis in axes.items() if axis == "list"}
    found = dict(flatten(arguments, lists=lists))
    rows = next((_rows(leaf, axes[path]) for path, leaf in found.items() if path in axes and _holds(axes, path)), 0)
    times = {name: _spread(arguments[name], rows, found) for name in TIMES & arguments.keys()} if rows else {}
    leaves = {path: leaf for path, leaf in found.items() if path[0] not in times} | {(k,): v for k, v in times.items()}
    return Call(denoiser, rows, leaves, {path: _axis(path, leaf, rows, axes) for path, leaf in leaves.items()})


def arguments_of(denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, in the order of the signature, without `return_dict`."""
    # Calls that don't fit the signature fail in the denoiser; `Signature.bind` takes several times as long.
    names = signature_of(denoiser).parameters
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    given.pop("return_dict", None)
    return {name: given[name] for name in names if name in given} | given


def signature_of(module: nn.Module) -> inspect.Signature:
    """The signature of a module's `forward`, without `self`; computed once per class."""
    forward, kind = module.forward, cast(Any, type(module))
    # A function set on one module (offload hooks) is not cached, or the cache would keep the module alive.
    return _signature(kind) if inspect.ismethod(forward) else inspect.signature(forward)


@functools.lru_cache(maxsize=32)
def _signature(kind: Any) -> inspect.Signature:
    _, *parameters = inspect.signature(kind.forward).parameters.values()
    return inspect.Signature(parameters)


def join(calls: Sequence[Call]) -> dict[str, Any]:
    """The arguments of one forward for calls that agree."""
    first = calls[0]
    if len(calls) == 1:
        return unflatten(first.leaves)
    joined: dict[Path, Any] = {}
    for path, leaf in first.leaves.items():
        axis, every = first.axes[path], [call.leaves[path] for call in calls]
        if axis == "list":
            joined[path] = list(itertools.chain.from_iterable(every))
        else:
            joined[path] = torch.cat(every, dim=axis) if isinstance(axis, int) else leaf
    return unflatten(joined)


def split(answer: Any, calls: Sequence[Call]) -> list[Any]:
    """Each call's rows of the output, which is a tensor or a list with one entry per row."""
    if len(calls) == 1:
        return [answer]
    total = sum(call.rows for call in calls)
    size = len(answer) if isinstance(answer, list) else answer.shape[0]
    ends = list(itertools.accumulate(call.rows * size // total for call in calls))
    return [answer[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def learn_axes(one: Sequence[Mapping[str, Any]], two: Sequence[Mapping[str, Any]]) -> dict[Path, Axis]:
    """The batch axes, from the arguments of the same calls for one prompt and for two equal prompts.

    Raises:
        ValueError: The calls differ in number or arguments.
    """
    axes: dict[Path, Axis] = {}
    for single, double in zip(one, two, strict=True):
        if single.keys() != double.keys():
            raise ValueError("the denoiser gets other arguments for two prompts than for one")
        for name, value in single.items():
            for path, axis in _compared((name,), value, double[name]):
                axes[path] = axis if axes.get(path, axis) == axis else "alone"
    return axes


def flatten(value: Any, path: Path = (), lists: Collection[Path] = ()) -> Iterator[tuple[Path, Any]]:
    """Leaves of nested mappings and sequences with their paths; a path in `lists` is one leaf."""
    if path in lists:
        yield path, value
    elif isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, (*path, key), lists)
    elif isinstance(value, list | tuple) and value:
        for place, item in enumerate(value):
            yield from flatten(item, (*path, (place,) if isinstance(value, list) else place), lists)
    else:
        yield path, value


def unflatten(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[Any, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, _Node())
        node[path[-1]] = leaf
    return {key: _restored(value) for key, value in tree.items()}


class _Node(dict[Any, Any]):
    """A container being rebuilt, as opposed to a mapping that is a leaf."""


def _restored(value: Any) -> Any:
    if not isinstance(value, _Node):
        return value
    items = {key: _restored(item) for key, item in value.items()}
    kinds = {type(key) for key in items}
    return tuple(items.values()) if kinds == {int} else list(items.values()) if kinds == {tuple} else items


def _compared(path: Path, one: Any, two: Any) -> Iterator[tuple[Path, Axis]]:
    if path[0] in TIMES:
        return
    if type(one) is not type(two):
        yield path, "alone"
    elif isinstance(one, torch.Tensor):
        changed = [axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=False)) if a != b]
        doubled = len(changed) == 1 and two.shape[changed[0]] == 2 * one.shape[changed[0]] and one.ndim == two.ndim
        same = one.shape == two.shape
        yield path, None if same else changed[0] if doubled else "alone"
    elif isinstance(one, list | tuple) and len(two) != len(one):
        yield path, "list" if isinstance(one, list) and len(two) == 2 * len(one) else "alone"
    elif isinstance(one, Mapping) and one.keys() == two.keys():
        for key in one:
            yield from _compared((*path, key), one[key], two[key])
    elif isinstance(one, list | tuple) and one:
        for place, (a, b) in enumerate(zip(one, two, strict=True)):
            yield from _compared((*path, (place,) if isinstance(one, list) else place), a, b)
    else:
        yield path, None if one == two else "alone"


def _hashable(leaf: Any) -> Any:
    try:
        hash(leaf)
    except TypeError:
        return repr(leaf)
    return leaf


def _holds(axes: Axes, path: Path) -> bool:
    return axes[path] == "list" or isinstance(axes[path], int)


def _rows(leaf: Any, axis: Axis) -> int:
    return int(leaf.shape[axis]) if isinstance(axis, int) and isinstance(leaf, torch.Tensor) else len(leaf)


def _axis(path: Path, leaf: Any, rows: int, axes: Axes) -> Axis:
    """A leaf's batch axis, checked against the number of rows; unknown leaves must be equal to be shared."""
    if path[0] in TIMES:
        divisible = isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and rows > 0 and leaf.shape[0] % rows == 0
        return 0 if divisible else "alone"
    axis = axes.get(path)
    if isinstance(axis, int):
        fits = isinstance(leaf, torch.Tensor) and leaf.ndim > axis and rows > 0 and leaf.shape[axis] % rows == 0
        return axis if fits else "alone"
    return axis


def _spread(time: Any, rows: int, leaves: Mapping[Path, Any]) -> torch.Tensor:
    """One time per row, as float32 so that whole and fractional timesteps can share a forward."""
    tensors = itertools.chain.from_iterable(leaf if isinstance(leaf, list) else [leaf] for leaf in leaves.values())
    like = next(tensor for tensor in tensors if isinstance(tensor, torch.Tensor))
    spread = torch.as_tensor(time, device=like.device).float()
    return spread.expand(rows) if spread.ndim == 0 or tuple(spread.shape) == (1,) else spread
