"""Training in the background: it steps aside while a file exists, and says under which number it runs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from data.bundled.recipe.learning import Learner


@dataclass
class Pause:
    """Lets others hold a training: it waits before a step while the file `halt` exists.

    Args:
        halt: the file, or None to never wait.
        check_seconds: time between two looks at it.
    """

    halt: Path | None = None
    check_seconds: float = 2.0

    def wait(self, learner: Learner | None = None) -> float:
        """Return the seconds waited; they do not count as training time of the learner."""
        if self.halt is None or not self.halt.exists():
            return 0.0
        start = time.monotonic()
        while self.halt.exists():
            time.sleep(self.check_seconds)
        if learner is not None:
            learner.budget.restart_clock()
        return time.monotonic() - start


def write_pid(path: Path | None) -> None:
    """Write this process's number to a file, so that others can send it signals."""
    if path is not None:
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
