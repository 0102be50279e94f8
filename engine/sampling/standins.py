"""Stand-ins for parts of a pipeline: they answer for the real part and watch or change its calls."""

import copy
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from engine.study.families import Family, family_of


class StandIn(nn.Module):
    """Passes every attribute it doesn't have on to the real module, which it doesn't own as a submodule."""

    def __init__(self, real: nn.Module) -> None:
        super().__init__()
        self.__dict__["real"] = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["real"], name)


class Remembering(StandIn):
    """A text encoder that computes each distinct input once and answers from memory after that."""

    def __init__(self, real: nn.Module, capacity: int = 512) -> None:
        super().__init__(real)
        self._capacity = capacity
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The real module's output for these arguments."""
        key = _key((args, kwargs))
        if key not in self._answers:
            self._answers[key] = self.real(*args, **kwargs)
            if len(self._answers) > self._capacity:
                self._answers.popitem(last=False)
        self._answers.move_to_end(key)
        return self._answers[key]


def family(pipe: DiffusionPipeline) -> Family:
    """The table's entry for a pipeline."""
    return family_of(type(pipe).__name__)


def denoiser_name(pipe: DiffusionPipeline) -> str:
    """Which component of a pipeline is the denoiser, e.g. "unet" or "transformer"."""
    return next(name for name in family(pipe).denoisers if getattr(pipe, name, None) is not None)


def with_parts(pipe: DiffusionPipeline, **parts: Any) -> DiffusionPipeline:
    """A copy of a pipeline that shares its weights and has other parts in their place."""
    twin = copy.copy(pipe)
    # Set beside the pipeline's own bookkeeping: the shared config must not learn of stand-ins. Offload hooks
    # belong to the original; a twin must not reinstall them when its call ends.
    vars(twin).update(parts, maybe_free_model_hooks=_nothing)
    return twin


def remembering_text(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """A copy of a pipeline that encodes each distinct prompt once."""
    encoders = {name: part for name, part in pipe.components.items() if name.startswith("text_encoder")}
    return with_parts(pipe, **{name: Remembering(real) for name, real in encoders.items() if real is not None})


def _nothing() -> None:
    return None


def _key(value: Any) -> Hashable:
    """A value's content as something hashable."""
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
