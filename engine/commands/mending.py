"""Commands about a cache that may be damaged: check, repair."""

import argparse
from pathlib import Path

from engine.cache.integrity import Fault, check, repair
from engine.display.formats import count
from engine.sharing.picture_files import decoded


def check_cache(arguments: argparse.Namespace) -> int:
    """`check`: 0 if the cache is whole, 1 if not."""
    faults = _found(arguments.cache)
    if faults:
        print(f"`python -m engine repair --cache {arguments.cache}` mends it.")
    return 1 if faults else 0


def repair_cache(arguments: argparse.Namespace) -> int:
    """`repair`."""
    faults = _found(arguments.cache)
    if faults:
        cells = repair(arguments.cache, faults)
        again = f" Run their studies again: {count(cells, 'cell')} will be made anew." if cells else ""
        print(f"Mended.{again}")
    return 0


def _found(cache: Path) -> list[Fault]:
    faults = check(cache, _is_picture)
    print("\n".join(f"{fault.count:>8,} {fault.what}" for fault in faults) or f"{cache} is whole.")
    return faults


def _is_picture(data: bytes, width: int, height: int) -> bool:
    image = decoded(data)
    return image is not None and image.size == (width, height)
