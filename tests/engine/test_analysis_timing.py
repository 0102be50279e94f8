"""Timing summaries: figures that can be checked by hand, and the properties behind the intervals."""

import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from engine.analysis import timing_summary as timing

START = datetime(2026, 1, 1)  # noqa: DTZ001 - the cache holds UTC without a zone


def samples(lanes: dict[str, list[float]], **more: object) -> pd.DataFrame:
    """Raw samples: lane -> total milliseconds, of which the denoiser takes 80 %."""
    rows = []
    for lane, values in lanes.items():
        for repeat, value in enumerate(values):
            for stage, share in (("total", 1.0), ("denoiser", 0.8), ("text", 0.2)):
                rows.append(
                    {
                        "lane": lane,
                        "environment_id": "e",
                        "device_name": "device",
                        "batch_size": 1,
                        "repeat": repeat,
                        "stage": stage,
                        "seconds": value * share / 1000,
                        "nfe": int(lane.split(":")[1]),
                        "created_at": START + timedelta(seconds=repeat),
                        **more,
                    }
                )
    return pd.DataFrame(rows)


def test_medians_counts_and_speedup_are_those_of_the_samples() -> None:
    table = timing.summarise(
        samples({"ddim:50": [100, 110, 90, 100, 100], "euler:20": [40, 50, 60, 50, 50]}), "ddim:50"
    )
    assert table["lane"].tolist() == ["euler:20", "ddim:50"]
    fast, base = (row for _, row in table.iterrows())
    assert (fast["median_ms"], fast["n"], fast["nfe"]) == (pytest.approx(50), 5, 20)
    assert fast["denoiser_ms"] == pytest.approx(40)
    assert np.isnan(fast["decode_ms"])
    assert fast["speedup"] == pytest.approx(2.0)
    assert fast["low_ms"] <= fast["median_ms"] <= fast["high_ms"]
    assert fast["speedup_low"] <= fast["speedup"] <= fast["speedup_high"]
    assert base["speedup"] == 1.0
    assert np.isnan(base["speedup_low"])
    assert base["last_at"] == START + timedelta(seconds=4)


def test_equal_samples_give_equal_figures() -> None:
    raw = samples({"ddim:50": [100, 120, 90, 105, 98], "euler:20": [40, 44, 37, 41, 40]})
    pd.testing.assert_frame_equal(timing.summarise(raw, "ddim:50"), timing.summarise(raw, "ddim:50"))


@pytest.mark.parametrize("n", [timing.MIN_SAMPLES, 10, 25])
def test_the_interval_covers_the_true_median_about_as_often_as_it_says(n: int) -> None:
    generator = np.random.default_rng(n)
    intervals = [timing.median_interval(generator.normal(100, 10, n)) for _ in range(600)]
    assert np.mean([low <= 100 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.04)


def test_drawing_repeats_together_cancels_what_slowed_a_whole_round() -> None:
    rounds = np.array([1.0, 1.0, 1.5, 1.5, 2.0, 2.0, 2.5, 2.5, 3.0])
    base, lane = 100 * rounds, 50 * rounds
    low, high = timing.ratio_interval(base, lane, paired=True)
    assert (low, high) == (pytest.approx(2.0), pytest.approx(2.0))
    apart_low, apart_high = timing.ratio_interval(base, lane, paired=False)
    assert apart_high - apart_low > 0.5


def test_fewer_than_five_samples_have_a_median_but_no_interval() -> None:
    row = timing.summarise(samples({"ddim:50": [100, 102] * 2, "euler:20": [50, 51] * 2}), "ddim:50").iloc[0]
    assert row["median_ms"] == pytest.approx(50.5)
    assert row["settled"] == "too few"
    assert np.isnan([row["low_ms"], row["high_ms"], row["speedup_low"], row["speedup_high"]]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([100, 101, 99, 100, 100, 101], "settled"),
        ([100, 100, 100, 115, 115, 115], "unsettled"),  # drifts by 15 %
        ([60, 100, 140, 60, 100, 140], "unsettled"),  # spreads by far more than 25 %
        ([100, 100], "too few"),
    ],
)
def test_settled_needs_little_drift_and_little_spread(values: list[float], expected: str) -> None:
    assert timing.settled(np.array(values, dtype=float)) == expected


def test_environments_and_batch_sizes_are_never_mixed() -> None:
    raw = pd.concat(
        [
            samples({"ddim:50": [100, 100, 100], "euler:20": [50, 50, 50]}),
            samples({"euler:20": [10, 10, 10]}, environment_id="other"),
            samples({"ddim:50": [300, 300, 300]}, batch_size=4),
        ]
    )
    table = timing.summarise(raw, "ddim:50").set_index(["lane", "environment_id", "batch_size"])
    assert table.loc[("euler:20", "e", 1), "speedup"] == pytest.approx(2.0)
    assert np.isnan(table.loc[("euler:20", "other", 1), "speedup"])
    assert table.loc[("ddim:50", "e", 4), "median_ms"] == pytest.approx(300)


def test_no_samples_give_an_empty_table_with_all_columns() -> None:
    table = timing.summarise(samples({"ddim:50": [1.0]}).iloc[:0], "ddim:50")
    assert table.empty
    assert list(table.columns) == timing.COLUMNS


def test_it_imports_no_torch() -> None:
    code = "import sys, engine.analysis.timing_summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def two_places(first: datetime, second: datetime, *, batch_size: int = 1) -> pd.DataFrame:
    """Samples of one lane in environments "a" and "b", begun at these moments; those of "b" at a batch size."""
    parts = [
        samples({"ddim:50": [100.0] * 5}, environment_id="a", device_name="GPU A", created_at=first),
        samples({"ddim:50": [9.0] * 5}, environment_id="b", device_name="CPU B", created_at=second),
    ]
    return pd.concat([parts[0], parts[1].assign(batch_size=batch_size)], ignore_index=True)


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (two_places(START, START + timedelta(days=1)), ["b", "a"]),
        (two_places(START + timedelta(days=1), START), ["a", "b"]),
        (two_places(START, START), ["a", "b"]),
        (two_places(START, START + timedelta(days=1), batch_size=4), ["a", "b"]),
    ],
    ids=["the later one", "whatever their names", "the first name of two at once", "batch 1 before any other"],
)
def test_the_environment_that_was_timed_last_counts(times: pd.DataFrame, order: list[str]) -> None:
    shuffled = times.sample(frac=1, random_state=1)
    for table in (times, shuffled, timing.summarise(shuffled, "ddim:50")):
        assert timing.environments_by_last_timing(table) == order
        assert timing.counted_environment(table) == order[0]
        rows = timing.counted(table)
        assert set(rows["environment_id"]) == {order[0]}
        assert set(rows["batch_size"]) == {1}


def test_without_times_no_environment_counts() -> None:
    none = samples({"ddim:50": [1.0]}).iloc[:0]
    assert timing.counted_environment(none) is None
    assert timing.counted(none).empty
    only_batches = samples({"ddim:50": [1.0] * 5}).assign(batch_size=4)
    assert timing.counted_environment(only_batches) == "e"
    assert timing.counted(only_batches).empty, "a time of four pictures is not the time of one"
