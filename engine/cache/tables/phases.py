"""How pictures form: sketches of the path, metrics of step frames, and runs whose prompt changes on the way."""

from engine.cache.migration import Migration

MIGRATION = Migration(
    5,
    "phases and commitment",
    """
    CREATE TABLE step_sketches (               -- x0 of each measured step in few numbers, to compare paths
        trajectory_id VARCHAR NOT NULL,
        step_index INTEGER NOT NULL,
        progress DOUBLE NOT NULL,
        log_snr DOUBLE,
        sketch BLOB NOT NULL                   -- 128 x float16, little endian; see engine/sampling/spectra.py
    );
    CREATE TABLE frame_metrics (               -- metrics of step frames alone, as a study was last scored
        study_id VARCHAR NOT NULL,
        metric VARCHAR NOT NULL,
        metric_version VARCHAR NOT NULL,       -- version, and the weights it depends on
        label VARCHAR NOT NULL,
        unit VARCHAR NOT NULL,
        description VARCHAR NOT NULL,
        unavailable VARCHAR,                   -- why it could not be measured at all, and the remedy
        PRIMARY KEY (study_id, metric)
    );
    CREATE TABLE commitment (                  -- runs that begin with one prompt and end with another
        swap_id VARCHAR PRIMARY KEY,           -- digest of both cells and of the share of calls before the change
        environment_id VARCHAR NOT NULL,
        model_id VARCHAR NOT NULL,
        lane VARCHAR NOT NULL,
        first_id VARCHAR NOT NULL,             -- the cell that this would be without the change: prompt, seed, lane
        second_id VARCHAR NOT NULL,            -- the cell of the other prompt
        first_prompt VARCHAR NOT NULL,
        second_prompt VARCHAR NOT NULL,
        seed BIGINT NOT NULL,
        guidance_scale DOUBLE NOT NULL,
        share DOUBLE NOT NULL,                 -- of the calls that had the first prompt, as asked for: 0 to 1
        calls INTEGER,                         -- denoiser calls of the run
        swap_call INTEGER,                     -- first call with the second prompt, from 0; calls if there is none
        progress DOUBLE,                       -- swap_call / calls
        log_snr DOUBLE,                        -- of that call; NULL if there is none
        first_distance DOUBLE,                 -- relative L2 of the final latents to those of the first prompt alone
        second_distance DOUBLE,                -- to those of the second
        first_probability DOUBLE,              -- of the first prompt against the second, by CLIP; NULL: no judge
        judge VARCHAR,                         -- name and digest of that CLIP
        image BLOB,                            -- the final picture as WebP, for people; not measured
        error VARCHAR,                         -- why the run failed
        created_at TIMESTAMP NOT NULL
    );
    CREATE TABLE study_swaps (                 -- which of these runs a study shows
        study_id VARCHAR NOT NULL,
        swap_id VARCHAR NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (study_id, swap_id)
    );
    """,
)
