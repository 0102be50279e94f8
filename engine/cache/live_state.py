"""What a running engine shows of itself, in the folder beside its cache: written by the engine, read by pages.

`CACHE.runs/live.json` appears whole or not at all. A page that looks touches `looked`, so that little is drawn for
nobody. `live.lock` is held as long as the engine lives, and the system gives it back when the process dies. The file
holds small pictures and figures of the moment, nothing that is kept.
"""

import base64
import binascii
import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.errors import LabError
from engine.paths import take_lock, write_atomically

MOST_BYTES = 8 * 2**20
MOST_TILES = 64
# How long a page's look counts: longer than its pause between two.
WATCHED_SECONDS = 5.0


@dataclass(frozen=True)
class CellPicture:
    """A small picture of a cell, on its way or finished.

    Attributes:
        lane: Key of its lane.
        label: Of its lane, for people.
        call: Denoiser calls behind it, of `calls`; equal: it is finished.
        image: x0 as a JPEG.
        noisy: x_t likewise; empty of finished cells, and where it was not drawn.
    """

    lane: str
    label: str
    prompt: str
    seed: int
    call: int
    calls: int
    image: bytes = field(repr=False)
    noisy: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class LiveState:
    """A run at one moment.

    Attributes:
        study: Its name.
        what: The pass that goes on: "images", "timing", ...; empty before the first.
        began: When the run began, as seconds since 1970.
        ends: When its budget is spent at the latest, likewise; None without one.
        lanes: Key -> label of the lanes of the study, in its order.
        waiting: Lanes that come only later.
        done, total, unit: Of the pass.
        calls_per_second: Denoiser calls; None outside the passes that make pictures.
        seconds_left: Of the pass, at its pace so far.
        sentence: What may be said so far.
        standings: Lane -> what it has shown so far, in a few words.
        tiles: The latest picture of each lane.
    """

    study: str
    what: str = ""
    began: float = 0.0
    ends: float | None = None
    lanes: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    done: int = 0
    total: int = 0
    unit: str = ""
    calls_per_second: float | None = None
    seconds_left: float | None = None
    sentence: str = ""
    standings: Mapping[str, str] = field(default_factory=dict)
    tiles: tuple[CellPicture, ...] = ()

    @property
    def is_timing(self) -> bool:
        """Whether times are taken, which nothing should disturb."""
        return self.what == "timing"


def runs_folder(cache: Path) -> Path:
    """The folder beside a cache that holds what is known of its runs."""
    absolute = Path(os.path.abspath(cache))
    return absolute.with_name(absolute.name + ".runs")


class LiveFile:
    """The right to show a run of a cache, for as long as it is held; the first engine of several has it.

    Attributes:
        held: Whether it is this one.
    """

    def __init__(self, cache: Path) -> None:
        """Touches nothing yet."""
        self._folder = runs_folder(cache)
        self._lock: Any = None
        self.held = False

    def __enter__(self) -> Self:
        """Takes the right, if nobody has it and the folder can be written."""
        with contextlib.suppress(OSError, ImportError):  # on systems without locks nothing is shown live
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (self._folder / "live.lock").open("ab")
            self.held = take_lock(self._lock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the file away, and gives the right back."""
        if self.held:
            with contextlib.suppress(OSError):
                (self._folder / "live.json").unlink(missing_ok=True)
        self.held = False
        if self._lock is not None:
            self._lock.close()

    def is_watched(self) -> bool:
        """Whether a page has looked in the last seconds; one that may not write in the folder is not heard of."""
        with contextlib.suppress(OSError):
            return time.time() - (self._folder / "looked").stat().st_mtime < WATCHED_SECONDS
        return False

    def write(self, state: LiveState) -> None:
        """Shows this state from now on."""
        if not self.held:
            return
        values = asdict(state)
        for tile in values["tiles"]:
            for picture in ("image", "noisy"):
                tile[picture] = base64.b64encode(tile[picture]).decode("ascii")
        with contextlib.suppress(OSError):  # a full disk is reported by the cache, not by the live view
            write_atomically(self._folder / "live.json", lambda file: file.write_text(json.dumps(values), "utf-8"))


def read_live(cache: Path) -> LiveState | None:
    """What an engine that is at work on a cache shows now; None if there is none, or what it wrote cannot be read."""
    folder = runs_folder(cache)
    try:
        import fcntl

        with (folder / "live.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # nobody holds it
    except BlockingIOError:
        pass
    except (OSError, ImportError):
        return None
    with contextlib.suppress(OSError):
        (folder / "looked").touch()
    try:
        file = folder / "live.json"
        if file.stat().st_size > MOST_BYTES:
            return None
        return _read(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, LabError):
        return None


def _read(values: dict[str, Any]) -> LiveState:
    tiles = tuple(_tile(tile) for tile in values.pop("tiles")[:MOST_TILES])
    return replace(LiveState(**values), tiles=tiles, waiting=tuple(values["waiting"]))


def _tile(values: dict[str, Any]) -> CellPicture:
    try:
        pictures = {name: base64.b64decode(values[name], validate=True) for name in ("image", "noisy")}
        return CellPicture(**{**values, **pictures})
    except binascii.Error as error:
        raise ValueError("no picture") from error
