"""The tables of the cache, as numbered migrations. The schema is public: people query it with SQL.

Each module of `engine/cache/tables` holds one step and documents its columns. Times are UTC. Ids are digests: equal
content has an equal id on every machine, so that caches can be merged.
"""

from engine.cache.migration import Migration
from engine.cache.tables import first, phases, quality, schedules, sets, votes

MIGRATIONS: tuple[Migration, ...] = (
    first.MIGRATION,
    quality.MIGRATION,
    sets.MIGRATION,
    schedules.MIGRATION,
    phases.MIGRATION,
    votes.MIGRATION,
)

SCHEMA_VERSION = MIGRATIONS[-1].version

CREATE_MIGRATIONS = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMP NOT NULL
    )
"""
