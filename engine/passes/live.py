"""The live view of a run: progress is passed on, and written to the file that pages read."""

import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.analysis.decision import Decision, LaneDecision
from engine.analysis.guards import OTHER
from engine.cache.live_state import CellPicture, LiveFile, LiveState
from engine.progress import Progress
from engine.study.study import Study

SECONDS_APART = 1.5
# While no page looks. Not never: a page that may not write beside the cache looks unheard.
UNWATCHED_SECONDS = 15.0
# Of each lane, so that lanes that are ahead can be shown beside those that are behind.
KEPT_TILES = 16
_STATUS = {"accepted": "as good", "open": "open", "refused": ""}


@contextlib.contextmanager
def shown_live(study: Study, cache: Path, progress: Progress, seconds: float = math.inf) -> Iterator[Progress]:
    """A progress that passes everything on to the given one, and shows the run to pages of the same cache.

    Args:
        study: What is run.
        cache: The file it is run for.
        progress: Receives everything.
        seconds: The most that the run may take.
    """
    with LiveFile(cache) as file:
        began = time.time()
        lanes = {lane.key: lane.label for lane in study.lanes}
        ends = began + seconds if math.isfinite(seconds) else None
        state = LiveState(study.name, began=began, ends=ends, lanes=lanes)
        yield LiveProgress(progress, file, state) if file.held else progress


class LiveProgress(Progress):
    """Passes everything on to another progress, and writes the state of the run at most every 1.5 s, and seldom while
    nobody looks.

    Args:
        told: Receives everything.
        file: Where the state goes.
        state: At the beginning.
    """

    wants_pictures = True

    def __init__(self, told: Progress, file: LiveFile, state: LiveState) -> None:
        self._told, self._file, self._state = told, file, state
        self._tiles: dict[str, OrderedDict[tuple[str, int], CellPicture]] = {}
        self._front = ("", 0)
        self._written, self._pass_began = 0.0, 0.0
        self._write(now=True)

    def begin(self, facts: dict[str, Any]) -> None:
        """Passes it on."""
        self._told.begin(facts)

    def start(self, what: str, total: int, unit: str) -> None:
        """Shows the new pass at once: pages are to keep still before a time is taken."""
        self._told.start(what, total, unit)
        self._pass_began = time.monotonic()
        self._state = replace(
            self._state, what=what, done=0, total=total, unit=unit, calls_per_second=None, seconds_left=None
        )
        self._write(now=True)

    def advance(self, units: int, detail: str = "") -> None:
        """Counts, and passes it on."""
        done, seconds = self._state.done + units, time.monotonic() - self._pass_began
        self._state = replace(self._state, done=done)
        if self._state.calls_per_second is None and done and self._state.total:
            self._state = replace(self._state, seconds_left=(self._state.total - done) * seconds / done)
        self._write()
        self._told.advance(units, detail)

    def calls(self, done: int, expected: int) -> None:
        """Notes the pace, and passes it on."""
        seconds = time.monotonic() - self._pass_began
        pace = done / seconds if seconds > 0 else None
        left = max(expected - done, 0) / pace if pace else None
        self._state = replace(self._state, calls_per_second=pace, seconds_left=left)
        self._told.calls(done, expected)

    def picture(self, picture: CellPicture) -> None:
        """Keeps it; of all lanes the prompt and seed are shown that were last seen on their way."""
        subject = picture.prompt, picture.seed
        if picture.call < picture.calls:
            self._front = subject
        tiles = self._tiles.setdefault(picture.lane, OrderedDict())
        tiles[subject] = picture
        tiles.move_to_end(subject)
        if len(tiles) > KEPT_TILES:
            tiles.popitem(last=False)
        self._write()

    def is_watched(self) -> bool:
        """Whether a page looks."""
        return self._file.is_watched()

    def standing(self, sentence: str, lanes: Mapping[str, str], waiting: tuple[str, ...]) -> None:
        """Shows at once what is known so far."""
        self._state = replace(self._state, sentence=sentence, standings=lanes, waiting=waiting)
        self._write(now=True)
        self._told.standing(sentence, lanes, waiting)

    def note(self, text: str) -> None:
        """Passes it on."""
        self._told.note(text)

    def finish(self, summary: dict[str, Any]) -> None:
        """Passes it on."""
        self._told.finish(summary)

    def _write(self, *, now: bool = False) -> None:
        if self._state.is_timing and not now:
            return  # while times are taken, the file keeps still as well
        waited = math.inf if now else time.monotonic() - self._written
        if waited >= UNWATCHED_SECONDS or (waited >= SECONDS_APART and self.is_watched()):
            self._written = time.monotonic()
            shown = [tiles.get(self._front) or next(reversed(tiles.values())) for tiles in self._tiles.values()]
            self._file.write(replace(self._state, tiles=tuple(shown)))


def standings(decision: Decision) -> dict[str, str]:
    """What lanes have shown so far, e.g. "keeps the picture in 38 of 38 so far"."""
    return {row.lane: text for row in decision.lanes if (text := _standing(row))}


def _standing(row: LaneDecision) -> str:
    if row.status == "dropped":
        return row.missing
    told = next((guard for guard in row.guards if guard.guard.key == OTHER and guard.n), None)
    if told is None:
        return _STATUS[row.status]
    kept = f"keeps the picture in {told.n - told.events:.3g} of {told.n}"
    return f"as good: {kept}" if row.status == "accepted" else f"{kept} so far"
