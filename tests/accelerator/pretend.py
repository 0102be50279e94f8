"""A pretend accelerator: tensors that say they are on cuda or mps and compute on the CPU.

It refuses what a real device refuses (operands on two devices, float64 on mps) and counts each time the host would wait
for the device, with the line that made it wait. Speed and memory are not pretended.
"""

import collections
import contextlib
import ctypes
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
HERE = Path(__file__).parent
GIB = 2**30
# Ops whose answer the host has to read before it can go on: its size, or its value, is not known without the device.
WAITS = {
    aten._local_scalar_dense: "item",
    aten.equal: "equal",
    aten.is_nonzero: "is_nonzero",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
}
PLAIN_ANSWERS = frozenset({aten._local_scalar_dense, aten.equal, aten.is_nonzero})
INDEXING = frozenset({aten.index, aten.index_put, aten.index_put_})


@dataclass
class Accelerator:
    """What is counted.

    Attributes:
        kind: "cuda" or "mps".
        free: Bytes that `mem_get_info` tells are free.
        total: Bytes of the card.
        waits: (what, where) of every time the host waited.
        order: What a test notes, in order; "wait" among it.
    """

    kind: str
    free: int
    total: int
    waits: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    order: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return torch.device(self.kind, 0)

    def wait(self, what: str) -> None:
        self.waits[what, _site()] += 1
        self.order.append("wait")

    def own_waits(self) -> int:
        """Waits that lines of the engine made."""
        return sum(count for (_, site), count in self.waits.items() if site.startswith("engine/"))

    def holds(self, device: Any) -> bool:
        return device is not None and torch.device(device).type == self.kind

    def moved(self, tensor: torch.Tensor) -> "PretendTensor":
        return PretendTensor(tensor.detach(), self)


class PretendTensor(torch.Tensor):
    """A tensor that says it is on an accelerator."""

    @staticmethod
    def __new__(cls, held: torch.Tensor, accelerator: Accelerator) -> "PretendTensor":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=accelerator.device,
        )

    def __init__(self, held: torch.Tensor, accelerator: Accelerator) -> None:
        self.held, self.accelerator = held, accelerator

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        accelerator = next(leaf.accelerator for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, PretendTensor))
        return _dispatched(accelerator, func, args, kwargs or {})

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"PretendTensor({self.held!r})"

    def __deepcopy__(self, memo: Any) -> "PretendTensor":
        return PretendTensor(self.held.clone(), self.accelerator)


class _Everything(TorchDispatchMode):
    """Catches what makes tensors on the accelerator of none."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__()
        self.accelerator = accelerator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatched(self.accelerator, func, args, kwargs or {})


def _dispatched(accelerator: Accelerator, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    ours = any(isinstance(leaf, PretendTensor) for leaf in leaves)
    asked = kwargs.get("device")
    if not ours and not accelerator.holds(asked):
        return func(*args, **kwargs)
    packet = func._overloadpacket
    here = kwargs | ({"device": torch.device("cpu")} if accelerator.holds(asked) else {})
    plain_args, plain = tree_map(_held, args), tree_map(_held, here)
    if packet is aten._to_copy:
        return _copied(accelerator, func, args[0], asked, plain_args, plain)
    if packet is aten.copy_:
        if isinstance(args[0], PretendTensor) != isinstance(args[1], PretendTensor):
            accelerator.wait("copy_")
        func(*plain_args, **plain)
        return args[0]
    if packet is aten._fused_sdp_choice:
        return 0
    _check_devices(accelerator, func, args, leaves)
    if packet in WAITS:
        accelerator.wait(WAITS[packet])
    out = func(*plain_args, **plain)
    if packet in PLAIN_ANSWERS:
        return out
    _check_formats(accelerator, func, out)
    written = _written(func, args, kwargs)
    return written if written is not None else tree_map(lambda leaf: _wrapped(accelerator, leaf), out)


def _copied(accelerator: Accelerator, func: Any, source: Any, asked: Any, args: Any, kwargs: Any) -> Any:
    """`Tensor.to`: a copy between host and device makes the host wait, as pageable memory does."""
    ours = isinstance(source, PretendTensor)
    to_host = asked is not None and torch.device(asked).type == "cpu"
    if ours and to_host:
        accelerator.wait("to host")
        return func(*args, **kwargs)
    if not ours and not kwargs.get("non_blocking"):
        accelerator.wait("to device")
    out = func(*args, **kwargs)
    _check_formats(accelerator, func, out)
    return accelerator.moved(out)


def _check_devices(accelerator: Accelerator, func: Any, args: Any, leaves: list[Any]) -> None:
    strangers = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, PretendTensor)]
    if func._overloadpacket in INDEXING:
        if not isinstance(args[0], PretendTensor):
            raise RuntimeError(f"indices should be on the CPU, as the indexed tensor is, at {_site()}")
        indices = [index for index in args[1] if isinstance(index, torch.Tensor)]
        if any(index.dtype == torch.bool or not isinstance(index, PretendTensor) for index in indices):
            accelerator.wait("index")
    elif any(leaf.ndim for leaf in strangers):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found "
            f"{accelerator.device} and cpu in {func} at {_site()}"
        )


def _check_formats(accelerator: Accelerator, func: Any, out: Any) -> None:
    tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
    if accelerator.kind == "mps" and any(tensor.dtype == torch.float64 for tensor in tensors):
        raise TypeError(f"the MPS framework doesn't support float64: {func} at {_site()}")


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The argument that an in-place operation answers, or None."""
    if not any(each.alias_info is not None and each.alias_info.is_write for each in func._schema.returns):
        return None
    for place, spec in enumerate(func._schema.arguments):
        if spec.alias_info is not None and spec.alias_info.is_write:
            return args[place] if place < len(args) else kwargs[spec.name]
    return None


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, PretendTensor) else leaf


