"""Paths of the project's own files and of the default cache, and how files are written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

# Holds the packages engine, dashboard and data: a checkout, or the site-packages of an installed wheel.
ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
CLAIMS = DATA / "claims.toml"


def default_cache(root: Path) -> Path:
    """The cache that commands and pages use by default.

    In a checkout, recognised by its pyproject.toml, it is in the folder `data`. An installed package must not write
    into site-packages, so it uses the user's data folder, e.g. ~/.local/share/scheduler-lab on Linux.
    """
    if (root / "pyproject.toml").is_file():
        return root / "data" / "cache.duckdb"
    return platformdirs.user_data_path("scheduler-lab", appauthor=False) / "cache.duckdb"


DEFAULT_CACHE = default_cache(ROOT)


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file under a temporary name and renames it, so that readers and failures never see a part of it.

    Args:
        path: The file.
        write: Writes the whole file under the path it is given.

    Raises:
        OSError: It cannot be written; the old file is unchanged.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
