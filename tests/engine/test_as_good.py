"""Pictures as good, be they others: from a positive control that fails to vetoes by sets and by people."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.decision import Decision
from engine.cache.connection import reading
from engine.cache.vote_table import Vote, cast
from engine.cli import main
from engine.measuring.evidence import Evidence
from engine.measuring.metric import Metric
from engine.measuring.metrics import METRICS
from engine.results import Results, read_results
from tests.engine.helpers import ask, use_metrics, write_study

BASELINE, GOOD, FAR = "euler_a:8", "euler:5", "ddim:2"
PLAN: dict[str, Any] = {
    "name": "other",
    "model": "bundled",
    "prompts": ["owl"],
    "guidance_scale": 2.0,
    "baseline": BASELINE,
    "lanes": [BASELINE, GOOD, FAR],
    "frames": {"count": 0},
    "timing": {"repeats": 5, "warmup": 0},
    "decide": {"positive_share": 0.0, "guards": ["calm"], "pool": "prompts/bundled_96.txt"},
}


def _calm(evidence: Evidence) -> float:
    """Minus the mean difference of neighbouring pixels, 0 to 1: it sees noise, and not whether a picture is blurred."""
    pictures = evidence.pictures / 255.0
    return -float(np.abs(np.diff(pictures, axis=2)).mean())


CALM = Metric("calm", "Calm", "", "higher", "1", _calm, "no noise", may_guard=True, margin=0.02, span=0.1)
Told = tuple[int, Decision, Results]


def _decide(cache: Path) -> Told:
    """What the command answers, and what every page reads."""
    study = write_study(cache.parent / "other.toml", **PLAN)
    code = main(["decide", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none"])
    with reading(cache) as db:
        results = read_results(db, "other")
    assert results.decision is not None
    return code, results.decision, results


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    cache = tmp_path_factory.mktemp("as-good") / "c.duckdb"
    with pytest.MonkeyPatch.context() as patch:
        use_metrics(patch, *METRICS.values(), CALM)
        return cache, _decide(cache)


@pytest.fixture(autouse=True)
def _guard(monkeypatch: pytest.MonkeyPatch) -> None:
    use_metrics(monkeypatch, *METRICS.values(), CALM)


def test_a_baseline_that_is_far_from_converged_is_asked_for_pictures_as_good(decided: tuple[Path, Told]) -> None:
    _, (code, decision, results) = decided
    assert (code, decision.goal, decision.lane) == (0, "as-good", GOOD)
    assert results.terms is not None
    assert results.terms.lines[0].startswith('Goal "as-good". Pictures can\'t be kept here: the baseline at twice its')
    assert [guard.key for guard in results.terms.terms.calibration.guards] == ["calm"]


def test_sets_keep_a_lane_out_that_is_too_far_and_leave_one_in_that_is_near(decided: tuple[Path, Told]) -> None:
    _, (_, decision, results) = decided
    assert results.terms is not None
    allowed = results.terms.terms.calibration.set_distance
    kid = results.sets[(results.sets["metric"] == "kid") & (results.sets["against"] == BASELINE)].set_index("lane")
    assert 0 < allowed < kid.loc[FAR, "low"]
    assert kid.loc[GOOD, "low"] <= allowed
    rows = {row.lane: row for row in decision.lanes}
    assert all(guard.shown for guard in rows[FAR].guards)  # one picture at a time nothing speaks against it
    assert (rows[FAR].status, rows[GOOD].status) == ("refused", "accepted")
    assert rows[FAR].reason.startswith(f"Its pictures as a set are too far from those of {BASELINE}: KID")


@pytest.mark.parametrize(("wins", "lane"), [(0.1, None), (0.5, GOOD)])
def test_people_keep_a_lane_out_that_they_like_less(
    decided: tuple[Path, Told], tmp_path: Path, wins: float, lane: str | None
) -> None:
    cache = tmp_path / "c.duckdb"
    shutil.copy(decided[0], cache)
    pairs = ask(
        cache,
        "SELECT a.trajectory_id, b.trajectory_id, a.prompt, a.seed FROM trajectories a JOIN trajectories b "
        "USING (prompt, seed) WHERE a.lane = ? AND b.lane = ? ORDER BY a.prompt, a.seed",
        BASELINE,
        GOOD,
    )
    for place, (ours, theirs, prompt, seed) in enumerate(pairs[:30]):
        choice = "right" if place % 10 < 10 * wins else "left"
        assert cast(cache, Vote("other", "somebody", "none", ours, theirs, BASELINE, GOOD, prompt, seed, choice, 1.0))
    code, decision, _ = _decide(cache)
    assert (code, decision.lane) == (0, lane)
    if lane is None:
        row = decision.row(GOOD)
        assert row is not None
        assert row.reason.startswith(f"People prefer {BASELINE}: it won only 10 % [")
