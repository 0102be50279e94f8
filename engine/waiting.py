"""How torch's threads wait for each other on a CPU. Has to be settled before torch is loaded, and imports nothing.

By default they spin, for milliseconds. With other work on the cores each spins in place of the one it waits for, and a
forward takes a hundred times as long. Asleep at once (OMP_WAIT_POLICY=PASSIVE) they cost an idle machine the time it
takes to wake them. A bounded spin is nearly as quick as spinning on an idle machine, and sleeps where there is other
work. Two cores ran the bundled denoiser on 2 and 32 rows at so many rows a second, idle and beside two busy processes:
asleep at once 32 and 108, 27 and 69; a spin of 1,000 36 and 110, 17 and 49; of 10,000 50 and 126, 15 and 55; of 100,000
45 and 123, 5 and 43; without end 58 and 138 idle.
"""

import os
import sys

SPINS = "10000"
# GNU's OpenMP, which torch brings along on Linux, and LLVM's, on macOS (milliseconds).
_BOUNDS = {"GOMP_SPINCOUNT": SPINS, "KMP_BLOCKTIME": "1"}
# Whoever sets one of these has chosen.
CHOSEN_BY = ("OMP_WAIT_POLICY", *_BOUNDS)
_came_too_late = False


def bound() -> None:
    """Bounds the spinning of threads of this process and its children, unless that is settled already."""
    global _came_too_late  # noqa: PLW0603 - a fact about this process, noted once
    if any(name in os.environ for name in CHOSEN_BY):
        return
    _came_too_late = "torch" in sys.modules
    os.environ.update(_BOUNDS)


def is_bounded() -> bool:
    """Whether the spinning of new processes is bounded by this module, and by nobody else's choice."""
    return "OMP_WAIT_POLICY" not in os.environ and all(os.environ.get(key) == bound for key, bound in _BOUNDS.items())


def described() -> str:
    """How threads wait in this process, for the record of an environment."""
    if _came_too_late:
        return "torch's default"
    return ", ".join(f"{name}={os.environ[name]}" for name in CHOSEN_BY if name in os.environ) or "torch's default"


def too_late() -> str:
    """What to tell a user whose program loaded torch first; empty if all is well."""
    if not _came_too_late:
        return ""
    return (
        "torch was loaded before this lab, so its threads spin while they wait; with other work on the cores that is "
        "many times slower. Import the lab first, or start Python with OMP_WAIT_POLICY=PASSIVE."
    )
