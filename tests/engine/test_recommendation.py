"""The lane that is recommended is the one that the decision names."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from engine.analysis import timing_summary as timing
from engine.analysis.comparison import compare
from engine.analysis.decision import Decision, LaneDecision
from engine.analysis.recommendation import recommend, undecided, use_cases
from tests.engine.test_comparison import described, noisy, plus, table


def times(milliseconds):
    start = pd.Timestamp("2026-01-01")
    rows = [
        {
            "lane": lane,
            "environment_id": "e",
            "device_name": "device",
            "batch_size": 1,
            "repeat": repeat,
            "stage": "total",
            "seconds": value / 1000 * (1 + 0.001 * repeat),
            "nfe": 1,
            "created_at": start,
        }
        for lane, value in milliseconds.items()
        for repeat in range(10)
    ]
    return pd.DataFrame(rows)


def decided(accepted=(), dropped=()):
    """A decision that is over: of what was accepted the last is the cheapest."""
    status = dict.fromkeys(accepted, "accepted") | dict.fromkeys(dropped, "dropped")
    rows = tuple(
        LaneDecision(lane, lane, word, word == "dropped", 0.5, 0.05, 0.01, 130, (), (0, 0), "Because.")
        for lane, word in status.items()
    )
    return Decision("base", "same-picture", accepted[-1] if accepted else None, True, "known", rows, "So it is.")


def recommended(quality, metrics, timings, decision=None, metric="clip_score"):
    """What `Results.recommendation` makes of these tables."""
    summaries = timing.summarise(timing.counted(timings), "base")
    found = compare(quality, metrics, "base")
    return recommend(summaries, found, "base", metric, decision, scored=metric in set(quality["metric"]))


ALIKE = {"base": 100, "fast": 40, "faster": 20, "slow": 80}


@pytest.fixture(scope="module")
def alike():
    """Lanes that no metric tells from the baseline."""
    base = noisy(1.0)
    return table({"base": base} | {lane: plus(base, noisy(0.1, 0, seed)) for seed, lane in enumerate(ALIKE, 1)})


def test_the_lane_that_the_decision_names_is_recommended_with_its_times_and_those_passed_over(alike):
    decision = decided(accepted=("slow", "fast"), dropped=("faster",))
    found = recommended(alike, described("clip_score"), times(ALIKE), decision)
    assert (found.best.lane, found.runner_up.lane) == ("fast", "slow")
    assert found.passed_over == (("faster", "not as good"),)
    assert found.best.speedup == pytest.approx(2.5)
    assert found.lines[0] == "So it is."
    assert "fast: 40 ms [40, 40] (n = 10), 2.50 times as fast [2.50, 2.50] on device" in found.lines[1]


@pytest.mark.parametrize("decision", [None, decided(), decided(dropped=("fast", "faster", "slow"))])
def test_whatever_single_metrics_say_the_baseline_stays_where_no_lane_was_accepted(alike, decision):
    found = recommended(alike, described("clip_score"), times(ALIKE), decision)
    assert found.best.lane == "base"
    assert {lane for lane, _ in found.passed_over} == {"fast", "faster", "slow"}
    assert found.lines[0] == ("So it is." if decision else undecided("base"))


def test_accepted_lanes_that_are_faster_in_other_times_are_named_as_such_and_not_as_passed_over(alike):
    decision = decided(accepted=("slow", "fast"), dropped=("faster",))
    elsewhere = times({"base": 50, "fast": 60, "slow": 30, "faster": 20})
    found = recommended(alike, described("clip_score"), elsewhere, decision)
    assert (found.best.lane, found.runner_up.lane) == ("fast", "slow")
    assert (found.faster, found.passed_over) == (("slow",), (("faster", "not as good"),))
    assert not found.order_is_open
    assert "Also as good, and faster by these times: slow." in found.lines
    assert recommended(alike, described("clip_score"), times(ALIKE), decision).faster == ()


def test_of_few_timing_samples_nothing_is_recommended_and_what_is_not_timed_is_named(alike):
    samples, decision = times(ALIKE), decided(accepted=("slow", "fast"))
    some = samples[(samples["lane"] != "fast") | (samples["repeat"] < 4)]
    found = recommended(alike, described("clip_score"), some, decision)
    assert (found.best, found.lines) == (None, ("So it is.", found.reason)), "slow is accepted, too, but not named"
    assert found.reason == "The decision names fast, which has too few timing samples here: 4, 5 are needed."
    other = samples[(samples["lane"] != "slow") | (samples["repeat"] < 4)]
    assert recommended(alike, described("clip_score"), other, decision).untimed == ("slow",)
    few = recommended(alike, described("clip_score"), samples[samples["repeat"] < 2], decision)
    assert few.best is None
    assert "Too few timing samples of the baseline: 2, 5 are needed" in few.reason


def test_lanes_whose_times_overlap_leave_their_order_open(alike):
    decision = decided(accepted=("slow", "fast"))
    apart = recommended(alike, described("clip_score"), times({"base": 100, "fast": 40, "slow": 41}), decision)
    close = recommended(alike, described("clip_score"), times({"base": 100, "fast": 40, "slow": 40.01}), decision)
    assert (apart.order_is_open, close.order_is_open) == (False, True)
    assert "which is cheaper is open" in "\n".join(close.lines)


def test_without_times_or_values_there_is_no_recommendation_and_the_reason(alike):
    untimed = times({}).reindex(columns=["lane", "environment_id", "batch_size", "stage"])
    assert "has been timed" in recommended(alike, described("clip_score"), untimed).lines[0]
    assert "score it first" in recommended(alike, described("ssim"), times({"base": 1}), metric="ssim").lines[0]
    assert "baseline has not been timed" in recommended(alike, described("clip_score"), times({"fast": 1})).lines[0]


def real_time(*rows, obstacles=()):
    """What is said of real time, where a lane may take half of the baseline's time."""
    lanes = tuple(
        LaneDecision(lane, lane, word, closed, cost, level, 0.5, 9, (), (None, None), f"Why {lane}.")
        for lane, word, closed, cost, level in rows
    )
    *_, said = use_cases(replace(decided(), lanes=lanes, obstacles=obstacles), "base")
    assert said.lane == ""
    return said.why


DROPPED, SLOW = ("a", "dropped", True, 0.4, 0.05), ("slow", "dropped", True, 0.8, 0.05)
FAILED, VETOED = ("b", "refused", False, 0.4, 0.05), ("c", "refused", True, 0.4, 0.05)
UNTIMED, LEFT_OUT = ("d", "refused", False, math.nan, 0.0), ("e", "refused", True, 0.4, 0.0)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([DROPPED, SLOW], "of the lanes asked about, none this fast is as good"),
        ([SLOW], "of the lanes asked about, none is this fast"),
        ([SLOW, LEFT_OUT], "of the lanes asked about, none is this fast"),
        ([DROPPED, FAILED], "it cannot be told yet. b: Why b."),
        ([DROPPED, VETOED], "none is known to be. c: Why c."),
        ([SLOW, UNTIMED], "it cannot be told yet. d: Why d."),
    ],
)
def test_only_lanes_that_were_refuted_are_said_not_to_be_as_good(rows, why):
    assert real_time(*rows) == why
    assert real_time(*rows, obstacles=("No CLIP.", "No time.")) == "it cannot be told yet. No CLIP."


def test_without_a_decision_or_with_open_lanes_it_is_said_what_comes_next():
    assert use_cases(None, "base")[-1].why == "not asked yet"
    waiting = ("f", "open", False, 0.4, 0.05)
    assert real_time(DROPPED, FAILED, waiting) == "none is known to be; f comes next. Why f."
