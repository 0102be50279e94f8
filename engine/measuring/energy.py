"""Joules that a device took: NVML's counter of an NVIDIA GPU, or RAPL's of the processors and their memory on Linux.

Both count the whole device, whoever uses it, idle power included: what a lane takes can be told on a machine that does
nothing else. The rest of the machine (fans, disks, power supply) is not counted, nor is the processor beside a GPU.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

RAPL_ROOT = Path("/sys/class/powercap")
# Zones that are counted: whole processors and their memory. "core" and "uncore" are parts of a processor, and "psys" is
# the whole board.
_COUNTED = ("package", "dram")


@dataclass(frozen=True)
class EnergyCounter:
    """Something that counts joules.

    Attributes:
        source: What it is, e.g. "NVML"; or "not measured here: REASON".
        zones: Reads of single counters, in joules, and where each begins anew (infinity: never).
    """

    source: str
    zones: Sequence[tuple[Callable[[], float], float]] = ()

    def start(self) -> "Spent":
        """Begins to count."""
        return Spent(self.zones, [read() for read, _ in self.zones])


@dataclass(frozen=True)
class Spent:
    """Joules since a moment."""

    _zones: Sequence[tuple[Callable[[], float], float]]
    _before: Sequence[float]

    def joules(self) -> float | None:
        """Joules so far; None if nothing counts them. Each counter may have begun anew once."""
        if not self._zones:
            return None
        passed = [(read() - before, span) for (read, span), before in zip(self._zones, self._before, strict=True)]
        return sum(joules if joules >= 0 else joules + span for joules, span in passed)


@functools.cache
def energy_counter(device: str, root: Path = RAPL_ROOT) -> EnergyCounter:
    """The counter of a device ("cuda", "mps" or "cpu"); one that says why not where there is none.

    Args:
        device: What is measured.
        root: Where Linux lists power zones.
    """
    try:
        if device == "cuda":
            return _nvml()
        if device == "cpu":
            return _rapl(root)
    except Exception as error:  # whatever keeps energy from being counted must not keep times from being taken
        return _none(f"{type(error).__name__}: {error}"[:200])
    return _none("no counter of this device is known")


def _none(reason: str) -> EnergyCounter:
    return EnergyCounter(f"not measured here: {reason}")


def _rapl(root: Path) -> EnergyCounter:
    """RAPL's zones. The counters are in microjoules and begin anew at `max_energy_range_uj`."""
    zones, names = [], []
    for folder in sorted(root.glob("intel-rapl:*")):  # AMD's processors are listed under this name, too
        name = (folder / "name").read_text().strip()
        if not name.startswith(_COUNTED):
            continue
        counter = folder / "energy_uj"
        try:
            counter.read_text()
        except PermissionError:
            return _none(f"only root may read {counter}; `sudo chmod a+r {root}/intel-rapl:*/energy_uj` permits it")
        span = float((folder / "max_energy_range_uj").read_text()) / 1e6
        zones.append((lambda counter=counter: float(counter.read_text()) / 1e6, span))
        names.append(name)
    if not zones:
        return _none(f"this system lists no RAPL counters in {root}")
    return EnergyCounter(f"RAPL: {', '.join(names)}", zones)


def _nvml() -> EnergyCounter:
    """The counter of the GPU that torch uses, in millijoules since the driver was loaded."""
    import torch

    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return _none("nvidia-ml-py is not installed; `pip install 'scheduler-lab[energy]'` adds it")
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    read = nvml.nvmlDeviceGetTotalEnergyConsumption
    read(handle)  # cards before Volta have no counter
    return EnergyCounter("NVML: GPU", [(lambda: read(handle) / 1e3, float("inf"))])
