"""Metrics of whole sets of pictures."""

from engine.cache.migration import Migration

MIGRATION = Migration(
    3,
    "quality of whole sets",
    """
    CREATE TABLE set_metrics (                 -- what a set metric means, as it was when it measured
        metric VARCHAR NOT NULL,
        metric_version VARCHAR NOT NULL,       -- 1@FEATURES; just 1 if it could not be measured
        label VARCHAR NOT NULL,
        unit VARCHAR NOT NULL,
        direction VARCHAR NOT NULL,            -- better is: higher, lower, or neither
        smallest_n INTEGER NOT NULL,           -- pictures below which it is refused
        trusted_n INTEGER NOT NULL,            -- pictures below which it carries a warning
        description VARCHAR NOT NULL,
        PRIMARY KEY (metric, metric_version)
    );
    CREATE TABLE study_set_metrics (           -- set metrics of a study, in their versions, when it was last scored
        study_id VARCHAR NOT NULL,
        metric VARCHAR NOT NULL,
        metric_version VARCHAR NOT NULL,
        position INTEGER NOT NULL,
        unavailable VARCHAR,                   -- why it could not be measured at all, and the remedy
        PRIMARY KEY (study_id, metric)
    );
    CREATE TABLE set_quality (                 -- all pictures of a lane together, against those of another lane
        study_id VARCHAR NOT NULL,
        lane VARCHAR NOT NULL,
        against VARCHAR NOT NULL,              -- the baseline's lane, or that of the converged reference
        metric VARCHAR NOT NULL,
        metric_version VARCHAR NOT NULL,
        features VARCHAR NOT NULL,             -- what turned pictures into vectors: network and digest of its weights
        n INTEGER NOT NULL,                    -- pictures on each side: the prompts and seeds that both have
        prompts INTEGER NOT NULL,              -- prompts among them
        value DOUBLE,                          -- NULL: refused, see warning
        low DOUBLE,                            -- 95 % interval, prompts being the unit
        high DOUBLE,
        standard_error DOUBLE,                 -- delete-a-group jackknife over prompts
        warning VARCHAR,                       -- why the figure is not to be trusted, or why there is none
        set_id VARCHAR NOT NULL,               -- digest of the cells on both sides: another set is measured again
        created_at TIMESTAMP NOT NULL,
        PRIMARY KEY (study_id, lane, against, metric, metric_version)
    );
    """,
)
