"""What `plan` foretells of a decision: as many prompts and calls as the rule takes."""

from dataclasses import replace

import pytest

from engine.analysis.eprocess import log_e_few, threshold
from engine.cli import main
from engine.passes.decision_forecast import forecasts
from engine.study.study import load_study
from tests.engine.helpers import parsed


def test_the_prompts_foretold_are_those_after_which_the_rule_accepts() -> None:
    equal, rare = forecasts(load_study("quickstart"))
    level = threshold(0.05 / 6)  # six lanes may be named
    assert equal.prompts == 110
    assert log_e_few(0, 109, 0.05) >= level > log_e_few(0, 108, 0.05)
    assert rare.prompts == 180  # docs/method.md: half of 4,000 simulated studies took 171 or fewer


def test_the_calls_are_those_of_calibration_times_and_every_lane_on_every_prompt() -> None:
    study = parsed(
        lanes=["ddim:50", "euler:30", "euler_a:20"], timing={"repeats": 5, "warmup": 1}, decide={"shown_only": []}
    )
    (equal, _) = forecasts(study)
    assert equal.prompts == 70
    calibration, times = 30 * (50 + 50 + 2 + 100), 6 * (50 + 30 + 20)
    assert equal.calls == calibration + times + 70 * (50 + 30) - 30 * 50


@pytest.mark.parametrize("lanes", [["ddim:50"], ["ddim:50", "ddim:49"], ["ddim:50", "euler_a:20"]])
def test_where_no_lane_could_be_named_nothing_is_foretold(lanes: list[str]) -> None:
    assert forecasts(parsed(lanes=lanes)) == []


def test_more_prompts_than_anyone_has_are_said_to_be_that() -> None:
    study = parsed(lanes=["ddim:50", "euler:30"])
    strict = replace(study, decide=replace(study.decide, other_share=0.01))
    equal, rare = forecasts(strict)
    assert equal.prompts is not None
    assert rare.prompts is None


def test_plan_tells_prompts_calls_and_the_size_of_the_pool(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    arguments = ["--cache", str(tmp_path / "c.duckdb"), "--device", "cpu"]
    assert main(["plan", "quickstart", *arguments]) == 0
    out = capsys.readouterr().out
    assert "Decision     all lanes equal: 110 prompts, " in out
    assert "Decision     1 % other pictures: " in out
