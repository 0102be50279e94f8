"""How many heaps glibc's malloc keeps. Settled before threads start.

By default a thread gets a heap of its own, up to eight for each core, and what it frees there others seldom use: a
process that makes, measures and writes cells on many threads grows for a long time.
"""

import ctypes
import os
import sys

MOST = 2
_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def bound() -> None:
    """Lets all threads of this process share a few heaps, unless `MALLOC_ARENA_MAX` says how many; Linux only."""
    if sys.platform != "linux" or "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_ARENA_MAX, MOST)
