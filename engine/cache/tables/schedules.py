"""What each lane really ran, and how well the arithmetic repeats."""

from engine.cache.migration import Migration

MIGRATION = Migration(
    4,
    "schedules and noise floors",
    """
    CREATE TABLE lints (                       -- a lane looked at on a model: one row each
        model_id VARCHAR NOT NULL,             -- whose scheduler configuration it starts from
        config_id VARCHAR NOT NULL,            -- as in trajectories: class, code, configuration and steps of the lane
        lint_version INTEGER NOT NULL,         -- raised whenever the same lane would give other rows
        calls INTEGER,                         -- denoiser calls; NULL: the scheduler raised, see schedule_findings
        final_sigma DOUBLE,                    -- noise level of the finished latents
        created_at TIMESTAMP NOT NULL,
        PRIMARY KEY (model_id, config_id)
    );
    CREATE TABLE schedules (                   -- the noise levels of a lane, call by call
        model_id VARCHAR NOT NULL,
        config_id VARCHAR NOT NULL,
        call_index INTEGER NOT NULL,           -- denoiser call, from 0
        timestep DOUBLE NOT NULL,              -- as given to the denoiser
        sigma DOUBLE NOT NULL,                 -- noise over signal of the latents at that call, measured
        told_sigma DOUBLE NOT NULL,            -- noise over signal that the timestep names to the denoiser
        log_snr DOUBLE NOT NULL,               -- log of signal-to-noise power ratio: -2 log sigma
        PRIMARY KEY (model_id, config_id, call_index)
    );
    CREATE TABLE schedule_settings (           -- every setting of a lane's scheduler, and where it comes from
        model_id VARCHAR NOT NULL,
        config_id VARCHAR NOT NULL,
        setting VARCHAR NOT NULL,
        value JSON NOT NULL,
        origin VARCHAR NOT NULL,               -- lane, table, lab, model, default; ignored: the class does not take it
        replaced JSON,                         -- the model's own value, if another stands in its place
        PRIMARY KEY (model_id, config_id, setting)
    );
    CREATE TABLE schedule_findings (           -- what is remarkable about a lane
        model_id VARCHAR NOT NULL,
        config_id VARCHAR NOT NULL,
        position INTEGER NOT NULL,
        severity VARCHAR NOT NULL,             -- info, warning or error
        code VARCHAR NOT NULL,
        message VARCHAR NOT NULL,
        PRIMARY KEY (model_id, config_id, position)
    );
    CREATE TABLE noise_floors (                -- distance between runs of one cell that should be equal
        environment_id VARCHAR NOT NULL,
        model_id VARCHAR NOT NULL,
        config_id VARCHAR NOT NULL,
        lane VARCHAR NOT NULL,
        dtype VARCHAR NOT NULL,                -- number format of the study, which the variation departs from
        guidance_scale DOUBLE NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        variation VARCHAR NOT NULL,            -- again, batch 2, batch 8, float16, bfloat16, compiled
        metric VARCHAR NOT NULL,               -- latent_error: relative L2; picture_rms: 0..255
        n INTEGER NOT NULL,                    -- cells compared; 0: could not be run, see reason
        median DOUBLE,
        largest DOUBLE,
        reason VARCHAR,                        -- why there is no figure
        created_at TIMESTAMP NOT NULL,
        PRIMARY KEY (environment_id, model_id, config_id, dtype, guidance_scale, width, height, variation, metric)
    );
    """,
)
