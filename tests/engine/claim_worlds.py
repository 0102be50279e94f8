"""Caches that say something of DPM-Solver++ at 20 steps against DDIM at 50: true or false in each claim by itself."""

import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from engine.analysis.calibration import Calibration, excess_guard, other_guard
from engine.analysis.decision import LaneCost, fix_terms
from engine.analysis.fixed_terms import FixedTerms
from engine.cache.connection import reading, writing
from engine.cache.decision_tables import EvidenceRow, write_evidence, write_terms
from engine.cache.records import FrameRow, TimingRow, step_rows
from engine.cache.rows import now, put
from engine.cache.score_tables import MetricRow, ScoreRow, record, write_scores
from engine.cache.vote_table import Vote
from engine.cache.writer import CacheWriter
from engine.environment import describe
from engine.measuring.metrics import METRICS
from engine.results import read_results
from engine.study.cells import cells
from engine.study.decision_settings import DecisionSettings
from engine.study.source import find_model
from tests.engine.helpers import parsed, row

SEEDS = 2


@dataclass(frozen=True)
class World:
    """What the cache says of DPM-Solver++ at 20 steps against DDIM at 50.

    Attributes:
        speedup: Of the whole call.
        calls: That it takes instead of 20.
        recognised: Share of its pictures; DDIM has 0.8.
        shift: Of its CLIP score, in seed-to-seed standard deviations.
        error: Its latent error over DDIM's.
        middle: Weight of the x0 path within `heavy`, over that elsewhere.
        heavy: From which to which progress.
        seen: Progress from which its x0 is recognised, and DDIM's.
        kept: Whether its pictures are those of DDIM by all guards of the decision.
        preferred: Share of votes for it, of two voters.
        cpu: Time on a CPU over that on a GPU.
        quiet: Log-SNR of the latents after 30 % of the calls; -8 before.
    """

    speedup: float = 2.5
    calls: int = 20
    recognised: float = 0.8
    shift: float = 0.0
    error: float = 1.0
    middle: float = 8.0
    heavy: tuple[float, float] = (0.5, 0.8)
    seen: tuple[float, float] = (0.4, 0.7)
    kept: bool = True
    preferred: float = 0.5
    cpu: float = 10.0
    quiet: float = 3.0
    prompts: int = 120


TRUE = World()
FALSE = World(
    speedup=1.5,
    calls=30,
    recognised=0.5,
    shift=-3.0,
    error=5.0,
    middle=0.1,
    seen=(0.9, 0.9),
    kept=False,
    preferred=0.1,
    cpu=30.0,
    quiet=-6.0,
)


