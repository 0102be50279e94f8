"""How commands print tables and durations, and what keeps the terminal safe from what they print."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO, cast

from engine.plain_text import plain


class _PlainStream:
    """A stream in which control characters are replaced; all else is that of the stream below.

    Attributes:
        below: For what draws on the terminal itself, and makes its texts plain first.
    """

    def __init__(self, below: TextIO) -> None:
        self.below = below

    def write(self, text: str) -> int:
        """Writes the text without them."""
        self.below.write(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


@contextlib.contextmanager
def safe_terminal() -> Iterator[None]:
    """No text that is printed meanwhile reaches a terminal with control characters, wherever it comes from.

    Texts of a cache, of a model's files or of an exception may be a stranger's. One place for all: `print` looks up
    `sys.stdout`.
    """
    with (
        contextlib.redirect_stdout(cast("TextIO", _PlainStream(sys.stdout))),
        contextlib.redirect_stderr(cast("TextIO", _PlainStream(sys.stderr))),
    ):
        yield


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns of text, padded; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip(), file=sys.stdout)


def duration(seconds: float) -> str:
    """E.g. "12.3 s", "4.8 min", "1.6 h"."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
