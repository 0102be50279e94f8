"""A limit to how long code from outside may take: what hangs becomes an error like any other."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Far above what any honest step takes, text encoders of 11 GB on a CPU among them.
PATIENCE_SECONDS = 600.0


class TookTooLong(Exception):
    """Code ran longer than one waits for it."""


@contextmanager
def patience(what: str) -> Iterator[Callable[[], None]]:
    """Raises within the block when it takes longer than `PATIENCE_SECONDS`.

    Works where Python hears signals: in the main thread, not on Windows; elsewhere nothing changes. Code that never
    comes back to Python is not reached.

    Args:
        what: What it waits for, as words of the error.

    Yields:
        A function that starts the time anew.

    Raises:
        TookTooLong: From the line that runs when time is up.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def up(number: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"it took more than {PATIENCE_SECONDS:g} seconds {what}")

    def anew() -> None:
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)

    before = signal.signal(signal.SIGALRM, up)
    anew()
    try:
        yield anew
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
