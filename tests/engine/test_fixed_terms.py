"""Terms of a decision as the cache keeps them."""

import copy
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine.analysis.calibration import Calibration, ControlCheck, other_guard
from engine.analysis.decision import LaneCost, fix_terms
from engine.analysis.fixed_terms import FixedTerms, decision_by, read_terms
from engine.analysis.guards import OTHER, Guard
from engine.study.decision_settings import DecisionSettings

SETTINGS = DecisionSettings(other_share=0.1, shown_only=("euler_a:30",))
GUARDS = (other_guard(SETTINGS), Guard("clip_score", "CLIP score", "difference", -0.3, 2.0, unit="100 cos"))
CHECKS = (ControlCheck(OTHER, "other pictures", 30, 40.5, 0.0, True),)
LANES = [LaneCost("pndm:50", "PNDM 50", math.nan, 102), LaneCost("ddim:20", "DDIM 20", 0.4, 40)]
FIXED = FixedTerms(
    fix_terms(SETTINGS, Calibration("same-picture", "Asked.", GUARDS, CHECKS), "ddim:50", LANES),
    ("red apple", "owl"),
    1.24,
    "digest",
)


def _evidence(n: int) -> pd.DataFrame:
    rows = [("ddim:20", guard.key, k, 0.0) for k in range(n) for guard in GUARDS]
    return pd.DataFrame(rows, columns=["lane", "guard", "position", "value"])


def test_terms_come_back_from_the_text_they_are_stored_as() -> None:
    again = read_terms(json.loads(json.dumps(FIXED.spec(), allow_nan=False)))
    assert again.spec() == FIXED.spec()
    assert again.terms.contenders == FIXED.terms.contenders
    assert again.terms.calibration == FIXED.terms.calibration
    assert again.terms.settings == SETTINGS


def test_they_are_told_in_sentences() -> None:
    assert FIXED.lines == [
        'Goal "same-picture". Asked.',
        "To be shown of a lane: other pictures in fewer than 10 % of prompts; "
        "CLIP score falls by less than 0.3 (100 cos).",
        "Lanes by their share of ddim:50's time, dearest first: ddim:20 (40%).",
    ]
    why = 'Attributes does not guard: "a seal": it names nothing.'
    calibration = Calibration("as-good", "Asked.", GUARDS[1:], (), set_distance=0.0123, left_out=(why,))
    as_good = FixedTerms(fix_terms(SETTINGS, calibration, "ddim:50", LANES), (), 1.24, "")
    assert as_good.lines[2:] == [why, "A KID to ddim:50 surely above 0.012 vetoes it.", FIXED.lines[-1]]
    assert read_terms(json.loads(json.dumps(as_good.spec()))).lines == as_good.lines
    stuck = FixedTerms(fix_terms(SETTINGS, replace(calibration, obstacles=("No CLIP.",)), "ddim:50", LANES), (), 1, "")
    assert stuck.lines == ['Goal "as-good". Asked.']


def test_terms_of_before_sets_had_a_tolerance_tolerate_nothing() -> None:
    spec = FIXED.spec()
    for value in (None, 0.0):
        assert read_terms(_with(("calibration", "set_distance"), value)).terms.calibration.set_distance == 0.0
    del spec["calibration"]["set_distance"]
    assert read_terms(spec).terms.calibration.set_distance == 0.0


def _with(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    spec = copy.deepcopy(FIXED.spec())
    inner: Any = spec
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return spec


@pytest.mark.parametrize(
    "spec",
    [
        {},
        _with(("baseline",), None),
        _with(("calibration", "goal"), "anything"),
        _with(("calibration", "guards", 0, "bound"), 7.0),
        _with(("calibration", "guards", 0, "bound"), None),
        _with(("calibration", "guards", 0, "kind"), "whatever"),
        _with(("calibration", "checks", 0, "n"), "many"),
        _with(("contenders", 0, "cost"), math.inf),
        _with(("contenders", 0, "lane"), 3),
        _with(("order",), ["owl", "owl"]),
        _with(("settings", "alpha"), 0.9),
        _with(("settings", "unknown"), 1),
        _with(("excluded",), 5),
    ],
)
def test_what_is_no_terms_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_terms(spec)


def test_the_decision_follows_from_stored_evidence() -> None:
    assert decision_by(FIXED, _evidence(20), {}).lane is None
    found = decision_by(FIXED, _evidence(70), {"left": 0})
    assert (found.lane, found.known, found.stop) == ("ddim:20", False, "pool spent")  # a lane has no times yet
    failed = decision_by(FIXED, _evidence(70), {"failed": {"ddim:20": 1}, "left": 0})
    assert (failed.lane, failed.stop) == (None, "pool spent")
    stuck = decision_by(FIXED, _evidence(70), {"obstacles": ["No CLIP."]})
    assert (stuck.lane, stuck.stop) == (None, "cannot tell")


def test_other_pictures_are_named_only_once_sets_and_votes_were_asked() -> None:
    calibration = Calibration("as-good", "Asked.", GUARDS[1:], ())
    fixed = FixedTerms(fix_terms(SETTINGS, calibration, "ddim:50", LANES[1:]), ("owl",), 1.24, "")
    shown = _evidence(200)[lambda rows: rows["guard"] == "clip_score"]
    found = [decision_by(fixed, shown, state).lane for state in ({}, {"unheard": True}, {"unheard": False})]
    assert found == [None, None, "ddim:20"]


def test_a_lane_without_times_leaves_the_answer_open() -> None:
    untimed = fix_terms(SETTINGS, FIXED.terms.calibration, "ddim:50", LANES[:1])
    found = decision_by(FixedTerms(untimed, (), 1.24, ""), _evidence(0), {"left": 0})
    assert (found.lane, found.known, found.exit_code) == (None, False, 3)
    assert "has not been timed" in found.sentence


def test_evidence_or_a_state_that_is_none_is_refused() -> None:
    halves = _evidence(3).assign(value=0.5)
    for table in (pd.concat([_evidence(3), _evidence(1)]), halves):
        with pytest.raises(ValueError):
            decision_by(FIXED, table, {})
    with pytest.raises(ValueError):
        decision_by(FIXED, _evidence(3), {"failed": {"ddim:20": "many"}})
    assert decision_by(FIXED, _evidence(70).assign(value=np.inf), {}).lane is None


def test_a_study_that_was_changed_after_candidates_were_looked_at_says_so() -> None:
    changed = FixedTerms(FIXED.terms, FIXED.order, FIXED.scale, "other", changed=True)
    assert decision_by(changed, _evidence(70), {}).sentence.endswith("changed after candidates had been looked at.")
