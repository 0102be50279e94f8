"""Every table of the cache: its keys, and what its rows depend on.

Writing (`rows`), export and import follow this list; a test compares it with the schema, so that no table is forgotten.
"""

from dataclasses import dataclass
from typing import Literal

# What a row depends on; decides whether it is imported from another cache:
# - cell: part of a cell; moves with it.
# - score: measured on a cell's picture; imported if the picture is the same here.
# - study: belongs to the study named in `study_id`.
# - shared: independent; used by any number of studies.
Kind = Literal["cell", "score", "study", "shared"]


@dataclass(frozen=True)
class CacheTable:
    """A table of the cache, or the part of it whose rows depend on one kind of thing.

    Attributes:
        kind: What its rows depend on.
        unit: Columns that identify a group of rows imported as a whole; never NULL.
        of_study: SQL condition for the rows of a shared table that a study needs; see `scope`.
        only: SQL condition for the rows this entry stands for; all by default.
        key: Columns that identify a group of rows written as a whole; the unit by default.
        on_write: Whether writing a key again replaces the existing rows or keeps them.
    """

    name: str
    kind: Kind
    unit: tuple[str, ...]
    of_study: str = ""
    only: str = "true"
    key: tuple[str, ...] = ()
    on_write: Literal["replace", "keep"] = "replace"


_CELLS = """
    SELECT trajectory_id FROM study_trajectories WHERE study_id = $study
    UNION SELECT reference_id FROM study_references WHERE study_id = $study
    UNION SELECT check_id FROM study_references WHERE study_id = $study
    UNION SELECT first_id FROM commitment JOIN study_swaps USING (swap_id) WHERE study_id = $study
    UNION SELECT second_id FROM commitment JOIN study_swaps USING (swap_id) WHERE study_id = $study
"""
_RUNS = f"(SELECT * FROM trajectories WHERE trajectory_id IN ({_CELLS}))"
_SWAPS = "SELECT swap_id FROM study_swaps WHERE study_id = $study"
_OF_LANES = f"(model_id, config_id) IN (SELECT (model_id, config_id) FROM {_RUNS})"
_TIMED = f"""(model_id, config_id, width, height, dtype, guided, arguments) IN (
    SELECT (model_id, config_id, width, height, dtype, guidance_scale > 1, arguments)
    FROM {_RUNS}, (SELECT arguments FROM studies WHERE study_id = $study))"""
# A picture metric may also be measured on frames.
_USED_METRICS = f"""(scope, metric, metric_version) IN (
    SELECT (scope, metric, metric_version) FROM study_metrics WHERE study_id = $study
    UNION SELECT (m.scope, metric, metric_version) FROM scores s JOIN metrics m USING (metric, metric_version)
    WHERE (s.scope = m.scope OR s.scope = 'frame') AND (s.study_id = $study OR s.trajectory_id IN ({_CELLS})))"""
_ENVIRONMENTS = f"""environment_id IN (
    SELECT environment_id FROM {_RUNS}
    UNION SELECT environment_id FROM timings WHERE {_TIMED}
    UNION SELECT environment_id FROM noise_floors WHERE {_OF_LANES}
    UNION SELECT environment_id FROM commitment WHERE swap_id IN ({_SWAPS}))"""
_MODELS = f"""model_id IN (
    SELECT model_id FROM {_RUNS}
    UNION SELECT model_id FROM commitment WHERE swap_id IN ({_SWAPS}))"""
# The settings of a study name its pictures by digest.
_STARTED_FROM = "EXISTS (SELECT 1 FROM studies WHERE study_id = $study AND contains(spec::VARCHAR, sha256))"
_LANE = ("model_id", "config_id")
_SIZE = ("dtype", "guidance_scale", "width", "height")
_SAMPLE = ("width", "height", "dtype", "guided", "arguments", "batch_size", "repeat")
_VERSION = ("metric", "metric_version")
# NULL where it does not apply: a picture score has no lane, a lane score no cell.
_SCORED = ("trajectory_id", "study_id", "lane", "against", *_VERSION)

TABLES: tuple[CacheTable, ...] = (
    CacheTable("environments", "shared", ("environment_id",), _ENVIRONMENTS, on_write="keep"),
    CacheTable("models", "shared", ("model_id",), _MODELS, on_write="keep"),
    CacheTable("metrics", "shared", ("scope", *_VERSION), _USED_METRICS),
    CacheTable("timings", "shared", ("environment_id", *_LANE, *_SAMPLE), _TIMED),
    CacheTable("lints", "shared", _LANE, _OF_LANES),
    CacheTable("noise_floors", "shared", ("environment_id", *_LANE, *_SIZE, "variation", "metric"), _OF_LANES),
    CacheTable("commitment", "shared", ("swap_id",), f"swap_id IN ({_SWAPS})"),
    CacheTable("input_pictures", "shared", ("sha256",), _STARTED_FROM, on_write="keep"),
    CacheTable("trajectories", "cell", ("trajectory_id",)),
    CacheTable("frames", "cell", ("trajectory_id",)),
    CacheTable("latents", "cell", ("trajectory_id",)),
    CacheTable("steps", "cell", ("trajectory_id",)),
    CacheTable("scores", "score", ("scope", "trajectory_id", *_VERSION), only="scope <> 'lane'", key=_SCORED),
    CacheTable("scores", "study", ("study_id", "lane", "against", *_VERSION), only="scope = 'lane'", key=_SCORED),
    CacheTable("studies", "study", ("study_id",)),
    CacheTable("study_trajectories", "study", ("study_id", "trajectory_id")),
    CacheTable("study_metrics", "study", ("study_id", "scope", "metric")),
    CacheTable("study_references", "study", ("study_id", "reference_id")),
    CacheTable("study_swaps", "study", ("study_id", "swap_id")),
    CacheTable("decisions", "study", ("study_id",)),
    CacheTable("votes", "study", ("vote_id",), on_write="keep"),
)


def named(name: str) -> CacheTable:
    """The entry of a table; the first one if it has two, since both are written alike."""
    return next(table for table in TABLES if table.name == name)


def of_kind(kind: Kind) -> list[CacheTable]:
    """The tables of a kind, in writing order."""
    return [table for table in TABLES if table.kind == kind]


def scope(table: CacheTable) -> str:
    """SQL condition for the rows of a table that belong to one study; its parameter is $study."""
    if table.kind == "study":
        return f"study_id = $study AND {table.only}"
    return table.of_study or f"trajectory_id IN ({_CELLS}) AND {table.only}"
