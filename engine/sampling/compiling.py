"""Compiled denoisers: `torch.compile` for a few sizes of batches, and weights channels-last on CUDA.

A compiled forward rounds differently, as another batch size does. It belongs to the environment of what it made.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from engine.errors import LabError
from engine.sampling.models import Model
from engine.sampling.standins import denoisers

# Every further size is compiled anew, which takes minutes; a forward is filled up to the next of these.
BUCKETS = (1, 2, 4, 8, 16)
BACKEND = "inductor"


def check_compiling(device: str, memory: str) -> None:
    """Checks that denoisers can be compiled here.

    Raises:
        LabError: They cannot; says why, and what to do.
    """
    without = "or run without --compile"
    if memory != "standard":
        raise LabError(f"--compile does not go with --memory {memory}, whose parts change places; leave one out.")
    if device == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise LabError(f"--compile needs Triton for this GPU, which torch does not find; install it, {without}.")
    elif device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise LabError(f"--compile needs a C++ compiler, and there is none; install g++, {without}.") from None
    else:
        raise LabError(f"--compile is for cuda and cpu, and this is {device}; run without it.")


def is_compiled(denoiser: nn.Module) -> bool:
    """Whether a denoiser's forwards are compiled."""
    return getattr(denoiser, "_compiled_call_impl", None) is not None


def bucket(cells: int, most: int) -> int:
    """Size of a compiled forward for so many cells; less than there are if `most` allows no larger one."""
    allowed = [size for size in BUCKETS if size <= most]
    return next((size for size in allowed if size >= cells), allowed[-1])


def compile_denoisers(model: Model) -> None:
    """Compiles the denoisers of a model; each size is compiled when it first comes up."""
    # Beyond this limit torch runs what is not compiled, and says so in a warning only.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for part in denoisers(model.pipe).values():
        if model.device == "cuda":
            _lay_out(part, torch.channels_last)
        part.compile(backend=BACKEND, dynamic=False)


def restore(model: Model) -> None:
    """Leaves the denoisers of a model as they were loaded."""
    for part in denoisers(model.pipe).values():
        if is_compiled(part):
            part._compiled_call_impl = None
            _lay_out(part, torch.contiguous_format)


@contextlib.contextmanager
def uncompiled(model: Model) -> Iterator[None]:
    """The denoisers of a model as they were loaded, in the context."""
    compiled = {part: part._compiled_call_impl for part in denoisers(model.pipe).values() if is_compiled(part)}
    restore(model)
    try:
        yield
    finally:
        for part, call in compiled.items():
            part._compiled_call_impl = call
            if model.device == "cuda":
                _lay_out(part, torch.channels_last)


def _lay_out(part: nn.Module, layout: torch.memory_format) -> None:
    """Lays out the weights of two-dimensional convolutions."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
