"""What each lane really ran, and how well the arithmetic repeats."""

from engine.cache.migration import Migration

MIGRATION = Migration(
    4,
    "schedules and noise floors",
    """
    CREATE TABLE schedules (                   -- the noise levels of a lane, call by call
        config_id VARCHAR NOT NULL,            -- as in trajectories: class, code and configuration of the lane
        steps INTEGER NOT NULL,
        call_index INTEGER NOT NULL,           -- denoiser call, from 0
        timestep DOUBLE NOT NULL,              -- as given to the denoiser
        sigma DOUBLE,                          -- noise level in units of the clean latents
        log_snr DOUBLE,
        PRIMARY KEY (config_id, steps, call_index)
    );
    CREATE TABLE schedule_findings (           -- what is remarkable about a lane's configuration
        config_id VARCHAR NOT NULL,
        steps INTEGER NOT NULL,
        position INTEGER NOT NULL,
        severity VARCHAR NOT NULL,             -- info, warning or error
        code VARCHAR NOT NULL,
        message VARCHAR NOT NULL,
        PRIMARY KEY (config_id, steps, position)
    );
    CREATE TABLE noise_floors (                -- distance between runs of one cell that should be equal
        environment_id VARCHAR NOT NULL,
        model_id VARCHAR NOT NULL,
        config_id VARCHAR NOT NULL,
        lane VARCHAR NOT NULL,
        variation VARCHAR NOT NULL,            -- batch size, dtype, compiled
        metric VARCHAR NOT NULL,
        n INTEGER NOT NULL,
        median DOUBLE NOT NULL,
        largest DOUBLE NOT NULL,
        created_at TIMESTAMP NOT NULL,
        PRIMARY KEY (environment_id, model_id, config_id, variation, metric)
    );
    """,
)
