"""Errors that a user can fix; anything else raised is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """Base of all user errors; the message says what is wrong, where, and how to fix it."""


class StudyError(LabError):
    """A study file, lane, prompt or setting cannot be run as written."""


class ModelError(LabError):
    """A model is missing, damaged or not supported."""


class CacheError(LabError):
    """A cache file is missing, damaged, locked for too long, or has another version."""


class CacheMissing(CacheError):
    """The cache file does not exist."""


class CacheBusy(CacheError):
    """Another process held the cache file for longer than the timeout."""


class CacheOutdated(CacheError):
    """The cache was written by an older version and must be migrated first."""


class CacheRefused(CacheError):
    """The file contains something that no cache of this lab contains, or exceeds the limits for untrusted files."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
