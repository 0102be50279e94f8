"""Blind votes between two final pictures."""

from engine.cache.migration import Migration

MIGRATION = Migration(
    6,
    "blind votes",
    """
    CREATE TABLE votes (                       -- one choice of one voter between two pictures of one prompt and seed
        vote_id VARCHAR PRIMARY KEY,           -- digest of study, voter and pair: a voter has one vote a pair
        study_id VARCHAR NOT NULL,
        voter VARCHAR NOT NULL,                -- made up at random for each browser; no name
        check_kind VARCHAR NOT NULL,           -- none; or an attention check: identical, or obvious
        left_id VARCHAR NOT NULL,              -- trajectory shown on the left
        right_id VARCHAR NOT NULL,             -- and on the right
        left_lane VARCHAR NOT NULL,
        right_lane VARCHAR NOT NULL,
        prompt VARCHAR NOT NULL,
        seed BIGINT NOT NULL,
        choice VARCHAR NOT NULL CHECK (choice IN ('left', 'right', 'same')),
        seconds DOUBLE NOT NULL,               -- from showing to choosing
        created_at TIMESTAMP NOT NULL
    );
    """,
)
