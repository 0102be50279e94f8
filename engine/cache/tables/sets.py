"""Metrics of whole sets of pictures."""

from engine.cache.migration import Migration

MIGRATION = Migration(
    3,
    "quality of whole sets",
    """
    CREATE TABLE set_quality (                 -- metrics of all pictures of a lane together, against those of another
        study_id VARCHAR NOT NULL,
        lane VARCHAR NOT NULL,
        against VARCHAR NOT NULL,              -- the lane, or reference, that it is compared with
        metric VARCHAR NOT NULL,
        metric_version VARCHAR NOT NULL,
        features VARCHAR NOT NULL,             -- what turned pictures into vectors
        n INTEGER NOT NULL,                    -- pictures of the lane
        value DOUBLE,                          -- NULL: refused, see warning
        low DOUBLE,                            -- 95 % interval
        high DOUBLE,
        standard_error DOUBLE,
        warning VARCHAR,                       -- why the figure is not to be trusted, or there is none
        set_id VARCHAR NOT NULL,               -- digest of the cells on both sides
        created_at TIMESTAMP NOT NULL,
        PRIMARY KEY (study_id, lane, against, metric, metric_version)
    );
    """,
)
