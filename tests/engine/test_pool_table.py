"""The rule on real pictures: every prompt of the bundled model's pool, shuffled again and again."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.analysis.calibration import other_guard
from engine.analysis.simulate import acceptances
from engine.study.decision_settings import DecisionSettings

TABLE = Path(__file__).parents[1] / "assets" / "other_pictures.csv"
SCALE = 1.2444  # median relative distance of two prompts under the baseline
SHUFFLES = 200
CONTROLS = {"ddim:100", "ddim:2"}


@pytest.fixture(scope="module")
def others() -> pd.DataFrame:
    """1 where a lane gave another picture than the baseline, one row a prompt."""
    table = pd.read_csv(TABLE, comment="#", index_col="prompt")
    return (table > SCALE / 2).astype(float)


def _ever_accepted(column: pd.Series, share: float) -> float:
    """Share of shuffles in which a lane is accepted at any look, by the guard on other pictures alone."""
    generator = np.random.default_rng(0)
    values = np.stack([generator.permutation(column.to_numpy()) for _ in range(SHUFFLES)])
    guard = other_guard(DecisionSettings(other_share=share))
    accepted, _ = acceptances([guard], {guard.key: values[:, None, :]})
    return float(accepted.any(axis=-1).mean())


def test_the_controls_are_what_they_should_be_over_the_whole_pool(others: pd.DataFrame) -> None:
    assert len(others) == 396
    assert others["ddim:2"].mean() == 1.0
    assert others["ddim:100"].mean() < 0.01


@pytest.mark.parametrize("share", [0.005, 0.01, 0.02, 0.05])
def test_a_lane_that_goes_elsewhere_too_often_is_accepted_in_one_shuffle_of_twenty_at_most(
    others: pd.DataFrame, share: float
) -> None:
    bad = [lane for lane in others if others[lane].mean() >= share]
    assert bad
    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / SHUFFLES)
    for lane in bad:
        assert _ever_accepted(others[lane], share) <= limit


def test_lanes_that_keep_their_pictures_are_accepted(others: pd.DataFrame) -> None:
    kept = [lane for lane in others if others[lane].mean() <= 0.005]
    assert len(set(kept) - CONTROLS) >= 2
    for lane in kept:
        assert _ever_accepted(others[lane], 0.05) > 0.95
