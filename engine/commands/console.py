"""How commands print tables and durations, and what keeps the terminal safe from what they print."""

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO, cast

# C0, DEL and C1 but for tab, newline and carriage return; and what turns the direction of text around. A terminal takes
# some for orders: to move, to hide, to set its title, to answer.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """The text with a replacement character for each character that a terminal might obey."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class _PlainStream:
    """A stream in which control characters are replaced; all else is that of the stream below."""

    def __init__(self, below: TextIO) -> None:
        self._below = below

    def write(self, text: str) -> int:
        """Writes the text without them."""
        self._below.write(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)


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
