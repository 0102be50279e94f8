"""A lock on a cache file within one process: many readers together, or one writer alone, in the order they came.

The locks of the file keep processes apart, not threads, and POSIX drops them once the process closes the file by any
route. A thread that tries to read what another one writes is refused by DuckDB, but opens and closes the file on the
way: from then on a second process may write at the same time, and the file is lost. So nobody touches a file before
the process has agreed on it.
"""

import contextlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary


class ReadWriteLock:
    """Who may use one file.

    Attributes:
        gate: Held while the file is opened or closed, so that nobody closes what another one is just opening.
    """

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._readers: Counter[int] = Counter()  # by thread
        self._writes = False

    @contextlib.contextmanager
    def hold(self, deadline: float, *, alone: bool) -> Iterator[bool]:
        """Waits for a turn and keeps it; gives False if there was none by the deadline (of `time.monotonic`).

        A thread that reads may read once more; one that writes, or would write while it reads, waits in vain.
        """
        mine = self._enter(deadline, alone)
        try:
            yield mine
        finally:
            if mine:
                self._leave(alone)

    def _enter(self, deadline: float, alone: bool) -> bool:
        thread = threading.get_ident()
        with self._changed:
            if not alone and self._readers[thread]:  # queueing behind a writer who waits for this very thread: never
                self._readers[thread] += 1
                return True
            ticket = object()
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or self._writes or (alone and self._readers):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False
                    self._changed.wait(left)
                if alone:
                    self._writes = True
                else:
                    self._readers[thread] += 1
                return True
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _leave(self, alone: bool) -> None:
        thread = threading.get_ident()
        with self._changed:
            if alone:
                self._writes = False
            else:
                self._readers[thread] -= 1
                if not self._readers[thread]:
                    del self._readers[thread]
            self._changed.notify_all()


def lock_of(path: Path) -> ReadWriteLock:
    """The lock at a file, by whatever name it is called; a new file has none yet."""
    with _known_lock:
        return _known.setdefault(os.path.realpath(path), ReadWriteLock())


_known: WeakValueDictionary[str, ReadWriteLock] = WeakValueDictionary()
_known_lock = threading.Lock()
