"""Progress of a run, as a bar, as JSON lines, or not at all; and interruption by signals."""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal, NoReturn, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from engine.cache.live_state import CellPicture
from engine.display.formats import far
from engine.plain_text import plain

REFRESH_SECONDS, LINE_SECONDS, CALLS_SECONDS = 0.2, 10.0, 0.2

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

    Attributes:
        wants_pictures: Whether previews of running cells are shown anywhere.
    """

    wants_pictures = False

    def begin(self, facts: dict[str, Any]) -> None:
        """Reports where the run takes place and how much there is to do."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Reports the start of a pass of `total` units; 0: nobody knows how many."""

    def advance(self, units: int, detail: str = "") -> None:
        """Reports that units are done."""
        _raise_if_interrupted()

    def calls(self, done: int, expected: int) -> None:
        """Reports denoiser calls of the pass; a unit may take many of them."""
        _raise_if_interrupted()

    def picture(self, picture: CellPicture) -> None:
        """What a cell looks like now; told only if `wants_pictures`."""

    def is_watched(self) -> bool:
        """Whether somebody looks at the pictures now; otherwise they may come seldom."""
        return False

    def standing(self, sentence: str, lanes: Mapping[str, str], waiting: tuple[str, ...]) -> None:
        """What may be said so far: in a sentence, of lanes in a few words, and which lanes come only later."""

    def note(self, text: str) -> None:
        """Reports a warning, a failure or the next step, in one line."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Reports the end of the run."""


class BarProgress(Progress):
    """A line per pass on standard error, with rate and remaining time; without a terminal, one every 10 seconds."""

    def __init__(self) -> None:
        stream = getattr(sys.stderr, "below", sys.stderr)  # texts are made plain here, and the rest is rich's own
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._bar: RichProgress | None = None
        self._told = time.monotonic()
        self._what, self._unit, self._done, self._total, self._began = "", "", 0, 0, 0.0
        self._calls: tuple[int, int] = (0, 0)

    def start(self, what: str, total: int, unit: str) -> None:
        """Begins a new line."""
        self._close()
        self._what, self._unit, self._done, self._total, self._calls = what, unit, 0, total, (0, 0)
        self._began = self._told = time.monotonic()
        if self._console.is_terminal:
            columns = TextColumn("{task.description:<10}"), BarColumn(30), TextColumn("{task.fields[far]}")
            # No thread of its own: it would draw while times are taken.
            self._bar = RichProgress(*columns, console=self._console, auto_refresh=False)
            self._bar.add_task(plain(what), total=1.0, far=self._far())
            self._bar.start()
        self._tell(now=True)

    def advance(self, units: int, detail: str = "") -> None:
        """Moves the bar."""
        self._done += units
        self._tell()
        super().advance(units, detail)

    def calls(self, done: int, expected: int) -> None:
        """Moves the bar too, which otherwise stands still until the first unit is done."""
        self._calls = done, expected
        self._tell()
        super().calls(done, expected)

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(Text(plain(text)))

    def finish(self, summary: dict[str, Any]) -> None:
        """Ends the line."""
        self._close()

    def _tell(self, *, now: bool = False) -> None:
        pause = REFRESH_SECONDS if self._bar is not None else LINE_SECONDS
        if not self._what or not (now or time.monotonic() - self._told > pause):
            return
        self._told = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._share(), far=self._far(), refresh=True)
        else:
            self._console.print(Text(plain(f"{self._what}: {self._far()}")))

    def _share(self) -> float:
        done, expected = self._calls if self._calls[1] else (self._done, self._total)
        return min(1.0, done / expected) if expected else 0.0

    def _far(self) -> str:
        """E.g. "12 of 240 cells, 165 calls a second, 0:40 left"."""
        seconds, share = time.monotonic() - self._began, self._share()
        parts = [far(self._done, self._total, self._unit)]
        if self._calls[0] and seconds > 0:
            parts.append(f"{self._calls[0] / seconds:.3g} calls a second")
        if 0 < share < 1:
            left = round(seconds * (1 - share) / share)
            parts.append(f"{left // 60}:{left % 60:02d} left")
        return ", ".join(parts)

    def _close(self) -> None:
        if not self._what:
            return
        self._tell(now=True)
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._what = None, ""


class JsonProgress(Progress):
    """JSON lines on standard output, with the events begin, start, calls, progress, note and finished."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._what, self._total, self._done, self._began = "", 0, 0, time.monotonic()
        self._told = -math.inf

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
        left = (self._total - self._done) / rate if rate and self._total else None
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

    def calls(self, done: int, expected: int) -> None:
        """Writes a calls event, but not after every forward."""
        if time.monotonic() - self._told >= CALLS_SECONDS:
            self._told = time.monotonic()
            self._write("calls", done=done, expected=expected)
        super().calls(done, expected)

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
