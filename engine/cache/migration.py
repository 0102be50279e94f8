"""One step of the cache's schema."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Migration:
    """One step of the schema; it and its record are committed together."""

    version: int
    name: str
    sql: str
