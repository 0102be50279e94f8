"""The tables of the cache, as numbered migrations. The schema is public: users query it with SQL.

Every column is documented beside it. Times are UTC. Ids are digests: equal content has the same id on every machine, so
that caches can be merged.

Columns of bytes are kept as they are: pictures are compressed already, and looking for a way to compress them once more
took two thirds of a commit's time.

Caches of release 0.1.0 have schema 6 and are converted by `release_010`. Every later change of the schema is a
migration of its own, with the next number.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Migration:
    """One change of the schema, committed together with its record in `schema_migrations`."""

    version: int
    name: str
    sql: str


_STUDIES = """
CREATE TABLE studies (
    study_id VARCHAR PRIMARY KEY,          -- name of the study
    name VARCHAR NOT NULL,                 -- the same, as displayed
    spec JSON NOT NULL,                    -- the whole study as it was last run
    created_at TIMESTAMP NOT NULL,         -- when it was first run
    updated_at TIMESTAMP NOT NULL          -- when it was last run
);
CREATE TABLE study_trajectories (          -- the cells of a study, in order
    study_id VARCHAR NOT NULL,             -- of `studies`
    trajectory_id VARCHAR NOT NULL,        -- not in `trajectories` until it has run
    lane VARCHAR NOT NULL,                 -- the lane's name in this study
    position INTEGER NOT NULL,             -- index among the study's cells, from 0
    PRIMARY KEY (study_id, trajectory_id)
);
CREATE TABLE study_references (            -- converged solutions, one pair per prompt and seed
    study_id VARCHAR NOT NULL,             -- of `studies`
    reference_id VARCHAR NOT NULL,         -- trajectory of the reference, not among the study's cells
    check_id VARCHAR NOT NULL,             -- trajectory of another solver, which must agree
    tolerance DOUBLE NOT NULL,             -- largest distance that counts as agreement
    distance DOUBLE,                       -- relative L2 between their latents; NULL: one of them is missing
    PRIMARY KEY (study_id, reference_id)
);
CREATE TABLE study_metrics (               -- metrics of a study and their versions when it was last scored
    study_id VARCHAR NOT NULL,             -- of `studies`
    scope VARCHAR NOT NULL,                -- as in `metrics`
    metric VARCHAR NOT NULL,               -- key
    metric_version VARCHAR NOT NULL,       -- as in `metrics`
    position INTEGER NOT NULL,             -- index among the study's metrics, from 0
    unavailable VARCHAR,                   -- why it could not be measured at all, and the remedy
    PRIMARY KEY (study_id, scope, metric)
);
CREATE TABLE study_swaps (                 -- prompt swaps of a study
    study_id VARCHAR NOT NULL,             -- of `studies`
    swap_id VARCHAR NOT NULL,              -- of `commitment`
    position INTEGER NOT NULL,             -- index among the study's swaps, from 0
    PRIMARY KEY (study_id, swap_id)
);
"""

_CELLS = """
CREATE TABLE environments (
    environment_id VARCHAR PRIMARY KEY,    -- digest of the other columns
    device VARCHAR NOT NULL,               -- cuda, mps or cpu
    device_name VARCHAR NOT NULL,          -- name of the GPU or CPU
    memory VARCHAR NOT NULL,               -- standard, low (offload), or slicing (attention slicing as well)
    torch VARCHAR NOT NULL,                -- its version
    diffusers VARCHAR NOT NULL,            -- its version
    details JSON NOT NULL                  -- python, system, processor, cores, further versions
);
CREATE TABLE models (
    model_id VARCHAR PRIMARY KEY,          -- first 16 characters of the fingerprint
    source VARCHAR NOT NULL,               -- bundled, gaussian, a folder or a hub id
    revision VARCHAR NOT NULL,             -- commit on the hub, or empty
    fingerprint VARCHAR NOT NULL,          -- SHA-256 over every file that is loaded
    family VARCHAR NOT NULL,               -- pipeline class
    parameters BIGINT,                     -- of all components together
    scheduler_config JSON NOT NULL         -- the scheduler configuration that came with the model
);
CREATE TABLE trajectories (
    trajectory_id VARCHAR PRIMARY KEY,     -- digest of everything that changes the pixels
    model_id VARCHAR NOT NULL,             -- of `models`
    environment_id VARCHAR NOT NULL,       -- where it was computed
    scheduler VARCHAR NOT NULL,            -- key of the scheduler
    scheduler_label VARCHAR NOT NULL,      -- its display name
    steps INTEGER NOT NULL,                -- num_inference_steps
    lane VARCHAR NOT NULL,                 -- scheduler:steps
    config_id VARCHAR NOT NULL,            -- digest of class, code and configuration of the lane
    scheduler_config JSON,                 -- resolved: every value the scheduler used
    prompt VARCHAR NOT NULL,               -- as given to the model
    negative_prompt VARCHAR NOT NULL,      -- as given to the model; often empty
    seed BIGINT NOT NULL,                  -- of the initial noise
    guidance_scale DOUBLE NOT NULL,        -- of classifier-free guidance; no guidance up to 1
    width INTEGER NOT NULL,                -- pixels
    height INTEGER NOT NULL,               -- pixels
    dtype VARCHAR NOT NULL,                -- number format of the computation
    nfe INTEGER,                           -- denoiser calls, counted
    frame_count INTEGER NOT NULL,          -- frames requested; fewer are stored if there are fewer steps
    frame_kinds VARCHAR NOT NULL,          -- their kinds, comma separated
    status VARCHAR NOT NULL CHECK (status IN ('done', 'failed')), -- done, or failed
    error VARCHAR,                         -- why it failed
    created_at TIMESTAMP NOT NULL          -- when it was written
);
CREATE TABLE frames (
    trajectory_id VARCHAR NOT NULL,        -- of `trajectories`
    kind VARCHAR NOT NULL,                 -- x0: clean-image estimate, xt: noisy image, final
    step_index INTEGER NOT NULL,           -- index of the denoiser call, from 0; final: the last one
    video_frame INTEGER NOT NULL,          -- 0 for pictures
    progress DOUBLE NOT NULL,              -- (step_index + 1) / calls; not a physical variable
    timestep DOUBLE,                       -- as given to the denoiser
    log_snr DOUBLE,                        -- log of signal-to-noise power ratio at that call
    width INTEGER NOT NULL,                -- pixels
    height INTEGER NOT NULL,               -- pixels
    format VARCHAR NOT NULL,               -- png (lossless, all finals) or webp
    image BLOB NOT NULL USING COMPRESSION uncompressed -- the encoded picture
);
CREATE TABLE latents (                     -- final latents, for distances without decoding
    trajectory_id VARCHAR PRIMARY KEY,     -- of `trajectories`
    shape VARCHAR NOT NULL,                -- e.g. 4x64x64; for videos channels x frames x height x width
    data BLOB NOT NULL USING COMPRESSION uncompressed -- float32, little endian, C order
);
CREATE TABLE steps (                       -- measurements of each denoiser call, in latent space
    trajectory_id VARCHAR NOT NULL,        -- of `trajectories`
    step_index INTEGER NOT NULL,           -- denoiser call, from 0
    progress DOUBLE NOT NULL,              -- (step_index + 1) / calls; not a physical variable
    log_snr DOUBLE,                        -- log of signal-to-noise power ratio at that call
    x0_change DOUBLE,                      -- root mean square change of x0 since the call before
    x0_distance DOUBLE,                    -- relative L2 of x0 to the final latents; measured steps only
    motion_energy DOUBLE,                  -- mean squared difference of neighbouring frames of x0's latents; clips only
    guidance_energy DOUBLE,                -- relative L2 between the predictions with and without the prompt
    power DOUBLE[],                        -- power of x0 by octave (0, 1, 2, 4, ... cycles), relative to final latents
    coherence DOUBLE[],                    -- correlation of x0 with the final latents, by octave
    sketch BLOB USING COMPRESSION uncompressed -- x0 as 128 x float16, little endian; see engine/sampling/spectra.py
);
CREATE TABLE timings (                     -- raw samples, one row per repeat and stage
    environment_id VARCHAR NOT NULL,       -- where it was timed
    model_id VARCHAR NOT NULL,             -- of `models`
    scheduler VARCHAR NOT NULL,            -- key of the scheduler
    steps INTEGER NOT NULL,                -- num_inference_steps
    lane VARCHAR NOT NULL,                 -- scheduler:steps
    config_id VARCHAR NOT NULL,            -- digest of class, code and configuration of the lane
    width INTEGER NOT NULL,                -- pixels
    height INTEGER NOT NULL,               -- pixels
    dtype VARCHAR NOT NULL,                -- number format of the computation
    guided BOOLEAN NOT NULL,               -- guidance scale above 1: two denoiser rows per picture
    batch_size INTEGER NOT NULL,           -- pictures per call of the pipeline
    repeat INTEGER NOT NULL,               -- from 0; warm-up runs are not stored
    stage VARCHAR NOT NULL,                -- text, denoiser, scheduler, decode, other, total
    seconds DOUBLE NOT NULL,               -- wall time of the whole batch
    nfe INTEGER NOT NULL,                  -- denoiser calls
    created_at TIMESTAMP NOT NULL          -- when it was measured
);
"""

_SCORES = """
CREATE TABLE metrics (                     -- descriptions of metrics, by version
    scope VARCHAR NOT NULL,                -- picture: finished (or a clip); frame: x0 of a step; lane: all pictures
    metric VARCHAR NOT NULL,               -- key
    metric_version VARCHAR NOT NULL,       -- 1, or with whatever else values depend on: 1@REFERENCE@WEIGHTS
    label VARCHAR NOT NULL,                -- display name
    unit VARCHAR NOT NULL,                 -- of its values; empty for plain numbers
    direction VARCHAR NOT NULL,            -- which is better: higher, lower, or neither
    smallest_n INTEGER NOT NULL,           -- fewest pairs of cells (lane: pictures) for a verdict
    trusted_n INTEGER,                     -- fewest pictures for a lane's value without a warning
    has_true_zero BOOLEAN NOT NULL,        -- whether ratios are meaningful
    span DOUBLE,                           -- largest minus smallest possible value, if bounded
    margin DOUBLE,                         -- equivalence margin; NULL: 0.3 of the baseline's seed-to-seed noise
    needs_reference BOOLEAN NOT NULL,      -- whether it compares with the converged solution
    may_guard BOOLEAN NOT NULL,            -- whether a decision may use it as a guard
    description VARCHAR NOT NULL,          -- definition in one line
    PRIMARY KEY (scope, metric, metric_version)
);
CREATE TABLE scores (                      -- a metric's value, or the reason why there is none
    scope VARCHAR NOT NULL CHECK (scope IN ('picture', 'frame', 'lane')), -- what was measured
    trajectory_id VARCHAR,                 -- picture, frame: the cell
    study_id VARCHAR,                      -- lane: the study
    lane VARCHAR,                          -- lane: its name in the study
    against VARCHAR,                       -- lane: the baseline's lane, or that of the converged reference
    kind VARCHAR,                          -- frame: x0
    step_index INTEGER,                    -- frame: denoiser call; NULL: the reason applies to all frames of the cell
    video_frame INTEGER,                   -- frame: index in a video if only one was measured; NULL: all of the step
    metric VARCHAR NOT NULL,               -- key
    metric_version VARCHAR NOT NULL,       -- as in `metrics`
    value DOUBLE,                          -- NULL: none, see reason
    reason VARCHAR,                        -- why there is no value; "failed: ..." is tried again
    warning VARCHAR,                       -- lane: why the value is unreliable
    n INTEGER,                             -- lane: pictures on each side, with prompts and seeds in common
    prompts INTEGER,                       -- lane: number of prompts among them
    low DOUBLE,                            -- lane: lower end of the 95 % interval over prompts
    high DOUBLE,                           -- lane: upper end of the 95 % interval over prompts
    standard_error DOUBLE,                 -- lane: delete-a-group jackknife over prompts
    features VARCHAR,                      -- lane: network that embeds the pictures, and digest of its weights
    set_id VARCHAR,                        -- lane: digest of the cells on both sides; scored again when it changes
    created_at TIMESTAMP,                  -- lane: when it was measured
    CHECK ((value IS NULL) <> (reason IS NULL)),
    CHECK ((scope = 'lane') = (trajectory_id IS NULL)),
    CHECK (scope <> 'lane' OR (study_id IS NOT NULL AND lane IS NOT NULL AND against IS NOT NULL))
);
CREATE TABLE votes (                       -- a voter's choice between two pictures of the same prompt and seed
    vote_id VARCHAR PRIMARY KEY,           -- digest of study, voter and pair: one vote per voter and pair
    study_id VARCHAR NOT NULL,             -- of `studies`
    voter VARCHAR NOT NULL,                -- random id of a browser
    check_kind VARCHAR NOT NULL,           -- none; or an attention check: identical, or obvious
    left_id VARCHAR NOT NULL,              -- trajectory shown on the left
    right_id VARCHAR NOT NULL,             -- trajectory shown on the right
    left_lane VARCHAR NOT NULL,            -- lane of the left picture
    right_lane VARCHAR NOT NULL,           -- lane of the right picture
    prompt VARCHAR NOT NULL,               -- of both
    seed BIGINT NOT NULL,                  -- of both
    choice VARCHAR NOT NULL CHECK (choice IN ('left', 'right', 'same')), -- left, right or same
    seconds DOUBLE NOT NULL,               -- from showing the pair to the choice
    created_at TIMESTAMP NOT NULL          -- when it was cast
);
"""

_LANES = """
CREATE TABLE lints (                       -- lint results, one row per lane and model
    model_id VARCHAR NOT NULL,             -- model whose scheduler configuration the lane starts from
    config_id VARCHAR NOT NULL,            -- as in trajectories: class, code, configuration and steps of the lane
    lint_version INTEGER NOT NULL,         -- raised whenever results for the same lane change
    calls INTEGER,                         -- denoiser calls; NULL: the scheduler raised, see findings
    final_sigma DOUBLE,                    -- noise level of the finished latents
    -- Timestep as given to the denoiser; sigma (noise over signal) measured in the latents, and as implied by the
    -- timestep (told_sigma); log of the signal-to-noise power ratio, -2 log sigma.
    levels STRUCT(timestep DOUBLE, sigma DOUBLE, told_sigma DOUBLE, log_snr DOUBLE)[] NOT NULL, -- by call
    -- Every setting of the scheduler. Origin: lane, table, lab, model, default, or ignored (not taken by the class).
    -- Replaced: the model's own value, if it was overridden.
    settings STRUCT(setting VARCHAR, "value" JSON, origin VARCHAR, replaced JSON)[] NOT NULL, -- by name
    findings STRUCT(severity VARCHAR, code VARCHAR, message VARCHAR)[] NOT NULL, -- info, warning or error; worst first
    created_at TIMESTAMP NOT NULL,         -- when it was linted
    PRIMARY KEY (model_id, config_id)
);
CREATE TABLE noise_floors (                -- distance between runs of a cell that should be equal
    environment_id VARCHAR NOT NULL,       -- where they were computed
    model_id VARCHAR NOT NULL,             -- of `models`
    config_id VARCHAR NOT NULL,            -- of the lane
    lane VARCHAR NOT NULL,                 -- scheduler:steps
    dtype VARCHAR NOT NULL,                -- number format of the study, to which variations are compared
    guidance_scale DOUBLE NOT NULL,        -- as in trajectories
    width INTEGER NOT NULL,                -- pixels
    height INTEGER NOT NULL,               -- pixels
    variation VARCHAR NOT NULL,            -- again, batch 2, batch 8, float16, bfloat16, compiled
    metric VARCHAR NOT NULL,               -- latent_error: relative L2; picture_rms: 0..255
    n INTEGER NOT NULL,                    -- cells compared; 0: it could not be run, see reason
    median DOUBLE,                         -- over these cells
    largest DOUBLE,                        -- over these cells
    reason VARCHAR,                        -- why there is no figure
    created_at TIMESTAMP NOT NULL,         -- when it was measured
    PRIMARY KEY (environment_id, model_id, config_id, dtype, guidance_scale, width, height, variation, metric)
);
CREATE TABLE commitment (                  -- runs that start with one prompt and end with another
    swap_id VARCHAR PRIMARY KEY,           -- digest of both cells and the share of calls before the swap
    environment_id VARCHAR NOT NULL,       -- where it was computed
    model_id VARCHAR NOT NULL,             -- of `models`
    lane VARCHAR NOT NULL,                 -- scheduler:steps
    first_id VARCHAR NOT NULL,             -- the cell of the first prompt alone, with the same seed and lane
    second_id VARCHAR NOT NULL,            -- the cell of the second prompt alone
    first_prompt VARCHAR NOT NULL,         -- prompt before the swap
    second_prompt VARCHAR NOT NULL,        -- prompt after the swap
    seed BIGINT NOT NULL,                  -- of the initial noise
    guidance_scale DOUBLE NOT NULL,        -- as in trajectories
    share DOUBLE NOT NULL,                 -- requested share of calls with the first prompt, 0 to 1
    calls INTEGER,                         -- denoiser calls of the run
    swap_call INTEGER,                     -- first call with the second prompt, from 0; calls if there is none
    progress DOUBLE,                       -- swap_call / calls
    log_snr DOUBLE,                        -- of that call; NULL if there is none
    first_distance DOUBLE,                 -- relative L2 of the final latents to those of the first prompt alone
    second_distance DOUBLE,                -- relative L2 to those of the second prompt alone
    first_probability DOUBLE,              -- CLIP's probability of the first prompt over the second; NULL: no CLIP
    judge VARCHAR,                         -- name and digest of that CLIP model
    image BLOB USING COMPRESSION uncompressed, -- the final picture as WebP, for display only
    error VARCHAR,                         -- why the run failed
    created_at TIMESTAMP NOT NULL          -- when it was computed
);
"""

_DECISIONS = """
CREATE TABLE decisions (                   -- searches for the cheapest lane as good as the baseline
    study_id VARCHAR PRIMARY KEY,          -- of `studies`
    terms JSON NOT NULL,                   -- fixed before any candidate was measured: guards, margins, order of lanes
    state JSON NOT NULL,                   -- progress of the search: prompts used and left, failed cells, obstacles
    -- Evidence by lane and guard: one value per prompt, in the order of the terms, over all its seeds. The share of
    -- seeds with the event, or lane minus baseline (higher is better); NULL: none yet. Guards: other_picture,
    -- excess_error, or the key of a metric.
    evidence STRUCT(lane VARCHAR, guard VARCHAR, "values" DOUBLE[])[] NOT NULL, -- by lane and guard
    fixed_at TIMESTAMP NOT NULL            -- when the terms were fixed
);
"""

_LOAD = """
ALTER TABLE timings ADD COLUMN other_load DOUBLE; -- cores that other processes kept busy meanwhile; NULL: not known
"""

_FORESIGHT = """
ALTER TABLE lints ADD COLUMN dry_run JSON; -- a call whose denoiser says nothing: how it went, what it was given
ALTER TABLE trajectories ADD COLUMN reading VARCHAR; -- digest of what the model reads of the prompt: equal ones are one
"""

_INPUTS = """
CREATE TABLE input_pictures (              -- picture files that pipelines start from; specs name them by digest
    sha256 VARCHAR PRIMARY KEY,            -- of the file
    image BLOB NOT NULL USING COMPRESSION uncompressed -- the file as it was
);
"""

_DIGESTS = """
ALTER TABLE frames ADD COLUMN digest VARCHAR; -- first half of the picture's MD5 when it was written; NULL: older rows
"""

_ENERGY = """
ALTER TABLE timings ADD COLUMN joules DOUBLE; -- of the whole batch, stage total only; NULL: see energy
ALTER TABLE timings ADD COLUMN energy VARCHAR; -- what counted the joules, or why nothing did; stage total only
"""

_BATCHES = """
ALTER TABLE trajectories ADD COLUMN max_batch INTEGER; -- most cells that could share its forwards; NULL: older rows
ALTER TABLE trajectories ADD COLUMN max_batch_by VARCHAR; -- --max-batch, free/out of memory, picture size, memory mode
"""

_DECODERS = """
ALTER TABLE trajectories ADD COLUMN frame_decoder VARCHAR; -- of step frames: full, or tiny and a digest; NULL: full
"""

_ARGUMENTS = """
ALTER TABLE timings ADD COLUMN arguments VARCHAR DEFAULT ''; -- digest of further arguments of the call; '': none
ALTER TABLE timings ALTER COLUMN arguments SET NOT NULL;
ALTER TABLE studies ADD COLUMN arguments VARCHAR DEFAULT ''; -- the same digest; its times are those that have it
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(7, "tables of release 0.2", "".join([_STUDIES, _CELLS, _SCORES, _LANES])),
    Migration(8, "decisions", _DECISIONS),
    Migration(9, "load of the machine beside each time", _LOAD),
    Migration(10, "what is known before cells are made", _FORESIGHT),
    Migration(11, "pictures that pipelines start from", _INPUTS),
    Migration(12, "digests of pictures", _DIGESTS),
    Migration(13, "energy of timed calls", _ENERGY),
    Migration(14, "how many cells shared a forward, and why", _BATCHES),
    Migration(15, "what decoded step frames", _DECODERS),
    Migration(16, "arguments of timed calls", _ARGUMENTS),
)

SCHEMA_VERSION = MIGRATIONS[-1].version

CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY,           -- number of the migration
    name VARCHAR NOT NULL,                 -- what it added
    applied_at TIMESTAMP NOT NULL          -- when it was applied to this file
);
"""
