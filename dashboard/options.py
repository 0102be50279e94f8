"""The options that `python -m engine dashboard` hands on, or what stands after `streamlit run dashboard/app.py --`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from engine.errors import LabError
from engine.paths import DEFAULT_CACHE

USAGE = "streamlit run dashboard/app.py -- [--cache PATH] [--allow-runs] [--read-only]"


class OptionsError(LabError):
    """The command line of the dashboard cannot be understood."""


@dataclass(frozen=True)
class Options:
    """What the dashboard was started with.

    Attributes:
        cache: The cache file to show.
        read_only: Pages offer nothing that would write to the cache, whoever asks.
        allow_runs: Whoever opens the page may start studies.
    """

    cache: Path
    read_only: bool
    allow_runs: bool = False


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, which here is the web server."""

    def error(self, message: str) -> NoReturn:
        raise OptionsError(f"{message}. Usage: {USAGE}")


def parse(arguments: Sequence[str]) -> Options:
    """Reads the arguments.

    Raises:
        OptionsError: An unknown argument, or one without its value.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--allow-runs", action="store_true")
    found = parser.parse_args(list(arguments))
    return Options(found.cache.expanduser(), found.read_only, found.allow_runs)
