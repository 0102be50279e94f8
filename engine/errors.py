"""The errors a user can mend; everything else that is raised is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """Something on the user's side is wrong; the message says what, where, and the remedy."""


class StudyError(LabError):
    """A study file, lane, prompt or setting cannot be run as written."""


class ModelError(LabError):
    """A model is missing, damaged, or of a kind that is not supported."""


class CacheError(LabError):
    """A cache file is missing, damaged, locked for too long, or of another version."""


class CacheMissing(CacheError):
    """There is no file at the cache path."""


class CacheBusy(CacheError):
    """Another process held the cache file for longer than the time allowed."""


class CacheOutdated(CacheError):
    """The cache was written by an older version and has to be migrated first."""


class CacheRefused(CacheError):
    """The file holds what no cache of this lab holds, or more than is read from a stranger's file."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
