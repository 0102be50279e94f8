"""Claims, comparisons and the recommendation: change the cache, and the verdict changes."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from engine.analysis import phases
from engine.analysis.claims import claim_lines, evaluate, read_claims, together
from engine.cache.connection import reading
from engine.cache.records import FrameRow, TimingRow, step_rows
from engine.cache.score_tables import MetricRow, ScoreRow, record, write_scores
from engine.cache.writer import CacheWriter
from engine.cli import main
from engine.environment import describe
from engine.errors import StudyError
from engine.measuring.metrics import METRICS
from engine.paths import CLAIMS
from engine.results import read_results
from engine.study.cells import cells
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
    """

    speedup: float = 2.5
    calls: int = 20
    recognised: float = 0.8
    shift: float = 0.0
    error: float = 1.0
    middle: float = 8.0
    heavy: tuple[float, float] = (0.4, 0.8)
    seen: tuple[float, float] = (0.4, 0.7)
    prompts: int = 120


TRUE = World()
FALSE = World(speedup=1.5, calls=30, recognised=0.5, shift=-3.0, error=5.0, middle=0.1, seen=(0.9, 0.9))


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
    writer.begin(study, every, model, environment)
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
    _write_times(writer, every, world, model, environment)
    keys = ("latent_error", "ssim", "clip_score", "recognised")
    record(path, "readme_claims", [_metric(key) for key in keys], [])
    write_scores(path, [*scores, *frames])
    return path


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
            [0.0] * calls,
        ),
    )


def _write_times(writer, every, world, model, environment):
    generator = np.random.default_rng(1)
    for cell in every[:2]:
        seconds = 1.0 / (world.speedup if cell.lane.steps == 20 else 1.0)
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
                1,
                repeat,
                "total",
                seconds * (1 + 0.001 * generator.normal()),
                cell.lane.steps,
            )
            for repeat in range(10)
        ]
        writer.timings(rows, model, environment)


def _metric(key):
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


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    return write(folder / "true.duckdb", TRUE), write(folder / "false.duckdb", FALSE)


def words(cache, tmp_path, claims=CLAIMS):
    answer = tmp_path / f"{cache.stem}.json"
    assert main(["claims", "--cache", str(cache), "--claims", str(claims), "--json", str(answer)]) == 0
    return {claim["key"]: claim["word"] for claim in json.loads(answer.read_text())["claims"]}


def test_every_claim_is_confirmed_or_refuted_by_what_the_cache_holds(caches, tmp_path, capsys):
    confirmed, refuted = words(caches[0], tmp_path), words(caches[1], tmp_path)
    untestable = {"scores", "perception"}
    assert confirmed == {key: "not testable" if key in untestable else "confirmed" for key in confirmed}
    # With little weight in the middle, the last fifth weighs more than its share.
    assert refuted == {key: "not testable" if key in untestable else "refuted" for key in refuted}
    out = capsys.readouterr().out
    assert "CONFIRMED     DPM-Solver++ at 20 steps is 2.5 times as fast" in out
    assert "REFUTED       DPM-Solver++ at 20 steps is 2.5 times as fast" in out
    assert "10 repeats" in out
    assert f"Computed on cpu: {describe('cpu').device_name}" in out


@pytest.mark.parametrize(
    ("changes", "refuted"),
    [
        ({"speedup": 2.3, "heavy": (0.2, 0.6), "error": 5.0}, {"speed", "critical-phase", "accuracy-equivalent"}),
        (
            {"calls": 25, "recognised": 0.7, "seen": (0.6, 0.6)},
            {"calls", "quality", "quality-equivalent", "recognisable", "close"},
        ),
    ],
)
def test_changing_a_thing_changes_its_verdict_and_no_other(changes, refuted, tmp_path):
    changed = words(write(tmp_path / "c.duckdb", World(**changes)), tmp_path)
    assert {key for key, word in changed.items() if word == "refuted"} == refuted
    assert {word for key, word in changed.items() if key not in refuted} == {"confirmed", "not testable"}


def test_with_few_prompts_a_claim_is_undecided_or_not_testable_and_says_why(tmp_path):
    found = results(write(tmp_path / "c.duckdb", World(prompts=6)))
    verdicts = {verdict.key: verdict for verdict in evaluate(read_claims(CLAIMS), found)}
    assert verdicts["quality"].word == "not testable"
    assert "too few: 6 prompts, 12 cells" in verdicts["quality"].tests[0].reason
    assert verdicts["calls"].word == "confirmed"
    assert "too few" in "\n".join(claim_lines(list(verdicts.values())))


