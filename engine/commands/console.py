"""Prints tables and durations, and keeps control characters away from the terminal."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO, cast

from engine.plain_text import plain


class _PlainStream:
    """Wraps a stream and replaces control characters in what is written to it.

    Attributes:
        below: The wrapped stream, for code that draws on the terminal itself and cleans its own texts.
    """

    def __init__(self, below: TextIO) -> None:
        self.below = below

    def write(self, text: str) -> int:
        """Writes the text without control characters."""
        self.below.write(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


@contextlib.contextmanager
def safe_terminal() -> Iterator[None]:
    """Removes control characters from everything printed in the context.

    Texts from a cache, a model's files or an exception are untrusted. `print` looks up `sys.stdout`, so replacing it
    covers every caller.
    """
    with (
        contextlib.redirect_stdout(cast("TextIO", _PlainStream(sys.stdout))),
        contextlib.redirect_stderr(cast("TextIO", _PlainStream(sys.stderr))),
    ):
        yield


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows as padded columns; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip(), file=sys.stdout)


def duration(seconds: float) -> str:
    """E.g. "12.3 s", "4.8 min", "1.6 h"."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
