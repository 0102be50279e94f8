"""The environment of a measurement: device, names, versions. Imports no torch."""

import ctypes
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import UUID

from engine import waiting
from engine.errors import LabError
from engine.study.study import canonical

Memory = Literal["standard", "low", "slicing"]
# Which forwards are compiled: none, those that make cells, or those that are timed as well.
Compiling = Literal["", "cells", "all"]

DEVICES = ("auto", "cuda", "mps", "cpu")
MEMORIES: tuple[Memory, ...] = get_args(Memory)
_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy")


@dataclass(frozen=True)
class Environment:
    """Device and software; times are comparable within one environment.

    Attributes:
        device: "cuda", "mps" or "cpu".
        device_name: The vendor's name of the GPU or CPU.
        memory: "standard", "low" or "slicing" (offload and attention slicing change times).
        torch: Version of torch.
        diffusers: Version of diffusers.
        details: Further versions, operating system, cores and threads.
    """

    device: str
    device_name: str
    memory: Memory
    torch: str
    diffusers: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def environment_id(self) -> str:
        """Digest of all fields."""
        return sha256(canonical(asdict(self)).encode()).hexdigest()[:16]


def describe(device: str, memory: Memory = "standard", *, compiled: bool = False) -> Environment:
    """The environment of this process for a resolved device ("cuda", "mps" or "cpu") and a way to run forwards."""
    versions = {name: _version(name) for name in _PACKAGES}
    details: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": cores(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "waiting": waiting.described(),
        **{name: version for name, version in versions.items() if name not in {"torch", "diffusers"}},
    }
    if device == "cuda":
        details |= _cuda_details()
    if compiled:
        details["compiled"] = "inductor, channels-last" if device == "cuda" else "inductor"
    name = _cuda()[0] if device == "cuda" else processor_name()
    return Environment(device, name, memory, versions["torch"], versions["diffusers"], details)


def resolve_device(asked: str) -> str:
    """The device a run will use: the requested one, or for "auto" the best available.

    Raises:
        LabError: The name is unknown, or the device is not available.
    """
    if asked not in DEVICES:
        raise LabError(f"Unknown device '{asked}'; choose one of {', '.join(DEVICES)}.")
    found = next(device for device in DEVICES[1:] if not why_unusable(device))
    if asked == "auto":
        return found
    if asked != "cpu" and asked != found:
        why = why_unusable(asked) or f"this machine has {found}"
        raise LabError(f"Device '{asked}' cannot be used here: {why}. Use --device {found}.")
    return asked


def why_unusable(device: str) -> str:
    """Why "cuda", "mps" or "cpu" cannot be used here, with the remedy; empty if it can."""
    if device == "cuda":
        return _cuda()[1]
    if device == "mps" and not (sys.platform == "darwin" and platform.machine() == "arm64"):
        return "it needs a Mac with Apple silicon"
    return ""


def processor_name() -> str:
    """The vendor's name of the processor."""
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cores() -> int:
    """Number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fast_bfloat16() -> str:
    """The unit of this processor that multiplies bfloat16 faster than float32; empty if none is known."""
    try:
        flags = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
        ).split()
    except (OSError, StopIteration):
        return ""
    units = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
    return next((name for flag, name in units.items() if flag in flags), "")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def _cuda() -> tuple[str, str]:
    """Name of the first GPU that the installed torch can use, or an empty string and the reason why there is none."""
    torch, visible = _version("torch"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if "+cpu" in torch:
        return "", f"this build of torch ({torch}) is CPU-only; install a CUDA build, see https://pytorch.org"
    if visible in {"", "-1"}:
        return "", f"CUDA_VISIBLE_DEVICES={visible!r} hides all GPUs; unset it"
    if "+rocm" in torch:
        return ("AMD GPU", "") if Path("/dev/kfd").exists() else ("", "there is no AMD GPU, or no driver (/dev/kfd)")
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "", "there is no NVIDIA driver; in a container, pass the GPU through (docker run --gpus all)"
    if error := driver.cuInit(0):
        return "", f"the NVIDIA driver does not start (cuInit error {error}); run `nvidia-smi` for details"
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, 256, device):
        return "", "there is an NVIDIA driver but no GPU"
    return name.value.decode(errors="replace"), ""


def _cuda_details() -> dict[str, str]:
    """Properties of a GPU that affect times besides its name: driver, libraries, maximum clock and power limit."""
    asked = {"driver": "driver_version", "clock": "clocks.max.sm", "power_limit": "power.limit"}
    which = ("-i", uuid) if (uuid := _cuda_uuid()) else ()  # it lists hidden cards, too
    told = _output("nvidia-smi", *which, f"--query-gpu={','.join(asked.values())}", "--format=csv,noheader").partition(
        "\n"
    )[0]
    details = dict(zip(asked, (value.strip() for value in told.split(",")), strict=False))
    names = {found.metadata["Name"] for found in importlib.metadata.distributions() if found.metadata["Name"]}
    libraries = sorted(name for name in names if name.startswith(("nvidia-cudnn-", "nvidia-cublas")))
    return details | {name: _version(name) for name in libraries} | {"tf32": "convolutions of timed float32 calls only"}


def _cuda_uuid() -> str:
    """Of the first GPU that is not hidden, as `nvidia-smi` names it; empty if it is not told."""
    device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetUuid(raw, device):
            return ""
    except (OSError, AttributeError):
        return ""
    return f"GPU-{UUID(bytes=bytes(raw))}"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
