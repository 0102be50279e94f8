"""Builds a pipeline from its configurations alone: its parts have shapes but no weights, and return zeros."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.pipelines.pipeline_loading_utils import simple_get_class_obj
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from engine.errors import ModelError
from engine.sampling.equipping import equip
from engine.sampling.standins import StandIn, denoisers, with_parts
from engine.study.model_files import is_part, parts_of, read_json, skipped_parts
from engine.study.source import ModelSource

META = torch.device("meta")


class Hollow(StandIn):
    """Stands in for a part that has shapes but no weights; its methods return zeros."""

    device = torch.device("cpu")

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["real"], name)
        if isinstance(found, nn.Module):
            return Hollow(found)
        return _answering_zeros(found) if inspect.ismethod(found) else _zeros(found)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros in the shapes of the part's output."""
        return _answering_zeros(self.real.__call__)(*args, **kwargs)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """One zero per parameter, since callers only need the number format."""
        return (nn.Parameter(torch.zeros(1, dtype=each.dtype), False) for each in self.real.parameters(recurse))

    def to(self, *args: Any, **kwargs: Any) -> "Hollow":
        """Itself; there is nothing to move."""
        return self


def hollow_pipeline(source: ModelSource) -> DiffusionPipeline:
    """The pipeline of a model folder without its weights, in float32.

    Raises:
        ModelError: diffusers has no such pipeline.
        Exception: Anything else that the libraries raise on the configurations.
    """
    assert source.folder is not None  # holds for every source that has files
    index = read_json(source.folder / "model_index.json", source.name) or {}
    kind: Any = getattr(diffusers, str(index["_class_name"]), None)
    if kind is None:
        raise ModelError(
            f"Model '{source.name}' is a {index['_class_name']}, which diffusers {diffusers.__version__} doesn't have; "
            "install a release that has it."
        )
    known = inspect.signature(kind.__init__).parameters.keys()
    parts: dict[str, Any] = {name: index[name] for name in index.keys() & known if not is_part(index[name])}
    parts |= {name: _part(source.folder / name, *index[name]) for name in parts_of(index)}
    parts |= dict.fromkeys(known & set(skipped_parts(index)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipe: DiffusionPipeline = kind(**parts)
    if source.parts:
        pipe = equip(pipe, replace(source.parts, lora=()), torch.float32, _without_weights)
    pipe.set_progress_bar_config(disable=True)
    return _hollowed(pipe)


def _hollowed(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """A copy of a pipeline whose parts return zeros, except its denoisers, which callers replace."""
    watched = denoisers(pipe)
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return with_parts(pipe, **{name: Hollow(part) for name, part in parts.items() if name not in watched})


def _part(folder: Path, library: str, name: str) -> Any:
    kind: Any = simple_get_class_obj(library, name)
    if isinstance(kind, type) and issubclass(kind, nn.Module):
        return _without_weights(kind, folder, torch.float32)
    return kind.from_pretrained(folder, local_files_only=True)


def _without_weights(kind: type[Any], folder: Path, dtype: torch.dtype) -> nn.Module:
    with META:
        if issubclass(kind, ModelMixin):
            made: nn.Module = kind.from_config(kind.load_config(folder))
        else:
            made = kind._from_config(kind.config_class.from_pretrained(folder, local_files_only=True))
    return made.to(dtype).eval()


class ContentsAsked(RuntimeError):
    """The call depends on the weights of a part, so its outcome is unknown."""


def _fails_with_zeros(func: Any, given: tuple[Any, Any]) -> bool:
    """Whether a call that failed on meta tensors also fails on zeros, as calls with wrong shapes do."""
    args, kwargs = tree_map(_zero, given)
    try:
        func(*args, **kwargs)
    except Exception:
        return True
    return False


class _Spreading(TorchFunctionMode):
    """Runs operations on the meta device if one of their tensors is there; all others are computed."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a torch function, on the meta device if one of its tensors is there."""
        given = (args, kwargs or {})
        if not any(isinstance(leaf, torch.Tensor) and leaf.device == META for leaf in tree_leaves(given)):
            return func(*given[0], **given[1])
        # Tensors cannot leave the meta device, so these operations get zeros instead.
        given = tree_map(_zero if func in _LEAVING else _emptied, given)
        try:
            return func(*given[0], **given[1])
        except Exception as error:
            if _fails_with_zeros(func, given):
                raise
            raise ContentsAsked(f"{getattr(func, '__name__', func)} asks for contents: {error}") from error


_LEAVING = (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__)


def _answering_zeros(method: Callable[..., Any]) -> Callable[..., Any]:
    def answer(*args: Any, **kwargs: Any) -> Any:
        with _Spreading():
            return _zeros(method(*args, **kwargs))

    return answer


def _emptied(leaf: Any) -> Any:
    return leaf.to(META) if isinstance(leaf, torch.Tensor) else leaf


def _zeros(value: Any) -> Any:
    """A nested value with zeros in place of meta tensors."""
    if isinstance(value, Mapping):
        return type(value)(**{key: _zeros(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(map(_zeros, value))
    spread = getattr(value, "parameters", None)
    if isinstance(spread, torch.Tensor):  # a distribution of latents
        return type(value)(_zero(spread))
    return _zero(value)


def _zero(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor) and leaf.device == META:
        return torch.zeros(leaf.shape, dtype=leaf.dtype)
    return leaf
