"""What the controls fix before any candidate: scale, margins, goal, and the right to guard."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from engine.analysis.calibration import (
    Calibration,
    GuardMetric,
    calibrate,
    exceeds,
    is_other,
    picture_scale,
)
from engine.analysis.guards import EXCESS, OTHER
from engine.study.decision_settings import DecisionSettings

SETTINGS = DecisionSettings()
CLIP = GuardMetric("clip_score", "CLIP score")
RECOGNISED = GuardMetric("recognised", "recognised", margin=0.05, span=1.0)


def _values(loss: float = 5.0, n: int = 30, metric: str = "clip_score") -> pd.DataFrame:
    """A baseline with a seed noise of about 1 and a negative control that loses so much."""
    generator = np.random.default_rng(2)
    baseline = generator.normal(28, 2, n)
    again = baseline + generator.choice([-1.0, 1.0], n) * generator.uniform(0.5, 1.5, n)
    negative = baseline - loss + generator.normal(0, 1, n)
    return pd.DataFrame(
        {"metric": metric, "position": np.arange(n), "baseline": baseline, "again": again, "negative": negative}
    )


def _controls(positive: int = 0, n: int = 30) -> pd.DataFrame:
    positives = (np.arange(n) < positive).astype(float)
    return pd.DataFrame({"positive": positives, "negative": np.ones(n), "excess": np.ones(n)})


def _calibrated(settings: DecisionSettings = SETTINGS, **changed: pd.DataFrame) -> Calibration:
    tables = {"values": _values(), "controls": _controls()} | changed
    return calibrate(settings, [CLIP], tables["values"], tables["controls"], referenced=True)


def test_margin_and_reach_follow_from_seed_noise_and_the_negative_control() -> None:
    values = _values()
    found = _calibrated()
    assert (found.goal, found.obstacles) == ("same-picture", ())
    assert [guard.key for guard in found.guards] == [OTHER, "clip_score", EXCESS]
    noise = (values["baseline"] - values["again"]).abs().mean()
    loss = values["baseline"] - values["negative"]
    least = stats.ttest_1samp(loss, 0.0).confidence_interval(0.90).low  # the lower end of a two-sided 90 % interval
    clip = found.guards[1]
    assert clip.reach == pytest.approx(2 * noise)
    assert -clip.bound == pytest.approx(min(0.3 * noise, 0.05 * least))
    assert 0.05 * least < 0.3 * noise
    strong = _calibrated(values=_values(loss=20.0)).guards[1]
    assert -strong.bound == pytest.approx(0.3 * noise)


def test_a_metric_that_cannot_tell_the_negative_control_from_the_baseline_guards_nothing() -> None:
    for loss in (0.0, -5.0):
        found = _calibrated(values=_values(loss))
        assert len(found.obstacles) == 1
        assert found.obstacles[0].startswith("CLIP score can't guard: it does not tell the negative control")
    level = _values(0.0, metric="recognised").assign(baseline=1.0, again=1.0, negative=1.0)
    found = calibrate(SETTINGS, [RECOGNISED], level, _controls())
    assert found.obstacles == (
        "No verdict can rest on recognised: in 30 prompts the negative control is not found worse by it.",
    )
    assert calibrate(SETTINGS, [RECOGNISED], level.assign(negative=0.0), _controls()).obstacles == ()
    both = calibrate(SETTINGS, [CLIP, RECOGNISED], pd.concat([_values(), level]), _controls())
    assert both.obstacles == ()  # the CLIP score finds it, and both have to consent
    assert [guard.key for guard in both.guards] == [OTHER, "clip_score", "recognised"]
    assert [check.passed for check in both.checks] == [True, True, False]


@pytest.mark.parametrize("column", ["negative", "excess"])
def test_a_control_that_keeps_its_pictures_or_was_not_measured_gives_no_guard(column: str) -> None:
    for told in (0.0, math.nan):
        found = _calibrated(controls=_controls().assign(**{column: told}))
        assert len(found.obstacles) == 1
        assert "the negative control is not found worse by it" in found.obstacles[0]
    assert len(_calibrated(controls=_controls().drop(columns=column)).obstacles) == 1


def test_lost_values_of_the_negative_control_make_margins_smaller_never_wider() -> None:
    values = _values()
    lost = values.assign(negative=values["negative"].where(values["position"] > 9))
    whole, part = (_calibrated(values=table).guards[1] for table in (values, lost))
    assert -part.bound < -whole.bound


def test_a_baseline_whose_double_goes_elsewhere_is_asked_for_pictures_as_good() -> None:
    kept, apart = _calibrated(controls=_controls(3)), _calibrated(controls=_controls(4))
    assert (kept.goal, apart.goal) == ("same-picture", "as-good")
    assert [guard.key for guard in apart.guards] == ["clip_score"]
    assert "another picture in 4 of 30 prompts" in apart.goal_reason
    asked = _calibrated(replace(SETTINGS, goal="same-picture"), controls=_controls(4))
    assert asked.goal == "same-picture"
    assert asked.obstacles[0].startswith("Pictures can't be kept here")
    unknown = _calibrated(controls=_controls().assign(positive=math.nan))
    assert unknown.goal == "same-picture"
    assert "has not been made" in unknown.obstacles[0]


def test_too_few_prompts_do_not_calibrate() -> None:
    found = _calibrated(values=_values(n=12), controls=_controls(n=12))
    assert "Calibration takes 30 prompts; 18 more to go." in found.obstacles
    assert any("takes two seeds of the baseline for 30 prompts; 12 are there" in why for why in found.obstacles)


def test_guards_that_were_asked_for_and_are_not_there_stop_the_study() -> None:
    found = _calibrated(replace(SETTINGS, guards=("clip_score", "pickscore")))
    assert found.obstacles == ("Guard 'pickscore' has no values here.",)
    nothing = calibrate(SETTINGS, [], _values().iloc[:0], _controls())
    assert nothing.obstacles == ("No metric of what the pictures show can guard; score the study with CLIP first.",)


def test_the_scale_is_the_median_distance_of_two_prompts_of_one_seed() -> None:
    latents = np.random.default_rng(8).normal(size=(6, 4, 8, 8)).astype(np.float32)
    seeds = [0, 0, 0, 1, 1, 1]
    ratios = [
        np.linalg.norm(latents[i] - latents[j]) / np.linalg.norm(latents[j])
        for i in range(6)
        for j in range(6)
        if i != j and seeds[i] == seeds[j]
    ]
    assert picture_scale(latents, seeds) == pytest.approx(np.median(ratios), rel=1e-6)
    assert math.isnan(picture_scale(latents[:2], [0, 1]))


def test_what_cannot_be_told_counts_as_another_picture_and_as_too_far() -> None:
    assert is_other([0.1, 0.5, 0.7, math.nan], 1.2).tolist() == [0, 0, 1, 1]
    assert is_other([0.0], math.nan).tolist() == [1]
    assert exceeds([0.1, 0.2, math.nan, 0.1], [0.1, 0.1, 0.1, math.nan], 0.05).tolist() == [0, 1, 1, 1]
