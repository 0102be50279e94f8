"""Every table of the cache: which rows are one thing, and what they hang on. Export and import are drawn from this.

A test compares it with the migrations, so that a new table cannot be forgotten.
"""

from dataclasses import dataclass
from typing import Literal

# What a row hangs on, and so what decides whether it is taken from another cache:
# - cell: part of a run; goes wherever its cell goes.
# - score: measured on a cell's picture; taken where the picture is the same.
# - study: says something about a study; carries its name in `study_id`.
# - shared: stands by itself; used by any number of studies.
Kind = Literal["cell", "score", "study", "shared"]


@dataclass(frozen=True)
class Table:
    """A table of the cache.

    Attributes:
        kind: What its rows hang on.
        unit: Columns whose values are equal in all rows that are taken or left together; none of them is NULL.
        decided_by: The table that is asked whether a unit is here already; itself unless given.
        of_study: Which rows of a shared table a study needs, as an SQL condition; see `scope`.
    """

    name: str
    kind: Kind
    unit: tuple[str, ...]
    of_study: str = ""
    decided_by: str = ""

    @property
    def decider(self) -> str:
        """The table that is asked whether a unit is here already."""
        return self.decided_by or self.name


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
_TIMED = f"""(model_id, config_id, width, height, dtype, guided) IN (
    SELECT (model_id, config_id, width, height, dtype, guidance_scale > 1) FROM {_RUNS})"""
_USED_METRICS = f"""(metric, metric_version) IN (
    SELECT (metric, metric_version) FROM study_metrics WHERE study_id = $study
    UNION SELECT (metric, metric_version) FROM quality WHERE trajectory_id IN ({_CELLS})
    UNION SELECT (metric, metric_version) FROM unscored WHERE trajectory_id IN ({_CELLS})
    UNION SELECT (metric, metric_version) FROM frame_quality WHERE trajectory_id IN ({_CELLS}))"""
_USED_SET_METRICS = """(metric, metric_version) IN (
    SELECT (metric, metric_version) FROM study_set_metrics WHERE study_id = $study
    UNION SELECT (metric, metric_version) FROM set_quality WHERE study_id = $study)"""
_LANE = ("model_id", "config_id")
_SCORE = ("trajectory_id", "metric", "metric_version")

TABLES: tuple[Table, ...] = (
    Table(
        "environments",
        "shared",
        ("environment_id",),
        f"""environment_id IN (
        SELECT environment_id FROM {_RUNS}
        UNION SELECT environment_id FROM timings WHERE {_TIMED}
        UNION SELECT environment_id FROM noise_floors WHERE {_OF_LANES}
        UNION SELECT environment_id FROM commitment WHERE swap_id IN ({_SWAPS}))""",
    ),
    Table(
        "models",
        "shared",
        ("model_id",),
        f"""model_id IN (
        SELECT model_id FROM {_RUNS}
        UNION SELECT model_id FROM commitment WHERE swap_id IN ({_SWAPS}))""",
    ),
    Table("metrics", "shared", ("metric", "metric_version"), _USED_METRICS),
    Table("set_metrics", "shared", ("metric", "metric_version"), _USED_SET_METRICS),
    Table(
        "timings",
        "shared",
        ("environment_id", *_LANE, "width", "height", "dtype", "guided", "batch_size", "repeat"),
        _TIMED,
    ),
    # A lane's schedule, settings and findings go with its row in `lints`, which comes last.
    Table("schedules", "shared", _LANE, _OF_LANES, "lints"),
    Table("schedule_settings", "shared", _LANE, _OF_LANES, "lints"),
    Table("schedule_findings", "shared", _LANE, _OF_LANES, "lints"),
    Table("lints", "shared", _LANE, _OF_LANES),
    Table(
        "noise_floors",
        "shared",
        ("environment_id", *_LANE, "dtype", "guidance_scale", "width", "height", "variation", "metric"),
        _OF_LANES,
    ),
    Table("commitment", "shared", ("swap_id",), f"swap_id IN ({_SWAPS})"),
    Table("trajectories", "cell", ("trajectory_id",)),
    Table("frames", "cell", ("trajectory_id",)),
    Table("latents", "cell", ("trajectory_id",)),
    Table("step_metrics", "cell", ("trajectory_id",)),
    Table("step_sketches", "cell", ("trajectory_id",)),
    Table("quality", "score", _SCORE),
    Table("unscored", "score", _SCORE),
    Table("frame_quality", "score", _SCORE),
    Table("studies", "study", ("study_id",)),
    Table("study_trajectories", "study", ("study_id", "trajectory_id")),
    Table("study_metrics", "study", ("study_id", "metric")),
    Table("study_set_metrics", "study", ("study_id", "metric")),
    Table("study_references", "study", ("study_id", "reference_id")),
    Table("study_swaps", "study", ("study_id", "swap_id")),
    Table("frame_metrics", "study", ("study_id", "metric")),
    Table("votes", "study", ("vote_id",)),
    Table("set_quality", "study", ("study_id", "lane", "against", "metric", "metric_version")),
)


def of_kind(kind: Kind) -> list[Table]:
    """The tables of a kind, in the order they are written."""
    return [table for table in TABLES if table.kind == kind]


def scope(table: Table) -> str:
    """Which rows of a table belong to one study: an SQL condition with the parameter $study."""
    if table.kind == "study":
        return "study_id = $study"
    return table.of_study or f"trajectory_id IN ({_CELLS})"
