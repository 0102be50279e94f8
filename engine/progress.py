"""Progress of a run, as a bar, as JSON lines, or not at all; and interruption by signals."""

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal, NoReturn, TextIO

from tqdm import tqdm

REFRESH_SECONDS = 0.2

ProgressKind = Literal["bar", "json", "none"]

_interrupted = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGINT and SIGTERM raise KeyboardInterrupt, now and again at every later report of progress.

    Python discards exceptions raised in finalizers, so a single KeyboardInterrupt may get lost. Has no effect outside
    the main thread, which is the only one to receive signals.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        _interrupted.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _interrupted.clear()


def _raise_if_interrupted() -> None:
    if _interrupted.is_set():
        raise KeyboardInterrupt


class Progress:
    """Silent progress, and the base class of the others.

    A run calls `begin` once it knows its work, `start` for each pass, `advance` as units are done, and `note` for
    messages. `advance` and `calls` raise KeyboardInterrupt if the run has been interrupted.
    """

    def begin(self, facts: dict[str, Any]) -> None:
        """Reports where the run takes place and how much there is to do."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Reports the start of a pass of `total` units."""

    def advance(self, units: int, detail: str = "") -> None:
        """Reports that units are done."""
        _raise_if_interrupted()

    def calls(self, done: int, expected: int) -> None:
        """Reports denoiser calls of the pass; a unit may take many of them."""
        _raise_if_interrupted()

    def note(self, text: str) -> None:
        """Reports a warning, a failure or the next step, in one line."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Reports the end of the run."""


class BarProgress(Progress):
    """A tqdm bar on standard error, with rate and remaining time."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._shown = 0.0

    def start(self, what: str, total: int, unit: str) -> None:
        """Opens a new bar."""
        self._close()
        self._bar = tqdm(total=total, desc=what, unit=f" {unit}", dynamic_ncols=True, smoothing=0.1, mininterval=0.2)

    def advance(self, units: int, detail: str = "") -> None:
        """Moves the bar."""
        if self._bar is not None:
            if detail:
                self._bar.set_postfix_str(detail, refresh=False)
            self._bar.update(units)
        super().advance(units, detail)

    def calls(self, done: int, expected: int) -> None:
        """Shows the calls after the bar, which would otherwise not move until the first unit is done."""
        if self._bar is not None and time.monotonic() - self._shown > REFRESH_SECONDS:
            self._shown = time.monotonic()
            self._bar.set_postfix_str(f"{done:,} of {expected:,} denoiser calls")
        super().calls(done, expected)

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(text, file=sys.stderr)

    def finish(self, summary: dict[str, Any]) -> None:
        """Closes the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class JsonProgress(Progress):
    """JSON lines on standard output, with the events begin, start, progress, note and finished."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._what, self._total, self._done, self._began = "", 0, 0, time.monotonic()

    def begin(self, facts: dict[str, Any]) -> None:
        """Writes the begin event."""
        self._write("begin", **facts)

    def start(self, what: str, total: int, unit: str) -> None:
        """Writes a start event."""
        self._what, self._total, self._done, self._began = what, total, 0, time.monotonic()
        self._write("start", what=what, total=total, unit=unit)

    def advance(self, units: int, detail: str = "") -> None:
        """Writes a progress event with rate and remaining time."""
        self._done += units
        elapsed = time.monotonic() - self._began
        rate = self._done / elapsed if elapsed > 0 and self._done else None
        left = (self._total - self._done) / rate if rate else None
        self._write(
            "progress",
            what=self._what,
            done=self._done,
            total=self._total,
            detail=detail,
            units_per_second=rate,
            seconds_left=left,
        )
        super().advance(units, detail)

    def note(self, text: str) -> None:
        """Writes a note event."""
        self._write("note", text=text)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the finished event."""
        self._write("finished", **summary)

    def _write(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}), file=self._stream, flush=True)


def make_progress(kind: ProgressKind) -> Progress:
    """Creates the progress reporter of a kind."""
    return {"bar": BarProgress, "json": JsonProgress, "none": Progress}[kind]()
