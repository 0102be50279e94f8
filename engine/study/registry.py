"""A registry of entries with unique keys, built-in ones and those of plug-ins. Imports no torch."""

import re
from collections.abc import Iterable
from typing import Protocol, TypeVar

from engine.errors import StudyError, did_you_mean

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


class Entry(Protocol):
    """What a registry can hold."""

    @property
    def key(self) -> str:
        """Stable name, stored in caches."""

    @property
    def label(self) -> str:
        """Display name."""

    def check(self) -> None:
        """Raises StudyError if the entry is malformed."""


E = TypeVar("E", bound=Entry)


class Registry(dict[str, E]):
    """Entries by key, in order of registration."""

    def __init__(self, kind: str, entries: Iterable[E], lists_all: str = "") -> None:
        """Starts with the built-in entries.

        Args:
            kind: What an entry is, for messages: "scheduler".
            entries: The built-in entries.
            lists_all: The command that lists all entries, if there is one.
        """
        super().__init__({entry.key: entry for entry in entries})
        self.kind, self._lists_all = kind, lists_all

    def check(self, entry: E) -> E:
        """Checks and returns an entry.

        Raises:
            StudyError: Its key or its content is malformed.
        """
        if not _KEY.fullmatch(entry.key):
            rule = "may hold letters, digits, '_', '.', '+', '-' only, at most 64"
            raise StudyError(f"{self.kind.capitalize()} key {entry.key!r} {rule}.")
        entry.check()
        return entry

    def register(self, entry: E) -> E:
        """Adds an entry; adding the same one again is allowed.

        Raises:
            StudyError: The entry is malformed, or its key is taken by another one.
        """
        known = self.get(self.check(entry).key)
        if known is not None and known != entry:
            taken = f"{self.kind.capitalize()} key '{entry.key}' is taken by '{known.label}'"
            raise StudyError(f"{taken}; choose another key for '{entry.label}'.")
        self[entry.key] = entry
        return entry

    def lookup(self, key: str) -> E:
        """The entry of a key.

        Raises:
            StudyError: There is none; the message names the nearest one.
        """
        if key not in self:
            hint = f" `{self._lists_all}` lists all." if self._lists_all else f" There are: {', '.join(self)}."
            raise StudyError(f"Unknown {self.kind} '{key}'.{did_you_mean(key, self)}{hint}")
        return self[key]
