"""File arguments of commands: studies given as a file, and `--json`."""

import argparse
import json
from pathlib import Path
from typing import Any

from engine.errors import LabError
from engine.study.study import Study, load_study


def given_study(arguments: argparse.Namespace) -> Study:
    """The study of `STUDY --set KEY=VALUE --cache FILE`, whose pictures may be in the cache.

    Raises:
        StudyError: The study is missing, unreadable or invalid.
    """
    from engine.cache.input_pictures import kept_in  # here, so that commands without a cache don't load DuckDB

    return load_study(arguments.study, arguments.settings, kept_in(arguments.cache))


def cached_name(study: str, cache: Path) -> str:
    """The name of a study in a cache; `study` is that name or a TOML file.

    Raises:
        StudyError: The file is not a valid study.
    """
    if not study.endswith(".toml"):
        return study
    from engine.cache.input_pictures import kept_in  # here, so that commands without a cache don't load DuckDB

    return load_study(study, kept=kept_in(cache)).name


def migrate_existing(cache: Path) -> None:
    """Updates an older cache; does nothing if there is none."""
    if cache.exists():
        from engine.cache.connection import migrate  # imported here so that commands without a cache don't load DuckDB

        migrate(cache)


def check_json(path: Path | None) -> None:
    """Checks before any work that the file of `--json` can be written.

    Raises:
        LabError: It is a folder, or its folder does not exist.
    """
    if path is None:
        return
    if path.is_dir():
        raise LabError(f"--json {path}: that is a folder; name a file, e.g. {path / 'figures.json'}.")
    if not path.resolve().parent.is_dir():
        raise LabError(f"--json {path}: there is no folder {path.resolve().parent}.")


def write_json(path: Path | None, value: Any) -> None:
    """Writes plain data to the file of `--json`, if given.

    Raises:
        LabError: It cannot be written.
    """
    if path is None:
        return
    try:
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LabError(f"--json {path} could not be written: {error.strerror}. Give another file.") from error
