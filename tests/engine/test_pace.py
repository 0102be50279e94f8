"""Ratios of interleaved times, their intervals, and the order of cost."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from engine.analysis.decision import LaneCost
from engine.analysis.pace import by_cost, median_interval, pace, paired_paces, runs_of


def _samples(slow: np.ndarray, runs: int = 1) -> pd.DataFrame:
    """Lanes of which each takes half the time of the one before, under a load that all share."""
    rows = [
        {"lane": lane, "run": run, "repeat": repeat, "seconds": factor * load}
        for run in range(runs)
        for repeat, load in enumerate(slow)
        for lane, factor in (("a", 1.0), ("b", 0.5), ("c", 0.25))
    ]
    return pd.DataFrame(rows)


def test_a_load_that_all_lanes_share_leaves_no_trace_in_their_ratios() -> None:
    load = np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.5, 12)))
    found = paired_paces(_samples(load), "a")
    assert found["b"].value == pytest.approx(0.5)
    assert (found["c"].low, found["c"].high) == pytest.approx((0.25, 0.25))
    assert math.isnan(found["a"].low)
    assert paired_paces(_samples(load), "none of them") == {}


def test_only_repeats_that_both_lanes_have_count() -> None:
    samples = _samples(np.ones(8))
    short = samples[~((samples["lane"] == "b") & (samples["repeat"] > 3))]
    assert paired_paces(short, "a")["b"].n == 4
    assert paired_paces(short, "a")["b"].scope == "too few samples for an interval"


@pytest.mark.parametrize("n", [5, 6, 7, 10, 20])
@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_of_a_median_covers_it_whatever_the_distribution(n: int, skewed: bool) -> None:
    generator, studies = np.random.default_rng(n), 2000
    draws = generator.exponential(size=(studies, n)) if skewed else generator.normal(size=(studies, n))
    truth = math.log(2) if skewed else 0.0
    ends = np.array([median_interval(row) for row in draws])
    covered = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()
    promised = 0.9375 if n == 5 else 0.95
    assert covered >= promised - 2.5 * math.sqrt(0.05 * 0.95 / studies)


def test_five_samples_give_their_extremes_and_four_no_interval() -> None:
    assert median_interval(np.array([3.0, 1.0, 2.0, 5.0, 4.0])) == (1.0, 5.0)
    assert all(math.isnan(end) for end in median_interval(np.ones(4)))


def test_several_runs_have_the_scatter_between_them_in_their_interval() -> None:
    generator = np.random.default_rng(6)
    shifts = np.exp(generator.normal(0, 0.3, 6))
    values = (shifts[:, None] * np.exp(generator.normal(0, 0.01, (6, 10)))).ravel()
    runs = np.repeat(np.arange(6), 10)
    several, one = pace(values, runs), pace(values[:10], runs[:10])
    assert several.high / several.low > 1.3 > one.high / one.low
    assert several.low < 1 < several.high
    assert (one.scope, several.scope) == ("holds for this run", "holds from run to run, of 6 runs")
    with pytest.raises(ValueError, match="not positive"):
        pace([1.0, 0.0], [0, 0])


def test_a_pause_of_more_than_an_hour_begins_a_new_run() -> None:
    hours = pd.Series([26.0, 0.0, 0.2, 25.5, 1.1])
    taken = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(hours, unit="h")
    assert runs_of(taken).tolist() == [1, 0, 0, 1, 0]


def test_lanes_are_ordered_by_time_and_near_ties_by_calls() -> None:
    lanes = [
        LaneCost("cheap", "", 0.10, 10),
        LaneCost("near, more calls", "", 0.485, 45),
        LaneCost("dear", "", 0.50, 40),
        LaneCost("untimed", "", math.nan, 5),
        LaneCost("apart", "", 0.47, 60),
    ]
    assert [lane.lane for lane in by_cost(lanes)] == ["untimed", "near, more calls", "dear", "apart", "cheap"]
    assert by_cost(lanes[::-1]) == by_cost(lanes)
    for first, second in pairwise(by_cost(lanes)[1:]):
        assert second.cost < first.cost / 0.95
