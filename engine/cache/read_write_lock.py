"""A fair read-write lock per cache file within one process: many readers or one writer, first come, first served.

File locks separate processes, not threads, and POSIX drops them as soon as the process closes the file by any route.
DuckDB refuses a thread that reads a file another thread is writing, but opens and closes the file in doing so; the
file lock is gone, a second process may write at the same time, and the file is corrupted. Threads therefore acquire
this lock before they touch the file.
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
    """The lock of one file.

    Attributes:
        gate: Held while the file is opened or closed, so that one thread does not close it while another opens it.
    """

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._readers: Counter[int] = Counter()  # by thread
        self._writes = False

    @contextlib.contextmanager
    def hold(self, deadline: float, *, exclusive: bool) -> Iterator[bool]:
        """Acquires the lock; yields False if that failed by the deadline (on the clock of `time.monotonic`).

        Reading is reentrant. A thread that holds the lock for writing cannot acquire it again, and a reader cannot
        upgrade: both time out.
        """
        acquired = self._enter(deadline, exclusive)
        try:
            yield acquired
        finally:
            if acquired:
                self._leave(exclusive)

    def _enter(self, deadline: float, exclusive: bool) -> bool:
        thread = threading.get_ident()
        with self._changed:
            if not exclusive and self._readers[thread]:  # queued behind a writer that waits for this thread: deadlock
                self._readers[thread] += 1
                return True
            ticket = object()
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or self._writes or (exclusive and self._readers):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False
                    self._changed.wait(left)
                if exclusive:
                    self._writes = True
                else:
                    self._readers[thread] += 1
                return True
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _leave(self, exclusive: bool) -> None:
        thread = threading.get_ident()
        with self._changed:
            if exclusive:
                self._writes = False
            else:
                self._readers[thread] -= 1
                if not self._readers[thread]:
                    del self._readers[thread]
            self._changed.notify_all()


def lock_of(path: Path) -> ReadWriteLock:
    """The lock of a file, the same one under every path that leads to it."""
    with _known_lock:
        return _known.setdefault(os.path.realpath(path), ReadWriteLock())


_known: WeakValueDictionary[str, ReadWriteLock] = WeakValueDictionary()
_known_lock = threading.Lock()
