"""The rule: which lane may be named, from guards to the sentence, and never on missing evidence."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from engine.analysis.calibration import Calibration, excess_guard, other_guard
from engine.analysis.decision import Decision, LaneCost, Terms, decide, fix_terms
from engine.analysis.guards import EXCESS, OTHER, Guard, leading, weigh
from engine.study.decision_settings import DecisionSettings, Goal
from engine.study.prompt_pool import prompt_order

SETTINGS = DecisionSettings()
CLIP = Guard("clip_score", "CLIP score", "difference", -0.3, 2.0, unit="points")
LANES = (
    LaneCost("ddim:20", "DDIM 20", 0.40, 40),
    LaneCost("unipc:10", "UniPC 10", 0.25, 20),
    LaneCost("ddim:5", "DDIM 5", 0.10, 10),
)


def _terms(lanes: tuple[LaneCost, ...] = LANES, goal: Goal = "same-picture", **changed: object) -> Terms:
    guards = (other_guard(SETTINGS), CLIP, excess_guard(SETTINGS)) if goal == "same-picture" else (CLIP,)
    calibration = Calibration(goal, "", guards, ())
    return fix_terms(SETTINGS, replace(calibration, **changed), "ddim:50", lanes)  # type: ignore[arg-type]


def _outcomes(n: int, others: dict[str, int], lanes: tuple[LaneCost, ...] = LANES) -> pd.DataFrame:
    """Lanes that draw with the baseline by CLIP and reference, and go elsewhere now and then."""
    tables = []
    for lane in lanes:
        other = np.zeros(n)
        other[np.linspace(n // 10, n - 1, others.get(lane.lane, 0)).astype(int)] = 1.0
        wiggle = np.where(np.arange(n) % 2, 0.2, -0.2)
        tables.append(
            pd.DataFrame({"lane": lane.lane, "position": np.arange(n), OTHER: other, "clip_score": wiggle, EXCESS: 0.0})
        )
    return pd.concat(tables, ignore_index=True)


def _status(decision: Decision) -> dict[str, str]:
    return {row.lane: row.status for row in decision.lanes}


def test_the_cheapest_lane_that_all_guards_accept_is_named_and_known() -> None:
    decision = decide(_terms(), _outcomes(120, {"ddim:5": 60}))
    assert _status(decision) == {"ddim:20": "accepted", "unipc:10": "accepted", "ddim:5": "dropped"}
    assert (decision.lane, decision.known, decision.stop, decision.exit_code) == ("unipc:10", True, "known", 0)
    assert decision.sentence.startswith("Use unipc:10: it keeps the picture and takes 25% of ddim:50's time.")


@pytest.mark.parametrize("n", [1, 5, 15, 30, 69])
def test_few_prompts_name_no_lane_however_good_they_look(n: int) -> None:
    decision = decide(_terms(), _outcomes(n, {}))
    assert decision.lane is None
    assert (decision.known, decision.stop, decision.exit_code) == (False, "", 3)
    assert decision.sentence.startswith("Keep ddim:50 for now.")
    assert "more prompts would tell of" in decision.sentence


def test_a_lane_has_its_share_of_alpha_and_that_of_the_accepted_lane_before_it() -> None:
    third = SETTINGS.alpha / 3
    decision = decide(_terms(), _outcomes(95, {"ddim:5": 3}))
    assert [row.level for row in decision.lanes] == pytest.approx([third, 2 * third, 3 * third])
    assert _status(decision) == {"ddim:20": "accepted", "unipc:10": "accepted", "ddim:5": "open"}
    stopped = decide(_terms(), _outcomes(95, {"ddim:20": 1}))
    assert [row.level for row in stopped.lanes] == pytest.approx([third, third, 2 * third])


def test_the_prompts_foretold_are_those_after_which_it_is_accepted() -> None:
    open_lane = decide(_terms(LANES[:1]), _outcomes(20, {}, LANES[:1])).lanes[0]
    assert open_lane.needed[0] == 50
    assert decide(_terms(LANES[:1]), _outcomes(69, {}, LANES[:1])).lane is None
    assert decide(_terms(LANES[:1]), _outcomes(70, {}, LANES[:1])).lane == "ddim:20"
    later = decide(_terms(LANES[:1]), _outcomes(20, {"ddim:20": 1}, LANES[:1])).lanes[0]
    assert later.needed[0] == 129 - 20
    assert later.needed[1] is None  # at 1.5 of 21 prompts no number would do


def test_interval_and_verdict_cannot_contradict_each_other() -> None:
    generator = np.random.default_rng(4)
    seen = set()
    for share in np.repeat([0.0, 0.02, 0.3], 6):
        outcomes = _outcomes(100, {}, LANES[:1])
        outcomes[OTHER] = (generator.random(100) < share).astype(float)
        lane = decide(_terms(LANES[:1]), outcomes).lanes[0]
        for row in lane.guards:
            inside = row.high < row.guard.bound if row.guard.kind == "event" else row.low > row.guard.bound
            assert row.shown == (inside and row.state != "refuted")
        seen.add(lane.status)
    assert seen == {"accepted", "open", "dropped"}


@pytest.mark.parametrize("absent", [OTHER, "clip_score", EXCESS])
def test_a_guard_without_values_is_no_consent(absent: str) -> None:
    for outcomes in (_outcomes(300, {}).drop(columns=absent), _outcomes(300, {}).assign(**{absent: np.nan})):
        decision = decide(_terms(), outcomes)
        assert decision.lane is None
        assert decision.exit_code == 3
        assert {row.status for row in decision.lanes} == {"open"}
        assert "no values" in decision.lanes[0].reason


def test_prompts_behind_a_gap_do_not_count() -> None:
    outcomes = _outcomes(300, {})
    gap = outcomes[outcomes["position"] != 40]
    assert decide(_terms(), gap).lane is None
    assert {row.n for row in decide(_terms(), gap).lanes} == {40}
    unmeasured = outcomes.assign(clip_score=outcomes["clip_score"].where(outcomes["position"] != 4))
    assert decide(_terms(), unmeasured).lanes[0].guards[1].state == "too few"
    assert leading([2, 0, 1, 5], [3.0, 1.0, 2.0, 9.0]).tolist() == [1.0, 2.0, 3.0]


def test_the_reference_may_end_once_its_guard_has_spoken() -> None:
    outcomes = _outcomes(120, {"ddim:5": 60})
    outcomes[EXCESS] = outcomes[EXCESS].where(outcomes["position"] < 20)
    decision = decide(_terms(), outcomes)
    assert decision.lane == "unipc:10"
    assert [row.n for row in decision.lanes[1].guards] == [120, 120, 20]


def test_failed_cells_keep_a_lane_from_being_named() -> None:
    decision = decide(_terms(), _outcomes(120, {"ddim:5": 60}), failed={"unipc:10": 3})
    assert _status(decision)["unipc:10"] == "refused"
    assert (decision.lane, decision.known) == ("ddim:20", False)
    assert "3 of its pictures failed" in decision.sentence


def test_a_veto_closes_a_lane_that_its_guards_accept() -> None:
    decision = decide(_terms(), _outcomes(120, {"ddim:5": 60}), vetoes={"unipc:10": "Voters prefer ddim:50."})
    assert _status(decision) == {"ddim:20": "accepted", "unipc:10": "refused", "ddim:5": "dropped"}
    assert (decision.lane, decision.known) == ("ddim:20", True)


def test_no_lane_is_accepted_before_what_may_veto_it_was_asked() -> None:
    decision = decide(_terms(goal="as-good"), _outcomes(300, {}), unheard=True, pool_left=9)
    assert (decision.lane, decision.known, decision.exit_code) == (None, False, 3)
    assert {row.status for row in decision.lanes} == {"open"}
    assert "which may veto it, are still to be asked" in decision.sentence
    assert "still to be asked" in decision.lanes[0].missing
    assert decide(_terms(goal="as-good"), _outcomes(300, {})).lane == "ddim:5"


def test_what_stops_the_whole_study_is_said_and_names_nothing() -> None:
    for decision in (
        decide(_terms(), _outcomes(300, {}), obstacles=["The reference failed for 2 prompts."]),
        decide(_terms(obstacles=("The reference failed for 2 prompts.",)), _outcomes(300, {})),
    ):
        assert (decision.lane, decision.known, decision.stop, decision.exit_code) == (None, False, "cannot tell", 3)
        assert decision.sentence.endswith("The reference failed for 2 prompts.")


def test_a_stochastic_lane_is_no_contender_where_pictures_have_to_be_kept() -> None:
    lanes = (replace(LANES[0], stochastic=True), *LANES[1:])
    same, good = _terms(lanes), _terms(lanes, "as-good")
    assert [lane.lane for lane in same.contenders] == ["unipc:10", "ddim:5"]
    assert len(good.contenders) == 3
    outcomes = _outcomes(120, {"ddim:5": 60})
    assert _status(decide(same, outcomes))["ddim:20"] == "refused"
    assert decide(good, outcomes).lane == "ddim:5"


def test_lanes_that_save_nothing_or_were_never_timed_are_no_contenders() -> None:
    lanes = (LaneCost("heun:50", "Heun 50", 1.9, 200), LaneCost("pndm:50", "PNDM 50", math.nan, 102), LANES[0])
    terms = _terms(lanes)
    assert [lane.lane for lane in terms.contenders] == ["ddim:20"]
    assert [why[:16] for _, why in terms.excluded] == ["It would save le", "It has not been "]
    assert decide(_terms(lanes[:1]), _outcomes(3, {})).exit_code == 0
    assert decide(_terms(lanes[:2]), _outcomes(3, {})).exit_code == 3  # times may come yet


def test_when_every_lane_is_dropped_the_baseline_is_known_to_stay() -> None:
    decision = decide(_terms(), _outcomes(60, {lane.lane: 40 for lane in LANES}))
    assert (decision.lane, decision.known, decision.exit_code) == (None, True, 0)
    assert decision.sentence == "Keep ddim:50: no cheaper lane is as good."


def test_open_lanes_that_would_save_little_do_not_hold_up_the_answer() -> None:
    lanes = (LANES[0], replace(LANES[1], cost=0.385), LANES[2])
    decision = decide(_terms(lanes), _outcomes(99, {"unipc:10": 6, "ddim:5": 60}, lanes))
    assert _status(decision) == {"ddim:20": "accepted", "unipc:10": "open", "ddim:5": "dropped"}
    assert (decision.lane, decision.known, decision.stop) == ("ddim:20", True, "little left to save")


def test_a_spent_pool_and_a_spent_budget_end_the_search_without_an_answer() -> None:
    outcomes = _outcomes(60, {})
    assert decide(_terms(), outcomes, pool_left=0).stop == "pool spent"
    assert decide(_terms(), outcomes, pool_left=9, budget_spent=True).stop == "budget spent"
    assert decide(_terms(), outcomes, pool_left=0).exit_code == 3
    assert "the pool has only 9 left" in decide(_terms(), outcomes, pool_left=9).sentence


def test_evidence_that_turns_on_itself_counts_against_the_lane() -> None:
    events = np.concatenate([np.zeros(80), np.ones(60)])
    found = weigh(other_guard(SETTINGS), events, 0.05, 0.05)
    assert found.p < 0.05
    assert found.state == "refuted"


def test_several_seeds_weigh_the_share_of_a_prompt_that_went_elsewhere() -> None:
    guard = other_guard(replace(SETTINGS, seeds=2))
    halves = np.where(np.arange(400) % 40 == 0, 0.5, 0.0)
    found = weigh(guard, halves, 0.05, 0.05)
    assert (found.state, found.events) == ("shown", 5.0)
    assert found.low <= 0.0125 <= found.high < 0.05
    assert weigh(guard, np.tile([0.5, 0.0], 30), 0.05, 0.05).state == "refuted"


def test_values_that_a_guard_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="no value of kind event"):
        weigh(other_guard(SETTINGS), [0.5], 0.05, 0.05)
    with pytest.raises(ValueError, match="two values"):
        leading([0, 1, 1], [0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="does not fit"):
        Guard("clip_score", "CLIP score", "difference", 0.3, 2.0)


def test_the_order_of_prompts_is_stored_and_new_ones_go_behind() -> None:
    prompts = [f"thing {number}" for number in range(40)]
    first = prompt_order(prompts, seed=3)
    assert first == prompt_order(prompts, seed=3) != prompt_order(prompts, seed=4)
    assert sorted(first) == sorted(prompts)
    more = prompt_order([*prompts, "new", "newer"], seed=3, stored=first)
    assert more[:40] == first
    assert sorted(more[40:]) == ["new", "newer"]
