"""On a CPU, forwards of some calls each, at the same time.

With all threads on one forward, each waits for the others in every layer, and all of them wait for the pipelines
between two forwards. With some of the calls on each core nobody does: on two cores the bundled denoiser went through
32 rows 15 % faster, to the same bits.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

R = TypeVar("R")

# Small networks spend their time in Python, which does one thing at a time.
LEAST_PARAMETERS = 1_000_000
# How much larger the largest share may be than an even one.
MOST_UNEVEN = 1.1


class Teams:
    """Threads that run forwards at the same time; they start when they are first needed."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._threads = torch.get_num_threads()

    def count(self, calls: int, denoiser: nn.Module) -> int:
        """How many forwards should run at the same time, with so many calls of this network among them."""
        count = parts(calls, self._threads)
        return count if count > 1 and _is_worth_it(denoiser) else 1

    def start(self, work: Callable[[], R], teams: int) -> Future[R]:
        """Starts some work on one team of so many, in which torch's threads are divided."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "forwards")
        return self._pool.submit(_alone, work, self._threads // teams)

    def close(self) -> None:
        """Ends the threads, after what they do; they start again when they are needed."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            torch.set_num_threads(self._threads)  # threads that start later take over the last number set anywhere


def parts(calls: int, threads: int) -> int:
    """Into how many forwards the calls are divided: the most that are nearly even and use all threads."""
    for count in range(min(calls, threads), 1, -1):
        if threads % count == 0 and math.ceil(calls / count) * count <= MOST_UNEVEN * calls:
            return count
    return 1


def _is_worth_it(denoiser: nn.Module) -> bool:
    first = next(denoiser.parameters(), None)
    # Where parts take turns on a GPU, the denoiser may be on the CPU now and moves at its next call, one at a time.
    if first is None or first.device.type != "cpu" or hasattr(denoiser, "_hf_hook"):
        return False
    return sum(weight.numel() for weight in denoiser.parameters()) >= LEAST_PARAMETERS


def _alone(work: Callable[[], R], threads: int) -> R:
    torch.set_num_threads(threads)  # of this thread
    with torch.no_grad():
        return work()
