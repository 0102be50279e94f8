"""Commits cells group by group in a thread of its own, so that the device does not wait for the disk."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

# A group is committed when it has so many cells, or holds so many seconds' work.
GROUP_CELLS = 16
GROUP_SECONDS = 5.0
# Groups that wait for the one that is being written; with more the pass waits, so that memory is bounded.
MOST_WAITING = 1


class Committer(Generic[T]):
    """Takes rows and writes them in groups, in order; one thread writes.

    What the writing raises is raised by the next `add`, or by `close`, which writes what waits after an interrupt, too.

    Args:
        write: Writes a group in one transaction.
    """

    def __init__(self, write: Callable[[Sequence[T]], None]) -> None:
        self._write = write
        self._rows: list[T] = []
        self._since = time.monotonic()
        self._groups: queue.Queue[list[T] | None] = queue.Queue(MOST_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="committing")
        self._thread.start()

    def add(self, row: T) -> None:
        """Adds a finished cell."""
        self._rows.append(row)
        if len(self._rows) >= GROUP_CELLS or time.monotonic() - self._since > GROUP_SECONDS:
            self._hand_over()
        self._raise()

    def close(self) -> None:
        """Writes what waits, and ends the thread."""
        try:
            self._hand_over()
        finally:
            self._groups.put(None)
            self._thread.join()
        self._raise()

    def _hand_over(self) -> None:
        if self._rows:
            self._groups.put(self._rows)  # an interrupt here leaves the rows where they are, for `close`
            self._rows = []
        self._since = time.monotonic()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while (group := self._groups.get()) is not None:
            try:
                self._write(group)
            except BaseException as error:
                self._error = self._error or error
            del group
