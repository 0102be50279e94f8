"""Votes and set distances keep a lane from being named; they never name one."""

from dataclasses import asdict
from pathlib import Path

from engine.cache.connection import reading, writing
from engine.cache.rows import now, put
from engine.cache.score_tables import MetricRow, ScoreRow, record, write_scores
from engine.cache.vote_table import Vote
from engine.cache.writer import CacheWriter
from engine.environment import describe
from engine.passes.decision_vetoes import vetoes
from engine.study.cells import cells
from engine.study.source import find_model
from tests.engine.helpers import parsed

LANES = ["ddim:50", "euler_a:20", "dpmpp_2m:20"]
STEPS = {"ddim:50": 50, "euler_a:20": 20, "dpmpp_2m:20": 20}


def _cache(path: Path, wins: dict[str, float], distances: dict[str, tuple[float, float]]) -> Path:
    """Votes on 40 prompts: `wins` is each lane's share against the baseline; distances are intervals of KID."""
    study = parsed(name="v", prompts=[f"p{i}" for i in range(40)], seeds=[0], lanes=LANES)
    model, writer = find_model("gaussian"), CacheWriter(path)
    every = cells(study, model, "cpu")
    writer.begin(study, every, model, describe("cpu"))
    found = {(cell.lane.key, cell.prompt): cell.trajectory_id for cell in every}
    rows = []
    for lane, share in wins.items():
        for place, prompt in enumerate(study.prompts):
            choice = "right" if place % 10 < round(10 * share) else "left"
            ids = (found["ddim:50", prompt], found[lane, prompt])
            vote = Vote("v", "somebody", "none", *ids, "ddim:50", lane, prompt, 0, choice, 1.0)  # type: ignore[arg-type]
            rows.append({"vote_id": vote.vote_id, **asdict(vote), "created_at": now()})
    with writing(path) as db:
        put(db, "votes", rows)
    kid = MetricRow(
        "lane", "kid", "1", "KID", "", "lower", 0, None, False, None, None, False, False, "Kernel distance."
    )
    record(path, "v", [kid], [])
    write_scores(
        path,
        [
            ScoreRow(
                "lane",
                "kid",
                "1",
                (low + high) / 2,
                study_id="v",
                lane=lane,
                against="ddim:50",
                low=low,
                high=high,
                n=80,
                prompts=40,
            )
            for lane, (low, high) in distances.items()
        ],
    )
    return path


def _vetoes(path: Path, allowed: float = 0.0) -> dict[str, str]:
    with reading(path) as db:
        return vetoes(db, "v", "ddim:50", STEPS, allowed)


def test_lanes_that_people_like_less_are_vetoed_and_others_are_not(tmp_path: Path) -> None:
    found = _vetoes(_cache(tmp_path / "c.duckdb", {"euler_a:20": 0.2, "dpmpp_2m:20": 0.5}, {}))
    assert list(found) == ["euler_a:20"]
    assert found["euler_a:20"].startswith("People prefer ddim:50: it won only 20 % [")


def test_lanes_whose_sets_are_apart_for_sure_are_vetoed(tmp_path: Path) -> None:
    cache = _cache(tmp_path / "c.duckdb", {}, {"euler_a:20": (0.01, 0.04), "dpmpp_2m:20": (-0.01, 0.04)})
    found = _vetoes(cache)
    assert list(found) == ["euler_a:20"]
    assert "are too far from those of ddim:50: KID 0.025 [0.01, 0.04] of 80 pictures" in found["euler_a:20"]
    assert list(_vetoes(cache, 0.009)) == ["euler_a:20"]
    assert _vetoes(cache, 0.01) == {}


def test_without_votes_and_sets_nobody_objects(tmp_path: Path) -> None:
    assert _vetoes(_cache(tmp_path / "c.duckdb", {}, {})) == {}
