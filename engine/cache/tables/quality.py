"""Metrics, scores of cells and frames, references."""

from engine.cache.migration import Migration

MIGRATION = Migration(
    2,
    "quality of studies",
    """
    CREATE TABLE metrics (                     -- what a metric means, as it was when it scored
        metric VARCHAR NOT NULL,
        metric_version VARCHAR NOT NULL,       -- 1, or 1@LANE for metrics that compare with the reference lane
        label VARCHAR NOT NULL,
        unit VARCHAR NOT NULL,
        direction VARCHAR NOT NULL,            -- better is: higher, lower, or neither
        smallest_n INTEGER NOT NULL,           -- pairs of cells below which figures say too little
        has_true_zero BOOLEAN NOT NULL,        -- ratios of it mean something
        span DOUBLE,                           -- largest minus smallest possible value, if bounded
        margin DOUBLE,                         -- equivalence margin; NULL: seed-to-seed noise of the baseline
        description VARCHAR NOT NULL,
        PRIMARY KEY (metric, metric_version)
    );
    CREATE TABLE study_metrics (               -- metrics of a study, in their versions, when it was last scored
        study_id VARCHAR NOT NULL,
        metric VARCHAR NOT NULL,
        metric_version VARCHAR NOT NULL,
        position INTEGER NOT NULL,
        unavailable VARCHAR,                   -- why it could not be measured at all, and the remedy
        PRIMARY KEY (study_id, metric)
    );
    CREATE TABLE study_references (            -- converged solutions, one pair per prompt and seed
        study_id VARCHAR NOT NULL,
        reference_id VARCHAR NOT NULL,         -- a trajectory, not among the study's cells
        check_id VARCHAR NOT NULL,             -- one of another solver, which must agree
        tolerance DOUBLE NOT NULL,             -- largest distance that counts as agreement
        distance DOUBLE,                       -- relative L2 between their latents; NULL: one of them is missing
        PRIMARY KEY (study_id, reference_id)
    );
    CREATE TABLE unscored (                    -- cells that a metric says nothing of
        trajectory_id VARCHAR NOT NULL,
        metric VARCHAR NOT NULL,
        metric_version VARCHAR NOT NULL,
        reason VARCHAR NOT NULL,
        PRIMARY KEY (trajectory_id, metric, metric_version)
    );
    CREATE TABLE frame_quality (               -- metrics of step frames
        trajectory_id VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,                 -- x0
        step_index INTEGER NOT NULL,
        metric VARCHAR NOT NULL,
        metric_version VARCHAR NOT NULL,
        value DOUBLE NOT NULL,
        PRIMARY KEY (trajectory_id, kind, step_index, metric, metric_version)
    );
    """,
)
