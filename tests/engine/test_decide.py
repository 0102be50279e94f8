"""Deciding from end to end on the bundled model: few steps and loose margins, so that it takes seconds."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from engine.analysis.decision import BATCH, Decision
from engine.analysis.fixed_terms import CHANGED
from engine.cache.connection import reading
from engine.cache.decision_tables import evidence, stored_decision, write_evidence, write_terms
from engine.cli import main
from engine.errors import StudyError
from engine.passes import decide as deciding
from engine.passes import search_budget
from engine.passes.decide import decide_study
from engine.passes.search_budget import DecideOutcome, SearchBudget, parse_budget
from engine.results import read_results
from engine.study.study import Study, parse_study

LANES = ["ddim:10", "dpmpp_2m_karras:5", "ddim:1", "euler_a:3"]
PLAN = {
    "name": "search",
    "model": "bundled",
    "prompts": ["owl"],
    "guidance_scale": 2.0,
    "baseline": "ddim:10",
    "lanes": LANES,
    "frames": {"count": 0},
    "timing": {"repeats": 5, "warmup": 0},
    "decide": {
        "calibration_prompts": 12,
        "reach": 4.0,
        "other_share": 0.5,
        "seed_noise_share": 1.0,
        "control_share": 0.5,
        "guards": ["clip_score"],
        "shown_only": ["euler_a:3"],
        "pool": "prompts/bundled_96.txt",
    },
}


def _study(**changes: object) -> Study:
    return parse_study(PLAN | changes)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DecideOutcome]:
    cache = tmp_path_factory.mktemp("search") / "c.duckdb"
    return cache, decide_study(_study(), cache, device="cpu")


def _decision(cache: Path) -> Decision:
    with reading(cache) as db:
        found = read_results(db, "search").decision
    assert found is not None
    return found


def test_a_search_ends_with_an_answer_and_every_view_reads_the_same(searched: tuple[Path, DecideOutcome]) -> None:
    cache, outcome = searched
    decision = outcome.decision
    assert decision is not None
    assert (decision.lane, decision.stop, outcome.exit_code) == ("dpmpp_2m_karras:5", "known", 0)
    assert {row.lane: row.status for row in decision.lanes} == {"dpmpp_2m_karras:5": "accepted", "ddim:1": "dropped"}
    assert _decision(cache) == decision
    with reading(cache) as db:
        best = read_results(db, "search").recommendation.best
    assert best is not None
    assert best.lane == decision.lane


def test_a_finished_search_is_not_made_again(searched: tuple[Path, DecideOutcome]) -> None:
    cache, outcome = searched
    again = decide_study(_study(), cache, device="cpu")
    assert (again.made, again.prompts) == (0, 0)
    assert again.decision == outcome.decision


@pytest.mark.slow
def test_a_search_broken_off_again_and_again_comes_to_the_same_evidence(
    searched: tuple[Path, DecideOutcome], tmp_path: Path
) -> None:
    whole, outcome = searched
    cache, calls = tmp_path / "c.duckdb", 0
    while True:
        part = decide_study(_study(), cache, device="cpu", budget=SearchBudget(prompts=10))
        calls += 1
        assert part.decision is not None
        if part.decision.known:
            break
        assert part.exit_code == 0 if part.decision.lane else 3
        assert part.prompts > 0
    assert calls > 2
    assert outcome.decision is not None
    standing = [
        (found.lane, found.stop, [(row.lane, row.status, row.level, row.p, row.n) for row in found.lanes])
        for found in (part.decision, outcome.decision)
    ]
    assert standing[0] == standing[1]  # times differ from call to call, evidence does not
    tables = []
    for path in (whole, cache):
        with reading(path) as db:
            stored = stored_decision(db, "search")
            assert stored is not None
            tables.append((stored[0]["order"], evidence(db, "search").to_dict("records")))
    assert tables[0] == tables[1]


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "prompts"), [(SearchBudget(), 3), (SearchBudget(calls=100), 1)])
def test_lanes_that_are_only_shown_are_made_on_three_prompts_before_the_controls_if_the_budget_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: SearchBudget, prompts: int
) -> None:
    monkeypatch.setattr("engine.passes.decide.Search._calibration", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        decide_study(_study(), tmp_path / "c.duckdb", device="cpu", budget=budget)
    with reading(tmp_path / "c.duckdb") as db:
        found = read_results(db, "search")
    assert len(found.prompts) == prompts
    done = {lane: sum(found.cell(lane, prompt, 0).state == "done" for prompt in found.prompts) for lane in LANES}
    assert done == {"ddim:10": prompts, "euler_a:3": prompts, "dpmpp_2m_karras:5": 0, "ddim:1": 0}


def test_a_killed_batch_leaves_the_evidence_of_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, real, batches = tmp_path / "c.duckdb", deciding.evidence_rows, []

    def dies(*arguments: object) -> object:
        batches.append(1)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(deciding, "evidence_rows", dies)
    with pytest.raises(KeyboardInterrupt):
        decide_study(_study(), cache, device="cpu")
    with reading(cache) as db:
        assert evidence(db, "search")["position"].max() == BATCH - 1
    assert not _decision(cache).known


@pytest.mark.slow
def test_a_batch_that_is_broken_off_goes_on_with_the_lanes_it_began_with(
    searched: tuple[Path, DecideOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = searched
    cache = tmp_path / "c.duckdb"
    shutil.copy(whole, cache)  # what was made is there; the evidence is gathered anew
    with reading(cache) as db:
        stored = stored_decision(db, "search")
        expected = evidence(db, "search").to_dict("records")
    assert stored is not None
    write_terms(cache, "search", stored[0], keep_evidence=False)
    write_evidence(cache, "search", [], {"used": 0})
    monkeypatch.setattr(search_budget.Meter, "fits", lambda self, calls, prompts: min(prompts, 3))
    decide_study(_study(), cache, device="cpu")
    with reading(cache) as db:
        found = evidence(db, "search").to_dict("records")
    assert [row for row in found if row["position"] < 10] == [row for row in expected if row["position"] < 10]
    assert all(row in expected for row in found)


def test_fifteen_prompts_name_no_lane_and_the_command_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "s.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in PLAN.items() if not isinstance(value, dict)]
    tables = {"frames": {"count": 0}, "timing": PLAN["timing"], "decide": {"pool": str(tmp_path / "pool.txt")}}
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]  # type: ignore[attr-defined]
    study.write_text("\n".join(lines))
    (tmp_path / "pool.txt").write_text("\n".join(f"owl {number}" for number in range(15)))
    code = main(["decide", str(study), "--cache", str(tmp_path / "c.duckdb"), "--device", "cpu", "--progress", "none"])
    assert code == 3
    assert "Keep ddim:10: the study cannot tell" in (text := capsys.readouterr().out)
    assert "Calibration takes 30 prompts; 15 more to go." in text


@pytest.mark.slow
def test_another_question_begins_anew_and_says_that_it_was_changed(
    searched: tuple[Path, DecideOutcome], tmp_path: Path
) -> None:
    cache = tmp_path / "c.duckdb"
    cache.write_bytes(searched[0].read_bytes())
    settings = replace(_study().decide, other_share=0.4)
    found = decide_study(
        replace(_study(), decide=settings), cache, device="cpu", budget=SearchBudget(prompts=1)
    ).decision
    assert found is not None
    assert found.lane is None
    assert found.sentence.endswith(CHANGED)


@pytest.mark.parametrize("text", ["", "ten", "10", "0m", "5x", "-3p"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="10m"):
        parse_budget(text)


def test_budgets_are_minutes_prompts_or_calls() -> None:
    assert parse_budget("1.5m") == SearchBudget(seconds=90)
    assert parse_budget("200p") == SearchBudget(prompts=200)
    assert parse_budget("5000 c") == SearchBudget(calls=5000)


def test_a_study_without_a_candidate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no lane to put in place"):
        decide_study(_study(lanes=["ddim:10"], decide={}), tmp_path / "c.duckdb", device="cpu")
