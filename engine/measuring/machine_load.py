"""How busy other processes kept the machine while something was timed."""

import time

import psutil

_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class OtherLoad:
    """Watches from its making on."""

    def __init__(self) -> None:
        self._start = _seconds()

    def cores(self) -> float | None:
        """Processor cores that others kept busy on average so far; None where the system does not tell."""
        if self._start is None or (now := _seconds()) is None:
            return None
        passed, busy, own = (after - before for after, before in zip(now, self._start, strict=True))
        return max(0.0, busy - own) / passed if passed > 0 else None


def _seconds() -> tuple[float, float, float] | None:
    """Of the clock, of all busy cores together, and of this process."""
    try:
        every, own = psutil.cpu_times(), psutil.Process().cpu_times()
    except (psutil.Error, OSError):
        return None
    busy = sum(getattr(every, name, 0.0) for name in _BUSY)
    return time.monotonic(), busy, own.user + own.system