def write(path, world):
    """A cache that says so."""
    prompts = [f"prompt {i}" for i in range(world.prompts)]
    study = parsed(
        name="readme_claims",
        prompts=prompts,
        seeds=list(range(SEEDS)),
        lanes=["ddim:50", "dpmpp_2m:20"],
        frames={"count": 10},
    )
    model, environment, writer = find_model("gaussian"), describe("cpu"), CacheWriter(path)
    every = cells(study, model, "cpu")
    card = replace(environment, device="cuda", device_name="A card")
    for place in (card, environment):
        writer.begin(study, every, model, place)
    generator = np.random.default_rng(0)
    rows, scores, frames = [], [], []
    for place, cell in enumerate(every):
        fast = cell.lane.key == "dpmpp_2m:20"
        calls = world.calls if fast else 50
        rows.append(_trajectory(cell, calls, world, fast))
        # Both lanes draw the same noise per prompt and seed, so the comparison is paired.
        noise = np.random.default_rng(place // 2).normal() + 0.05 * generator.normal()
        # Spread evenly over prompts and seeds, so that shares are exact.
        seen = (place // 2) % 10 < round(10 * (world.recognised if fast else 0.8))
        values = {
            "clip_score": 25 + noise + (world.shift if fast else 0),
            "recognised": float(seen),
            "latent_error": 0.1 * math.exp(0.3 * noise) * (world.error if fast else 1),
            "ssim": 0.9 - 0.02 * noise - (0.1 * (world.error - 1) if fast else 0),
        }
        scores += [
            ScoreRow("picture", key, "1", value, trajectory_id=cell.trajectory_id) for key, value in values.items()
        ]
        frames += [
            ScoreRow(
                "frame",
                "recognised",
                "1",
                float(f.progress >= world.seen[0 if fast else 1]),
                trajectory_id=cell.trajectory_id,
                kind="x0",
                step_index=f.step_index,
            )
            for f in rows[-1].frames
            if f.kind == "x0"
        ]
    writer.trajectories(rows, model, environment)
    _write_times(writer, every, world, model, card, world.cpu)
    _write_times(writer, every, world, model, environment, 1.0)
    keys = ("latent_error", "ssim", "clip_score", "recognised")
    record(path, "readme_claims", [metric_row(key) for key in keys], [])
    write_scores(path, [*scores, *frames])
    _write_decision(path, world)
    _write_votes(path, every, world)
    return path


def _write_votes(path, every, world):
    """One vote on each pair, of two voters in turn."""
    found = {(cell.lane.key, cell.prompt, cell.seed): cell.trajectory_id for cell in every}
    rows = []
    for place, cell in enumerate(cell for cell in every if cell.lane.key == "ddim:50"):
        choice = "right" if place % 10 < round(10 * world.preferred) else "left"
        lanes, subject = ("ddim:50", "dpmpp_2m:20"), (cell.prompt, cell.seed)
        ids = (found[lane, *subject] for lane in lanes)
        vote = Vote("readme_claims", f"voter {place % 2}", "none", *ids, *lanes, *subject, choice, 1.0)
        rows.append({"vote_id": vote.vote_id, **asdict(vote), "created_at": now()})
    with writing(path) as db:
        put(db, "votes", rows)


def _write_decision(path, world):
    settings = DecisionSettings()
    guards = other_guard(settings), excess_guard(settings)
    lane = LaneCost("dpmpp_2m:20", "DPM++ 2M 20", 0.4, 20)
    terms = fix_terms(settings, Calibration("same-picture", "Asked.", guards, ()), "ddim:50", [lane])
    fixed = FixedTerms(terms, tuple(f"other {i}" for i in range(world.prompts)), 1.2, "made up")
    write_terms(path, "readme_claims", fixed.spec(), keep_evidence=False)
    rows = [
        EvidenceRow(lane.lane, guard.key, place, float(bad))
        for place in range(world.prompts)
        for guard, bad in zip(guards, (not world.kept, world.error > 2), strict=True)
    ]
    write_evidence(path, "readme_claims", rows, {"used": world.prompts, "left": 0})


def _trajectory(cell, calls, world, fast):
    progress = (np.arange(calls) + 1) / calls
    inside = (progress > world.heavy[0] + 1e-9) & (progress <= world.heavy[1] + 1e-9)
    changes = np.where(inside, world.middle, 1.0)
    near = np.where(progress >= world.seen[0 if fast else 1], 0.1, 0.9)
    kept = sorted({round(i * (calls - 1) / 9) for i in range(10)})
    return row(
        cell.trajectory_id,
        scheduler=cell.lane.scheduler.key,
        steps=cell.lane.steps,
        lane=cell.lane.key,
        config_id=cell.config_id,
        prompt=cell.prompt,
        seed=cell.seed,
        nfe=calls,
        frame_count=10,
        frame_kinds="x0,xt",
        frames=tuple(FrameRow("x0", i, float(progress[i]), 1.0, 0.0, 8, 8, "webp", b"-") for i in kept),
        measured=step_rows(
            [
                *(("x0_change", i, float(changes[i])) for i in range(1, calls)),
                *(("x0_distance", i, float(near[i])) for i in range(calls)),
            ],
            {},
            [-8.0 if place < 0.3 else world.quiet for place in progress - 1 / calls],
        ),
    )


def _write_times(writer, every, world, model, environment, faster):
    generator = np.random.default_rng(1)
    for cell in every[:2]:
        seconds = 1.0 / faster / (world.speedup if cell.lane.steps == 20 else 1.0)
        rows = [
            TimingRow(
                cell.lane.scheduler.key,
                cell.lane.steps,
                cell.lane.key,
                cell.config_id,
                64,
                64,
                cell.dtype,
                True,
                "",
                1,
                repeat,
                "total",
                seconds * (1 + 0.001 * generator.normal()),
                cell.lane.steps,
            )
            for repeat in range(10)
        ]
        writer.timings(rows, model, environment)


def metric_row(key):
    entry = METRICS[key]
    return MetricRow(
        "picture",
        key,
        "1",
        entry.label,
        entry.unit,
        entry.direction,
        entry.smallest_n,
        None,
        entry.has_true_zero,
        entry.span,
        entry.margin,
        entry.needs_reference,
        entry.may_guard,
        entry.description,
    )


def results(path):
    with reading(path) as db:
        return read_results(db, "readme_claims", None)
