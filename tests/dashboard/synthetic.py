"""Caches with made-up results, written the way the engine writes them, for tests of the pages."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
from PIL import Image

from dashboard.bench.made_up_rows import CALL_SECONDS, LAPTOP, MODEL, SERVER, drawing, finished_cell, timing_rows
from engine.analysis.calibration import Calibration, other_guard
from engine.analysis.decision import LaneCost, fix_terms
from engine.analysis.fixed_terms import FixedTerms
from engine.analysis.guards import OTHER, Guard
from engine.analysis.pace import by_cost
from engine.cache import queries
from engine.cache.connection import reading
from engine.cache.decision_tables import EvidenceRow, write_evidence, write_terms
from engine.cache.records import FrameRow, TrajectoryRow
from engine.cache.score_tables import MetricRow, ReferenceRow, ScoreRow, record
from engine.cache.score_tables import write_scores as write_score_rows
from engine.cache.writer import CacheWriter
from engine.environment import Environment
from engine.study.cells import Cell, cells, reference_cells
from engine.study.decision_settings import DecisionSettings
from engine.study.frame_settings import FrameSettings
from engine.study.study import Study, parse_study

# What tests take from here, though the bench defines it.
__all__ = ["CALL_SECONDS", "SERVER", "drawing"]

LANES = ("ddim:50", "dpmpp_2m:20", "euler:30", "pndm:35")
HOSTILE = (
    "<script>window.hurt=1</script><img src=x onerror='window.hurt=1'><style>*{display:none}</style> **bold** & `x`"
)
LONG = "a very long prompt " * 526 + "end."


def study(
    name: str = "quick",
    lanes: Sequence[str] = LANES,
    prompts: Sequence[str] = ("red apple", "owl", "rocket"),
    seeds: Sequence[int] = (0, 1),
    repeats: int = 10,
    **more: object,
) -> Study:
    """A study of these lanes; the first is the baseline."""
    data = {
        "name": name,
        "lanes": list(lanes),
        "prompts": list(prompts),
        "seeds": list(seeds),
        "timing": {"repeats": repeats},
        "description": "Made up for tests.",
        **more,
    }
    return parse_study(data)


def write(
    path: Path,
    plan: Study | None = None,
    *,
    failed: Collection[str] = (),
    missing: Collection[str] = (),
    environments: Sequence[Environment] = (LAPTOP,),
    timed: bool = True,
    pictures: bool = True,
) -> Study:
    """Writes the results of a study.

    Args:
        path: The cache file; made if need be.
        plan: The study; `study()` unless given.
        failed: Lanes whose cells all failed.
        missing: Lanes whose cells have not run.
        environments: Where it was timed; the images come from the first.
        timed: Whether there are timing samples.
        pictures: Whether there are any pictures at all.
    """
    plan = plan or study()
    writer = CacheWriter(path)
    planned = begin(writer, plan, environments[0])
    rows = [
        outcome(cell, plan.frames, failed=cell.lane.key in failed, pictures=pictures)
        for cell in planned
        if cell.lane.key not in missing
    ]
    writer.trajectories(rows, MODEL, environments[0])
    if timed:
        lanes = {cell.lane.key: cell for cell in planned if cell.lane.key not in {*failed, *missing}}
        for environment in environments:
            writer.begin(plan, planned, MODEL, environment)
            known = _timed(path, environment)
            new = [cell for cell in lanes.values() if cell.config_id not in known]
            writer.timings([row for cell in new for row in timing_rows(cell, plan, environment)], MODEL, environment)
    return plan


def _timed(path: Path, environment: Environment) -> set[str]:
    with reading(path) as db:
        return {key[0] for key in queries.timed_repeats(db, environment.environment_id, MODEL.model_id, True)}


def begin(writer: CacheWriter, plan: Study, environment: Environment = LAPTOP) -> list[Cell]:
    """Records a study whose cells have yet to run, and returns them."""
    planned = cells(plan, MODEL, "cpu")
    writer.begin(plan, planned, MODEL, environment)
    return planned


def outcome(cell: Cell, settings: FrameSettings, *, failed: bool = False, pictures: bool = True) -> TrajectoryRow:
    """The row of a cell that has run."""
    row = finished_cell(cell, settings, pictures=pictures and not failed)
    if failed:
        error = f"ValueError: no step for {HOSTILE}"
        return replace(row, status="failed", error=error, nfe=None, frame_count=0, frame_kinds="")
    return row


def write_outdated(path: Path) -> None:
    """A cache from before the first migration."""
    with duckdb.connect(str(path)) as db:
        db.execute("CREATE TABLE schema_migrations (version INTEGER, name VARCHAR, applied_at TIMESTAMP)")


def write_foreign(path: Path) -> None:
    """A DuckDB file of somebody else."""
    with duckdb.connect(str(path)) as db:
        db.execute("CREATE TABLE flowers (name VARCHAR)")


def write_video(path: Path, count: int = 4, lanes: Sequence[str] = ("ddim:50", "euler:30"), kept: int = 5) -> Study:
    """A study whose cells are videos of `count` frames; the disc wanders down from frame to frame."""
    plan = study("video", lanes=lanes, prompts=("owl",), seeds=(0,), frames={"count": kept}, repeats=0)
    writer = CacheWriter(path)
    rows = [outcome(cell, plan.frames) for cell in begin(writer, plan)]
    writer.trajectories([replace(row, frames=_filmed(row.frames, count)) for row in rows], MODEL, LAPTOP)
    return plan


def _filmed(frames: Sequence[FrameRow], count: int) -> tuple[FrameRow, ...]:
    return tuple(
        replace(frame, video_frame=number, image=_shifted(frame.image, 4 * number), format="png")
        for frame in frames
        for number in range(count)
    )


def _shifted(image: bytes, pixels: int) -> bytes:
    stream = io.BytesIO()
    picture = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    Image.fromarray(np.roll(picture, pixels, axis=0)).save(stream, "PNG")
    return stream.getvalue()


def write_converged(path: Path, plan: Study, distance: float | None = 0.01) -> None:
    """The references of a study: their final pictures, and how far they are from their checks (tolerance 0.05)."""
    pairs = reference_cells(plan, MODEL, "cpu")
    writer = CacheWriter(path)
    made = [outcome(cell, FrameSettings(count=0)) for pair in pairs for cell in pair]
    writer.trajectories(made, MODEL, LAPTOP)
    rows = [ReferenceRow(one.trajectory_id, other.trajectory_id, 0.05, distance) for one, other in pairs]
    record(path, plan.name, [], rows)


def described(metric: str, label: str, unit: str, direction: str, version: str = "1", **changes: object) -> MetricRow:
    """A made-up metric of pictures as a study records it."""
    plain = MetricRow(
        "picture", metric, version, label, unit, direction, 8, None, False, None, None, False, False, "made up"
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


CLIP = described("clip_score", "CLIP score", "100 cos", "higher")
ERROR = described("latent_error", "Latent error", "relative L2", "lower", has_true_zero=True, margin=0.05)


def write_scores(path: Path, plan: Study, gaps: Mapping[str, float], decided: int = 130) -> None:
    """Scores of every cell: CLIP score with a gap to the baseline by lane, and an error that falls with the calls.

    The baseline's seeds differ by about 1, which is the margin; the gaps vary by a tenth of that.
    """
    generator = np.random.default_rng(0)
    rows = []
    for cell in cells(plan, MODEL, "cpu"):
        calls = cell.lane.scheduler.expected_calls(cell.lane.steps)
        noise = 0.1 * generator.normal()
        score = 80 + 2 * plan.prompts.index(cell.prompt) + cell.seed % 2 + gaps.get(cell.lane.key, 0.0) + noise
        rows += [
            ScoreRow("picture", key, "1", value, trajectory_id=cell.trajectory_id)
            for key, value in (
                (CLIP.metric, score),
                (ERROR.metric, 3.0 / calls**1.5 * (1 + 0.1 * noise)),
            )
        ]
    record(path, plan.name, [CLIP, ERROR], [])
    write_score_rows(path, rows)
    if decided:
        write_decision(path, plan, gaps, decided)


def write_decision(path: Path, plan: Study, gaps: Mapping[str, float], prompts: int) -> None:
    """A search that is over: lanes without a gap keep every picture, the others none."""
    others = [lane for lane in plan.lanes if lane.key != plan.baseline]
    if not others:
        return
    calls = {lane.key: lane.scheduler.expected_calls(lane.steps) for lane in plan.lanes}
    costs = [LaneCost(lane.key, lane.label, calls[lane.key] / calls[plan.baseline], calls[lane.key]) for lane in others]
    settings = DecisionSettings()
    clip = Guard(CLIP.metric, CLIP.label, "difference", -0.3, 2.0, unit=CLIP.unit)
    calibration = Calibration("same-picture", "Asked.", (other_guard(settings), clip), ())
    names = tuple(f"thing {number}" for number in range(prompts))
    fixed = FixedTerms(fix_terms(settings, calibration, plan.baseline, by_cost(costs)), names, 1.2, "made up")
    write_terms(path, plan.name, fixed.spec(), keep_evidence=False)
    rows = [
        EvidenceRow(lane.key, guard, position, value)
        for lane in others
        for position in range(prompts)
        for guard, value in ((OTHER, float(lane.key in gaps)), (CLIP.metric, gaps.get(lane.key, 0.0)))
    ]
    write_evidence(path, plan.name, rows, {"used": prompts, "left": 0})


SIX = ("red apple", "owl", "rocket", "pizza", "cat", "tree")


def write_scored(path: Path, gaps: Mapping[str, float] | None = None, **changes: object) -> Study:
    """A finished, timed and scored study of six prompts."""
    plan = write(path, study(**{"prompts": SIX, **changes}))  # type: ignore[arg-type]
    write_scores(path, plan, gaps or {})
    return plan
