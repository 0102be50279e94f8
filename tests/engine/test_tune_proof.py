"""The proof of a tuned schedule: lanes that run on the model, a reference that solves it, and the limit it is given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StudyError
from engine.passes import tune_evidence
from engine.passes.context import PassOutcome
from engine.passes.images import make_images
from engine.passes.search_budget import SearchBudget
from engine.passes.timing import take_times
from engine.passes.tune_proof import TuneRequest, known_lanes, tune
from engine.sampling import models
from engine.study.source import find_model
from tests.engine import family_miniatures

pytestmark = pytest.mark.usefixtures("scheduler_table")


def test_placements_that_are_wrong_on_the_model_do_not_stand_beside_the_tuned_lane() -> None:
    """Lists of Align Your Steps are for the betas of SD and SDXL; Karras levels are not for flows."""

    def keys(request: TuneRequest, **config: Any) -> list[str]:
        source = find_model("gaussian")
        changed = replace(source, scheduler_config={**source.scheduler_config, **config})
        return [lane.key for lane in known_lanes(request, changed, "lu")]

    plain, *karras_to_lu = keys(request := TuneRequest("gaussian", steps=4))
    assert karras_to_lu == [f"{plain.partition(':')[0]}_{name}:4" for name in ("karras", "ays", "beta", "lu")]
    assert keys(request, beta_end=0.014) == [plain, *(key for key in karras_to_lu if "ays" not in key)]
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    assert keys(replace(request, scheduler="unipc"), **flow) == ["unipc:4"]


def test_a_proof_that_could_not_run_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("the model was loaded"))
    for steps, why in ((600, "dpmpp_2m:1200"), (1, "give --steps 2 or more")):
        with pytest.raises(StudyError, match=why):
            tune(TuneRequest("gaussian", steps=steps), tmp_path / "c.duckdb", device="cpu")


def test_a_flow_is_proved_against_solvers_that_solve_it(tmp_path: Path) -> None:
    folder, pool = tmp_path / "sd3", tmp_path / "pool.txt"
    family_miniatures.built("sd3").save_pretrained(folder)
    pool.write_text("red apple\nowl\ngreen pear\nsmall house\nred owl\nblurry pear\ngreen house\n")
    request = TuneRequest(
        str(folder), "flow_euler", 2, "flow", 1.0, prompts=pool, search=2, validation=2, test=3, rounds=1
    )
    outcome = tune(request, tmp_path / "c.duckdb", device="cpu")
    test = outcome.tuned.evidence["test"]
    assert (test["prompts"], test["n"], test["best_known"]) == (3, 3, "flow_euler:2")
    assert test["lanes"]["flow_euler:4"]["median"] < test["lanes"]["flow_euler:2"]["median"] < 1
    assert outcome.decision is not None
    assert outcome.decision.failed == 0
    with pytest.raises(StudyError, match=r"flow.json was tuned for flow_euler .*guidance 1, .*another --name"):
        tune(replace(request, guidance=2.0), tmp_path / "c.duckdb", device="cpu")


def test_long_names_of_models_do_not_hide_scheduler_and_steps() -> None:
    names = {TuneRequest(f"someone/{'m' * 60}", steps=steps).called for steps in (4, 10)}
    assert names == {f"{'m' * 39}_dpmpp_2m_4", f"{'m' * 38}_dpmpp_2m_10"}


def test_the_limit_of_the_test_holds_for_all_of_it_and_what_fails_in_it_is_told_by_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def making(context: Any, jobs: Any, title: str) -> PassOutcome:
        asked.append({job.cell.prompt for job in jobs})
        found = make_images(context, jobs, title)
        return replace(found, failed=found.failed + 2)

    def timing(*arguments: Any) -> PassOutcome:
        return replace(found := take_times(*arguments), failed=found.failed + 3)

    monkeypatch.setattr(tune_evidence, "make_images", making)
    monkeypatch.setattr(tune_evidence, "take_times", timing)
    request = TuneRequest("gaussian", steps=4, name="brief", guidance=1.0, search=3, validation=3, test=60, rounds=1)
    outcome = tune(request, tmp_path / "c.duckdb", device="cpu", budget=SearchBudget(prompts=4))
    test = outcome.tuned.evidence["test"]
    assert 1 < test["prompts"] == test["n"] <= 10
    assert [len(prompts) <= test["prompts"] for prompts in asked] == [True]
    assert outcome.decision is not None
    assert (outcome.decision.failed, outcome.decision.exit_code) == (5, 1)