def _wrapped(accelerator: Accelerator, leaf: Any) -> Any:
    return accelerator.moved(leaf) if isinstance(leaf, torch.Tensor) and not isinstance(leaf, PretendTensor) else leaf


def _site() -> str:
    """File and line that called torch."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and "/torch/" not in file:
            parts = Path(file).parts
            root = next((place for place, part in enumerate(parts) if part in {"engine", "diffusers", "tests"}), -1)
            return f"{'/'.join(parts[root:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class _Event:
    """A CUDA event; time passes on the host."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, later: "_Event") -> float:
        return 1000 * (later.at - self.at)


def build_guard(folder: Path, compiler: str) -> None:
    """Builds the device guards and loads them into this process, where they stay.

    Args:
        folder: For the library.
        compiler: A C++ compiler such as g++.
    """
    root, library = Path(torch.__file__).parent, folder / "guard.so"
    include, libraries = f"-I{root / 'include'}", f"-L{root / 'lib'}"
    source = str(HERE / "guard.cpp")
    command = [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", include, libraries, source, "-lc10", "-o", library]
    subprocess.run(command, check=True, capture_output=True)
    ctypes.CDLL(str(library))


@contextlib.contextmanager
def accelerator(kind: str = "cuda", free: int = 20 * GIB, total: int = 24 * GIB) -> Iterator[Accelerator]:
    """The machine has one accelerator while inside."""
    pretended = Accelerator(kind, free, total)
    with contextlib.ExitStack() as stack:
        for target, name, value in (*_backend(pretended), *_libraries(pretended)):
            stack.enter_context(mock.patch.object(target, name, value))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        stack.enter_context(_Everything(pretended))
        yield pretended


def _backend(pretended: Accelerator) -> list[tuple[Any, str, Any]]:
    """What of torch asks a driver."""
    properties = types.SimpleNamespace(total_memory=pretended.total, name="Pretend GPU", major=8, minor=6)

    def synchronize(*_: Any) -> None:
        pretended.wait("synchronize")

    nothing = lambda *_, **__: None  # noqa: E731
    on = pretended.kind == "cuda"
    return [
        (torch.cuda, "is_available", lambda: on),
        (torch.cuda, "is_initialized", lambda: on),
        (torch.cuda, "device_count", lambda: int(on)),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "get_device_properties", lambda *_: properties),
        (torch.cuda, "mem_get_info", lambda *_: (pretended.free, pretended.total)),
        (torch.cuda, "max_memory_allocated", lambda *_: 0),
        (torch.cuda, "reset_peak_memory_stats", nothing),
        (torch.cuda, "empty_cache", nothing),
        (torch.cuda, "_lazy_init", nothing),
        (torch.cuda, "synchronize", synchronize),
        (torch.cuda, "Event", _Event),
        (torch.backends.mps, "is_available", lambda: not on),
        (torch.mps, "synchronize", synchronize),
        (torch.mps, "empty_cache", nothing),
        (torch.nn.functional, "scaled_dot_product_attention", _attention(pretended)),
    ]


def _libraries(pretended: Accelerator) -> list[tuple[Any, str, Any]]:
    """What of other libraries asks a driver."""
    import accelerate.hooks
    import diffusers.utils.torch_utils
    from torchsde._brownian import brownian_interval

    def drawn(size: Any, dtype: Any, device: Any, seed: Any) -> torch.Tensor:
        generator = torch.Generator("cpu").manual_seed(int(seed))
        return torch.randn(size, dtype=dtype, generator=generator).to(device)

    return [
        (
            diffusers.utils.torch_utils.TorchDeviceBackend,
            "_detect_device_type",
            staticmethod(lambda: pretended.kind),
        ),
        (accelerate.hooks, "clear_device_cache", lambda *_, **__: None),
        (brownian_interval, "_randn", drawn),
    ]


def _attention(pretended: Accelerator) -> Any:
    real = torch.nn.functional.scaled_dot_product_attention

    def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(query, PretendTensor):
            return real(query, key, value, *args, **kwargs)
        plain_args, plain = tree_map(_held, args), tree_map(_held, kwargs)
        return pretended.moved(real(query.held, _held(key), _held(value), *plain_args, **plain))

    return attention
