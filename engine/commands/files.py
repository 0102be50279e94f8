"""What commands take and leave as files: studies named by a file, and figures written as JSON."""

import json
from pathlib import Path
from typing import Any

from engine.errors import LabError
from engine.study.study import load_study


def cached_name(study: str, cache: Path) -> str:
    """The name a study goes by in a cache: that of a TOML file, or the name itself.

    Raises:
        StudyError: The file is no study.
    """
    if not study.endswith(".toml"):
        return study
    from engine.cache.input_pictures import kept_in  # here, so that commands without a cache need no DuckDB

    return load_study(study, kept=kept_in(cache)).name


def migrate_existing(cache: Path) -> None:
    """Brings an older cache up to date; leaves it to others to say that there is none."""
    if cache.exists():
        from engine.cache.connection import migrate  # here, so that commands without a cache need no DuckDB

        migrate(cache)


def check_json(path: Path | None) -> None:
    """Refuses a file that could not be written, before any work.

    Raises:
        LabError: It is a folder, or its folder is not there.
    """
    if path is None:
        return
    if path.is_dir():
        raise LabError(f"--json {path}: that is a folder; name a file, e.g. {path / 'figures.json'}.")
    if not path.resolve().parent.is_dir():
        raise LabError(f"--json {path}: there is no folder {path.resolve().parent}.")


def write_json(path: Path | None, value: Any) -> None:
    """Writes plain data to the file of `--json`, if one was asked for.

    Raises:
        LabError: It cannot be written.
    """
    if path is None:
        return
    try:
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LabError(f"--json {path} could not be written: {error.strerror}. Give another file.") from error
