"""The measurements of a search on disk, one JSON line per evaluation, so that a killed search can continue.

A truncated last line is dropped when the file is read.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from engine.errors import LabError
from engine.study.cells import digest
from engine.study.custom_schedules import CustomSchedule


def schedule_digest(schedule: CustomSchedule) -> str:
    """A schedule's key in the file of evaluations."""
    return digest(schedule.spec())[:16]


class Evaluations:
    """Errors by schedule and picture, in memory and in a file.

    Args:
        file: JSON lines; its folder is created.

    Raises:
        LabError: It cannot be read or created.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[tuple[str, str], float] = {}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
            if lines and not lines[-1].endswith("\n"):
                file.write_text("".join(lines[:-1]), encoding="utf-8")
        except OSError as error:
            raise LabError(f"{file} cannot be used for the search: {error.strerror}.") from error
        for line in lines:
            self._read(line)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, schedule: CustomSchedule, picture: str) -> float | None:
        """The error of a schedule on a picture; None if not measured."""
        return self._known.get((schedule_digest(schedule), picture))

    def add(self, found: Iterable[tuple[CustomSchedule, str, float]]) -> None:
        """Stores errors; failed runs have infinite ones."""
        with self._file.open("a", encoding="utf-8") as stream:
            for schedule, picture, error in found:
                key = schedule_digest(schedule)
                self._known[key, picture] = error
                plain = None if math.isinf(error) else error
                stream.write(json.dumps({"schedule": key, "picture": picture, "error": plain}) + "\n")

    def _read(self, line: str) -> None:
        try:
            row = json.loads(line)
            error = math.inf if row["error"] is None else float(row["error"])
            self._known[str(row["schedule"]), str(row["picture"])] = error
        except (ValueError, KeyError, TypeError):
            return
