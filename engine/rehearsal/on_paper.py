"""A model on the meta device: parameters, floating-point operations and memory, on any machine and without weights."""

import importlib
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from engine.rehearsal.configurations import Part, Rehearsed
from engine.rehearsal.known_work import OnPaper, Work
from engine.sampling.models import quiet


class _Alive(TorchDispatchMode):
    """Adds up the bytes of tensors that are alive, a module's weights left out, and keeps the most."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        weights = (*module.parameters(), *module.buffers())
        self._known: set[int] = {weight.untyped_storage()._cdata for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(answer):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return answer

    def _note(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def rehearse_on_paper(model: Rehearsed, dtype: torch.dtype) -> OnPaper:
    """Builds every part without memory for its weights, and counts one call of the denoiser and one of the decoder.

    It takes seconds; `known_work.known_work` has the answers for the models of the table.
    """
    denoiser, autoencoder = (built(part, "meta", dtype) for part in (model.denoiser, model.autoencoder))
    encoders = sum(parameters_of(built(part, "meta", dtype)) for part in model.encoders)
    inputs = model.inputs(model.rows, lambda *shape: torch.empty(shape, dtype=dtype, device="meta"))
    latents = torch.empty((1, *model.latents), dtype=dtype, device="meta")
    return OnPaper(
        parameters_of(denoiser),
        parameters_of(autoencoder),
        encoders,
        counted(denoiser, lambda: denoiser(**inputs, return_dict=False)),
        counted(autoencoder, lambda: autoencoder.decode(latents, return_dict=False)),
    )


def built(part: Part, device: str, dtype: torch.dtype) -> Any:
    """A part with random weights, or with none on "meta"."""
    module, _, name = part.target.partition(":")
    kind = getattr(importlib.import_module(module), name)
    config = kind.config_class(**part.config) if module == "transformers" else None
    before = torch.get_default_dtype()
    quiet()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            made = kind(config) if config is not None else kind(**part.config)
    finally:
        torch.set_default_dtype(before)
    # As a module of torch: diffusers would say that some parts are better left in float32, which no figure here needs.
    return torch.nn.Module.to(made, device=device, dtype=dtype).eval().requires_grad_(False)


def parameters_of(module: torch.nn.Module) -> int:
    """How many numbers its weights are."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def counted(module: torch.nn.Module, call: Callable[[], Any]) -> Work:
    """Runs a call of a module on meta tensors and counts its work; attention is taken as fused, as devices do it."""
    fused = [0.0]

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        pairs = query.shape[:-1].numel() * key.shape[-2]
        fused[0] += 2.0 * pairs * (query.shape[-1] + value.shape[-1])
        return query.new_empty((*query.shape[:-1], value.shape[-1]))

    counter, alive = FlopCounterMode(display=False), _Alive(module)
    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attention), counter, alive:
        call()
    return Work(counter.get_total_flops() + fused[0], alive.most)
