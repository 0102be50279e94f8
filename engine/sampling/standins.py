"""Stand-ins for parts of a pipeline, which watch or change calls of the real part."""

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from engine.study.families import Family, family_of


class StandIn(nn.Module):
    """Delegates unknown attributes to the real module, which is not registered as a submodule."""

    def __init__(self, real: nn.Module) -> None:
        super().__init__()
        self.__dict__["real"] = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["real"], name)


class Denoised(tuple[Any]):
    """A denoiser output for pipelines that expect a tuple and for those that expect `.sample`."""

    @property
    def sample(self) -> Any:
        """The prediction, one row per row of the input: a tensor, or a list of tensors."""
        return self[0]


class Answers:
    """A least-recently-used cache of at most `MOST_BYTES`.

    Args:
        before: Called before an answer is worked out.
    """

    MOST_BYTES = 2**29

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self._answers: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def answer(self, question: Hashable, work_out: Callable[[], Any]) -> Any:
        """The cached answer; computed and stored if there is none."""
        if question in self._answers:
            self._answers.move_to_end(question)
            return self._answers[question][0]
        self._before()
        found = work_out()
        size = sum(leaf.nbytes for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor))
        self._answers[question] = found, size
        self._bytes += size
        while self._bytes > self.MOST_BYTES and len(self._answers) > 1:
            _, (_, dropped) = self._answers.popitem(last=False)
            self._bytes -= dropped
        return found


class Remembering(StandIn):
    """A text encoder that computes each distinct input once."""

    def __init__(self, real: nn.Module, before: Callable[[], None]) -> None:
        super().__init__(real)
        self.__dict__["memory"] = Answers(before)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The real module's output for these arguments; equal rows are computed only once."""
        rows = _equal_rows([value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)])
        if rows > 1:
            one = self.forward(*_mapped(args, lambda value: value[:1]), **_mapped(kwargs, lambda value: value[:1]))
            return _mapped(one, lambda value: value.repeat_interleave(rows, 0) if len(value) == 1 else value)
        return self.memory.answer(_key((args, kwargs)), lambda: self.real(*args, **kwargs))


def _remembered(encode: Callable[..., Any], before: Callable[[], None]) -> Callable[..., Any]:
    """Wraps `encode_prompt` of a pipeline to encode each distinct prompt once.

    Its output is smaller than that of the encoders, and prompts are compared without waiting for a device.
    """
    memory = Answers(before)

    @functools.wraps(encode)
    def remembered(*args: Any, **kwargs: Any) -> Any:
        try:
            question = _words((args, kwargs))
        except TypeError:  # pictures or precomputed embeddings
            before()
            return encode(*args, **kwargs)
        return memory.answer(question, lambda: encode(*args, **kwargs))

    return remembered


def _words(value: Any) -> Hashable:
    """Converts texts, numbers and devices to something hashable.

    Raises:
        TypeError: Another kind of value is among them.
    """
    if isinstance(value, Mapping):
        return tuple((key, _words(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return (type(value), *map(_words, value))
    if value is None or isinstance(value, str | int | float | torch.device | torch.dtype):
        return (type(value), value)
    raise TypeError(f"{type(value).__name__} is not compared by value")


def family(pipe: DiffusionPipeline) -> Family:
    """The registered family of a pipeline."""
    return family_of(type(pipe).__name__, model_config(pipe))


def model_config(pipe: DiffusionPipeline) -> dict[str, Any]:
    """The configuration of a pipeline's own scheduler, including its class name as in the model's files."""
    return {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}


def denoisers(pipe: DiffusionPipeline) -> dict[str, nn.Module]:
    """The denoisers of a pipeline by component; some families have one per part of the schedule (Wan 2.2)."""
    return {name: part for name in family(pipe).denoisers if (part := getattr(pipe, name, None)) is not None}


def _nothing() -> None:
    return None


def with_parts(pipe: DiffusionPipeline, **parts: Any) -> DiffusionPipeline:
    """A copy of a pipeline that shares its weights, with some parts replaced."""
    twin = copy.copy(pipe)
    # Bypasses the pipeline's own bookkeeping, since the shared config must not contain stand-ins. Offload hooks
    # belong to the original, and the copy must not reinstall them when its call ends.
    vars(twin).update(parts, maybe_free_model_hooks=_nothing)
    return twin


def remembering_text(pipe: DiffusionPipeline, before: Callable[[], None] = _nothing) -> DiffusionPipeline:
    """A copy of a pipeline that encodes each distinct prompt once, or anew if too many have come since.

    Args:
        pipe: The pipeline.
        before: Called before a prompt is encoded.
    """
    if hasattr(pipe, "encode_prompt"):
        twin: Any = _placed(with_parts(pipe))
        vars(twin)["encode_prompt"] = _remembered(twin.encode_prompt, before)
        return twin
    encoders = {name: part for name, part in pipe.components.items() if name.startswith("text_encoder")}
    parts = {name: Remembering(real, before) for name, real in encoders.items() if real is not None}
    return _placed(with_parts(pipe, **parts))


def _placed(twin: Any) -> Any:
    """Stores the device of a copy: pipelines otherwise search all their modules for it several times per call."""
    vars(twin)["_place"] = twin._execution_device
    kind: Any = type(twin)
    twin.__class__ = _placed_kind(kind)
    return twin


@functools.cache
def _placed_kind(kind: type[DiffusionPipeline]) -> type[DiffusionPipeline]:
    own = {"_execution_device": property(lambda self: vars(self)["_place"]), "__module__": kind.__module__}
    return type(kind.__name__, (kind,), own)


def _equal_rows(tensors: Sequence[torch.Tensor]) -> int:
    """The number of rows if all rows of each tensor are equal, else 0."""
    sizes = {len(tensor) if tensor.ndim else 0 for tensor in tensors}
    equal = len(sizes) == 1 and all(torch.equal(tensor, tensor[:1].expand_as(tensor)) for tensor in tensors)
    return sizes.pop() if equal else 0


def _mapped(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A nested value with a function applied to its tensors."""
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, torch.Tensor) and leaf.ndim else leaf, tree)


def _key(value: Any) -> Hashable:
    """Converts a nested value to something hashable, tensors by content."""
    if isinstance(value, torch.Tensor):
        return (
            tuple(value.shape),
            str(value.dtype),
            value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes(),
        )
    if isinstance(value, Mapping):
        return tuple((key, _key(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    return value
