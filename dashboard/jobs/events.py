"""What a run's log says: how far it is, where it runs, and what it noted. Pure."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

MOST_NOTES = 200
# A pass of the engine, as people call it.
PASSES = {"images": "Images", "timing": "Times", "references": "Converged solutions", "scores": "Scores"}


@dataclass(frozen=True)
class Log:
    """A log so far.

    Attributes:
        facts: Where it runs and how much there is to do (event "begin").
        what: The pass that goes on, in words; empty before the first.
        seconds_left: Of that pass, at its pace so far; None while it is not known.
        notes: Warnings and failures.
        summary: What the engine counted, once it is over.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    what: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    seconds_left: float | None = None
    notes: tuple[str, ...] = ()
    summary: dict[str, Any] | None = None


def read(lines: Iterable[str]) -> Log:
    """Reads a log, or the end of one; lines that are no events are left out."""
    facts: dict[str, Any] = {}
    current: dict[str, Any] = {}
    notes: list[str] = []
    summary = None
    for event in _events(lines):
        kind = event["event"]
        if kind == "begin":
            facts = event
        elif kind == "start":
            current = {**event, "done": 0}
        elif kind == "progress":
            current = {**current, **event} if current.get("what") == event.get("what") else event
        elif kind == "note":
            notes.append(str(event.get("text", "")))
        elif kind == "finished":
            summary = {key: value for key, value in event.items() if key != "event"}
    what = str(current.get("what", ""))
    return Log(
        facts=facts,
        what=PASSES.get(what, what.capitalize()),
        done=_whole(current.get("done")),
        total=_whole(current.get("total")),
        unit=str(current.get("unit", "")),
        seconds_left=_seconds(current.get("seconds_left")),
        notes=tuple(notes[-MOST_NOTES:]),
        summary=summary,
    )


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("event"), str):
            yield value


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
