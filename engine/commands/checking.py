"""Commands for damaged caches: check, repair."""

import argparse
from pathlib import Path

from engine.cache.integrity import Fault, check, repair
from engine.display.formats import count
from engine.sharing.picture_files import decoded


def check_cache(arguments: argparse.Namespace) -> int:
    """`check`: 0 if the cache is intact, 1 if not."""
    faults = _found(arguments.cache)
    if faults:
        print(f"Repair it with `python -m engine repair --cache {arguments.cache}`.")
    return 1 if faults else 0


def repair_cache(arguments: argparse.Namespace) -> int:
    """`repair`."""
    faults = _found(arguments.cache)
    if faults:
        cells = repair(arguments.cache, faults)
        again = f" Run their studies again to recompute {count(cells, 'cell')}." if cells else ""
        print(f"Repaired.{again}")
    return 0


def _found(cache: Path) -> list[Fault]:
    faults = check(cache, _is_picture)
    print("\n".join(f"{fault.count:>8,} {fault.what}" for fault in faults) or f"{cache} is intact.")
    return faults


def _is_picture(data: bytes, width: int, height: int) -> bool:
    image = decoded(data)
    return image is not None and image.size == (width, height)
