"""Threads of the lab share a few heaps."""

import os
import subprocess
import sys

import pytest

from engine import heaps

# Twelve threads allocate at the same time; malloc_info tells the heaps there are.
PROGRAM = """
import ctypes, os, tempfile, threading
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
together = threading.Barrier(12)
def allocate():
    together.wait()
    for _ in range(2000):
        libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fdopen(os.dup(file.fileno()), b"w"))
    libc.malloc_info(0, stream)
    libc.fflush(stream)
    print(open(file.name).read().count("<heap nr"))
"""


def heaps_of(program: str, **variables: str) -> int:
    clean = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | variables, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives threads heaps of their own")
def test_threads_share_a_few_heaps_unless_the_user_has_chosen() -> None:
    assert heaps_of(PROGRAM) > heaps.MOST
    assert heaps_of("import engine\n" + PROGRAM) == heaps.MOST
    assert heaps_of("import engine\n" + PROGRAM, MALLOC_ARENA_MAX="5") == 5
