"""A baseline of one step: no lane takes fewer, so its picture of another prompt is the negative control."""

from pathlib import Path
from typing import Any

import pytest

from engine.analysis.decision import Decision
from engine.analysis.pace import Pace
from engine.cache.connection import reading
from engine.cache.decision_tables import stored_decision
from engine.cli import main
from engine.passes import decide as deciding
from engine.passes.decision_forecast import forecasts
from engine.results import read_results
from engine.study.prompt_pool import read_prompts
from engine.study.study import load_study
from tests.engine.helpers import ask, use_metrics
from tests.engine.pattern_metrics import BLEND, BLIND, DECIDE, write_decision

# Both begin with pure noise.
LANES = [
    {"key": f"{scheduler}_trailing:1", "scheduler": scheduler, "steps": 1, "timestep_spacing": "trailing"}
    for scheduler in ("euler", "ddim")
]
BASELINE, OTHER = (str(lane["key"]) for lane in LANES)


def _study(folder: Path, guard: str) -> Path:
    (folder / "pool.txt").write_text("\n".join(read_prompts(Path(DECIDE["pool"]))[:28]))  # two patterns each
    settings = {"guards": [guard], "pool": str(folder / "pool.txt"), "calibration_prompts": 28, "reach": 2.0}
    return write_decision(folder, settings, lanes=[], lane=LANES, baseline=BASELINE, guidance_scale=1.0)


def _decided(folder: Path, guard: str) -> tuple[int, Decision, dict[str, Any]]:
    cache = folder / "c.duckdb"
    study = _study(folder, guard)
    code = main(["decide", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none"])
    with reading(cache) as db:
        decision, stored = read_results(db, "patterns").decision, stored_decision(db, "patterns")
    assert decision is not None
    assert stored is not None
    return code, decision, stored[0]["calibration"]


@pytest.fixture(autouse=True)
def _guards_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lanes of one call take the same time; the decision is told otherwise."""
    use_metrics(monkeypatch, BLEND, BLIND)
    times = {BASELINE: Pace(1.0, 1.0, 1.0, 5, 1), OTHER: Pace(0.5, 0.4, 0.6, 5, 1)}
    monkeypatch.setattr(deciding, "paces_here", lambda *_: times)


def test_its_pictures_of_other_prompts_show_that_the_guards_can_tell(tmp_path: Path) -> None:
    code, decision, calibration = _decided(tmp_path, "blend")
    assert calibration["obstacles"] == []
    assert [(check["label"], check["passed"]) for check in calibration["checks"]] == [("Blend", True)]
    assert (code, decision.lane, decision.known) == (0, OTHER, True)
    # The control has no cells of its own: the baseline with two seeds, its double, and the candidate.
    made = ask(tmp_path / "c.duckdb", "SELECT DISTINCT lane FROM trajectories ORDER BY lane")
    assert made == [(OTHER,), (BASELINE,), (f"{BASELINE[:-1]}2",)]


def test_a_metric_that_does_not_see_the_prompt_guards_nothing(tmp_path: Path) -> None:
    code, decision, calibration = _decided(tmp_path, "blind")
    assert (code, decision.lane) == (3, None)
    assert calibration["obstacles"][0].startswith("Blind can't guard: it does not tell the negative control")


def test_plan_foretells_it_without_a_lane_for_the_control(tmp_path: Path) -> None:
    study = write_decision(tmp_path, lanes=["pndm:1", "ddim:1"], baseline="pndm:1")
    equal, _ = forecasts(load_study(str(study)))
    assert equal.prompts is not None
    calibration, times = 12 * (2 + 2 + 3), 6 * (2 + 1)  # PNDM takes a call more: the baseline twice, and its double
    assert equal.calls == calibration + times + equal.prompts * (2 + 1) - min(equal.prompts, 12) * 2
