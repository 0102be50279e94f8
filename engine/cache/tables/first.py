"""Studies, cells, frames and times."""

from engine.cache.migration import Migration

MIGRATION = Migration(
    1,
    "first tables",
    """
    CREATE TABLE studies (
        study_id VARCHAR PRIMARY KEY,          -- name of the study
        name VARCHAR NOT NULL,
        spec JSON NOT NULL,                    -- the whole study as it was last run
        created_at TIMESTAMP NOT NULL,
        updated_at TIMESTAMP NOT NULL
    );
    CREATE TABLE study_trajectories (          -- which cells a study shows, in its order
        study_id VARCHAR NOT NULL,
        trajectory_id VARCHAR NOT NULL,        -- may be missing from trajectories while a run is going on
        lane VARCHAR NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (study_id, trajectory_id)
    );
    CREATE TABLE environments (
        environment_id VARCHAR PRIMARY KEY,    -- digest of all of the row
        device VARCHAR NOT NULL,               -- cuda, mps or cpu
        device_name VARCHAR NOT NULL,
        memory VARCHAR NOT NULL,               -- standard, or low (attention slicing and offload)
        torch VARCHAR NOT NULL,
        diffusers VARCHAR NOT NULL,
        details JSON NOT NULL                  -- python, system, processor, cores, further versions
    );
    CREATE TABLE models (
        model_id VARCHAR PRIMARY KEY,          -- first 16 characters of the fingerprint
        source VARCHAR NOT NULL,               -- bundled, gaussian, a folder or a hub id
        revision VARCHAR NOT NULL,             -- commit on the hub, or empty
        fingerprint VARCHAR NOT NULL,          -- SHA-256 over every file that is loaded
        family VARCHAR NOT NULL,               -- pipeline class
        parameters BIGINT,                     -- of all parts together
        scheduler_config JSON NOT NULL         -- the scheduler configuration that came with the model
    );
    CREATE TABLE trajectories (
        trajectory_id VARCHAR PRIMARY KEY,     -- digest of everything that changes the pixels
        model_id VARCHAR NOT NULL,
        environment_id VARCHAR NOT NULL,       -- where it was computed
        scheduler VARCHAR NOT NULL,            -- key of the scheduler
        scheduler_label VARCHAR NOT NULL,      -- its name for people
        steps INTEGER NOT NULL,                -- num_inference_steps
        lane VARCHAR NOT NULL,                 -- scheduler:steps
        config_id VARCHAR NOT NULL,            -- digest of class, code and configuration of the lane
        scheduler_config JSON,                 -- resolved: every value the scheduler really used
        prompt VARCHAR NOT NULL,
        negative_prompt VARCHAR NOT NULL,
        seed BIGINT NOT NULL,
        guidance_scale DOUBLE NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        dtype VARCHAR NOT NULL,
        nfe INTEGER,                           -- denoiser calls, counted
        frame_count INTEGER NOT NULL,          -- frames asked for; fewer are there if it has fewer steps
        frame_kinds VARCHAR NOT NULL,          -- their kinds, comma separated
        status VARCHAR NOT NULL CHECK (status IN ('done', 'failed')),
        error VARCHAR,                         -- why it failed
        created_at TIMESTAMP NOT NULL
    );
    CREATE TABLE frames (
        trajectory_id VARCHAR NOT NULL,
        kind VARCHAR NOT NULL,                 -- x0: clean-image estimate, xt: noisy image, final
        step_index INTEGER NOT NULL,           -- denoiser call it belongs to, from 0; final: the last
        video_frame INTEGER NOT NULL,          -- 0 for pictures
        progress DOUBLE NOT NULL,              -- (step_index + 1) / calls; not a physical variable
        timestep DOUBLE,                       -- as given to the denoiser
        log_snr DOUBLE,                        -- log of signal-to-noise power ratio at that call
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        format VARCHAR NOT NULL,               -- png (lossless, all finals) or webp
        image BLOB NOT NULL
    );
    CREATE TABLE latents (                     -- final latents, for distances without decoding
        trajectory_id VARCHAR PRIMARY KEY,
        shape VARCHAR NOT NULL,                -- e.g. 4x64x64; for videos channels x frames x height x width
        data BLOB NOT NULL                     -- float32, little endian, C order
    );
    CREATE TABLE step_metrics (                -- every step, in latent space
        trajectory_id VARCHAR NOT NULL,
        step_index INTEGER NOT NULL,
        progress DOUBLE NOT NULL,
        log_snr DOUBLE,
        metric VARCHAR NOT NULL,
        value DOUBLE NOT NULL
    );
    CREATE TABLE timings (                     -- raw samples, one row per repeat and stage
        environment_id VARCHAR NOT NULL,
        model_id VARCHAR NOT NULL,
        scheduler VARCHAR NOT NULL,
        steps INTEGER NOT NULL,
        lane VARCHAR NOT NULL,
        config_id VARCHAR NOT NULL,            -- digest of class, code and configuration of the lane
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        dtype VARCHAR NOT NULL,
        guided BOOLEAN NOT NULL,               -- guidance scale above 1: two denoiser rows a picture
        batch_size INTEGER NOT NULL,
        repeat INTEGER NOT NULL,               -- from 0; warm-up runs are not stored
        stage VARCHAR NOT NULL,                -- text, denoiser, scheduler, decode, other, total
        seconds DOUBLE NOT NULL,               -- wall time of the whole batch
        nfe INTEGER NOT NULL,
        created_at TIMESTAMP NOT NULL
    );
    CREATE TABLE quality (
        trajectory_id VARCHAR NOT NULL,
        metric VARCHAR NOT NULL,
        metric_version VARCHAR NOT NULL,
        value DOUBLE NOT NULL,
        PRIMARY KEY (trajectory_id, metric, metric_version)
    );
    """,
)