def test_a_study_without_scores_or_times_says_what_is_missing(tmp_path):
    path = tmp_path / "c.duckdb"
    study, model = parsed(name="readme_claims", lanes=["ddim:50", "dpmpp_2m:20"]), find_model("gaussian")
    CacheWriter(path).begin(study, cells(study, model, "cpu"), model, describe("cpu"))
    verdicts = {verdict.key: verdict for verdict in evaluate(read_claims(CLAIMS), results(path))}
    assert {verdict.word for verdict in verdicts.values()} == {"not testable"}
    reasons = {key: verdict.tests[0].reason for key, verdict in verdicts.items() if verdict.tests}
    assert "have not been timed in one environment" in reasons["speed"]
    assert "no finished cell of lane 'dpmpp_2m:20'" in reasons["calls"]
    assert "has not been scored with 'recognised'; `python -m engine score readme_claims`" in reasons["quality"]
    assert "no recorded steps" in reasons["critical-phase"]


def test_a_percentage_of_a_metric_without_a_true_zero_is_refused(caches, tmp_path):
    claims = tmp_path / "claims.toml"
    claims.write_text(
        '[[claim]]\nkey = "a"\ntext = "97 % of the CLIP score"\n[[claim.test]]\n'
        'quantity = "quality_ratio"\nmetric = "clip_score"\nlane = "dpmpp_2m:20"\nbaseline = "ddim:50"\n'
        "at_least = 0.965\n"
    )
    (verdict,) = evaluate(read_claims(claims), results(caches[0]))
    assert (verdict.word, verdict.tests[0].reason) == (
        "not testable",
        "a percentage of 'clip_score' means nothing: it has no true zero to count up from",
    )


def test_an_unknown_study_is_named_with_the_known_ones(caches, capsys):
    assert main(["claims", "readme_claim", "--cache", str(caches[0])]) == 2
    assert "Did you mean 'readme_claims'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no"),
        ("x = ", "cannot be read"),
        ('[[claim]]\nkey = "a"\ntext = "b"', "either tests or untestable"),
        ('[[claim]]\nkey = "a"\ntext = "b"\n[[claim.test]]\nquantity = "speedpu"', "Did you mean 'speedup'"),
        ('[[claim]]\nkey = "a"\ntext = "b"\n[[claim.test]]\nquantity = "speedup"\nlane = "c"', "needs baseline"),
        (
            '[[claim]]\nkey = "a"\ntext = "b"\n[[claim.test]]\nquantity = "critical_end"\nlane = "c"',
            "at_least or at_most",
        ),
        (
            '[[claim]]\nkey = "a"\ntext = "b"\n[[claim.test]]\nquantity = "critical_end"\nlanes = "c"',
            "unknown key 'lanes'",
        ),
    ],
)
def test_wrong_claims_are_refused(text, message, tmp_path):
    (tmp_path / "claims.toml").write_text(text)
    with pytest.raises(StudyError, match=message):
        read_claims(tmp_path / "claims.toml")


def test_a_claim_is_no_better_than_its_tests():
    assert together(["confirmed", "confirmed"]) == "confirmed"
    assert together(["confirmed", "refuted", "not testable"]) == "refuted"
    assert together(["confirmed", "not testable"]) == "undecided"
    assert together(["not testable"]) == together([]) == "not testable"


def path(changes):
    calls = len(changes) + 1
    return phases.Path((np.arange(1, calls) + 1) / calls, np.asarray(changes, dtype=float))


@pytest.mark.parametrize("seed", range(10))
def test_the_critical_phase_is_the_shortest_interval_by_brute_force(seed):
    changes = np.random.default_rng(seed).exponential(1, 9)
    run = path(changes)
    start, end = run.critical_phase(0.5)
    assert run.share(start, end) == pytest.approx(0.5)
    grid = np.linspace(0.1, 1, 361)
    shortest = min(b - a for i, a in enumerate(grid) for b in grid[i:] if run.share(a, b) >= 0.5)
    assert end - start <= shortest + 1e-9
    assert end - start == pytest.approx(shortest, abs=2 * (grid[1] - grid[0]))


def test_shares_of_the_path_add_up_and_a_path_without_changes_is_refused():
    run = path([1, 2, 3, 4])
    assert run.share(0, 0.4) + run.share(0.4, 0.8) + run.share(0.8, 1) == pytest.approx(1)
    assert run.share(0.8, 1) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="above zero"):
        path([0, 0])


def test_settled_means_to_the_end():
    rows = pd.DataFrame(
        {
            "prompt": ["a"] * 4 + ["b"] * 4,
            "seed": 0,
            "step_index": [0, 1, 2, 3] * 2,
            "progress": [0.25, 0.5, 0.75, 1.0] * 2,
            "value": [1, 0, 1, 1, 1, 1, 1, 0],
        }
    )
    assert phases.settled_at(rows, lambda values: values > 0) == {("a", 0): 0.625, ("b", 0): None}
