"""Lanes are compared with the baseline pair by pair, and worded by direction."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from engine.analysis.comparison import Floor, compare, comparison_rows, undecided_lines
from tests.engine.claim_worlds import metric_row


def table(lanes, prompts=20, seeds=2, metric="clip_score"):
    """Quality rows: lane -> function of (prompt, seed)."""
    rows = [
        {"lane": lane, "prompt": f"p{p}", "seed": s, "metric": metric, "value": value(p, s)}
        for lane, value in lanes.items()
        for p in range(prompts)
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def described(*keys):
    return pd.DataFrame([vars(metric_row(key)) for key in keys])


def noisy(scale, shift=0.0, key=0):
    values = np.random.default_rng(key).normal(shift, scale, (1000, 10))
    return lambda p, s: float(values[p, s])


def plus(first, second):
    return lambda p, s: first(p, s) + second(p, s)


def test_comparisons_are_paired_and_worded_by_direction():
    base = noisy(1.0)
    lanes = {
        "base": base,
        "same": plus(base, noisy(0.1, 0, 1)),
        "down": plus(base, noisy(0.1, -3, 2)),
        "up": plus(base, noisy(0.1, 3, 3)),
        "wild": plus(base, noisy(9, 0, 4)),
    }
    found = {row.lane: row for row in compare(table(lanes), described("clip_score"), "base")}
    assert {lane: row.verdict for lane, row in found.items()} == {
        "same": "equivalent",
        "down": "worse",
        "up": "better",
        "wild": "undecided",
    }
    assert found["down"].difference.value == pytest.approx(-3, abs=0.1)
    assert (found["same"].difference.n, found["same"].difference.pairs) == (20, 40)
    assert 0 < found["same"].margin < 0.3 * 2 / np.sqrt(np.pi)
    assert found["same"].margin_from == "0.3 of the baseline's seed-to-seed noise, its lower 95 % bound"
    errors = table(lanes, metric="latent_error")
    words = {row.lane: row.verdict for row in compare(errors, described("latent_error"), "base")}
    assert (words["down"], words["up"]) == ("better", "worse")
    words = {row.lane: row.verdict for row in compare(table(lanes, metric="sharpness"), described("sharpness"), "base")}
    assert (words["down"], words["up"]) == ("lower", "higher")


def test_what_would_decide_the_undecided_is_said_and_holds():
    base = noisy(1.0)
    lanes = {"base": base, "same": plus(base, noisy(0.1, 0, 1)), "wild": plus(base, noisy(2, 0, 4))}
    rows = {row.lane: row for row in compare(table(lanes), described("clip_score"), "base")}
    (line,) = undecided_lines(list(rows.values()))
    wild = rows["wild"]
    assert line.startswith(f"CLIP score, wild: 20 prompts find a difference of {wild.detectable:.3g} with 80 % power; ")
    assert line.endswith(f"equality within {wild.margin:.3g} needs about {wild.prompts_needed:,} prompts.")
    prompts = wild.prompts_needed
    assert 20 < prompts < 1000
    apart = replace(wild, difference=replace(wild.difference, low=0.1, high=9.0))
    assert apart.prompts_needed is None  # the interval excludes equality: no number of prompts shows it
    again = {"base": base, "wild": plus(base, noisy(2 * 0.3, 0, 4))}  # noise a third as large: a tenth of the prompts
    fewer = compare(table(again), described("clip_score"), "base")[0].prompts_needed
    assert fewer == pytest.approx(0.09 * prompts, rel=0.2)
    (alone,) = compare(table({"base": base, "x": noisy(1, 0, 1)}, prompts=40, seeds=1), described("clip_score"), "base")
    assert alone.prompts_needed is None
    assert "equality" not in undecided_lines([alone])[0]


def test_a_difference_that_is_real_but_within_the_margin_is_not_worse():
    base = noisy(1.0)
    few = {"base": base, "behind": plus(base, noisy(0.02, -0.15, 1)), "far": plus(base, noisy(0.02, -0.6, 2))}
    behind, far = compare(table(few), described("clip_score"), "base")
    assert behind.difference.high < 0
    assert (behind.verdict, far.verdict) == ("equivalent", "worse")
    rows = compare(table({"base": base, "edge": plus(base, noisy(0.5, -0.25, 1))}), described("clip_score"), "base")
    assert rows[0].difference.high < 0
    assert rows[0].verdict == "undecided"


@pytest.mark.parametrize("seed", range(30))
def test_a_verdict_never_contradicts_the_interval_that_is_shown(seed):
    generator = np.random.default_rng(seed)
    rare = np.where(generator.uniform(size=(30, 2)) < 0.08, -8.6, 0.0) + generator.normal(0, 0.2, (30, 2))
    base = noisy(6.0, key=seed)
    lanes = {
        "base": base,
        "skewed": plus(base, lambda p, s: rare[p, s]),
        "shifted": plus(base, noisy(1.0, generator.normal(0, 1.5), seed + 100)),
    }
    for row in compare(table(lanes, prompts=int(generator.integers(5, 30))), described("clip_score"), "base"):
        low, high = row.difference.low, row.difference.high
        if row.verdict == "equivalent":
            assert -row.margin < low <= high < row.margin
        if row.verdict in {"better", "worse"}:
            assert low > row.margin or high < -row.margin


def test_ones_and_zeros_of_a_metric_without_bounds_prove_nothing_by_being_alike():
    lanes = {"base": lambda p, s: 1.0, "same": lambda p, s: 1.0, "none": lambda p, s: 0.0}
    metric = described("recognised").assign(span=np.nan)
    rows = compare(table(lanes, prompts=40, metric="recognised"), metric, "base")
    assert [row.verdict for row in rows] == ["undecided", "undecided"]
    assert all(math.isnan(row.difference.low) for row in rows)
    (line, _) = undecided_lines(rows)
    assert "all 40 prompts give the same difference, and the metric has no bounds" in line
    assert "all prompts alike" in comparison_rows(rows)[1]


def test_a_bounded_metric_without_any_difference_says_how_many_prompts_equality_takes():
    lanes = {"base": lambda p, s: 1.0, "same": lambda p, s: 1.0, "none": lambda p, s: 0.0}
    same, none = compare(table(lanes, prompts=24, metric="recognised"), described("recognised"), "base")
    assert (same.verdict, same.prompts_needed, none.verdict) == ("undecided", 59, "worse")
    assert undecided_lines([same])[0].endswith("equality within 0.05 needs about 59 prompts.")
    alone = {lane: lanes[lane] for lane in ("base", "same")}  # beside other lanes it takes more
    for prompts, verdict in ((58, "undecided"), (59, "equivalent")):
        (row,) = compare(table(alone, prompts=prompts, metric="recognised"), described("recognised"), "base")
        assert row.verdict == verdict


def test_pictures_without_a_ground_truth_are_counted_and_keep_a_lane_from_being_equivalent():
    base = noisy(0.01, 0.2)
    lanes = {"base": base, "same": plus(base, noisy(0.001, 0, 1)), "far": plus(base, noisy(0.001, 0.4, 2))}
    values = table(lanes, metric="latent_error")
    gone = (values["prompt"] == "p3") & (values["seed"] == 1)
    lost = values[gone].assign(reason="no ground truth")[["lane", "prompt", "seed", "metric", "reason"]]
    kept = values[~gone]
    assert [row.verdict for row in compare(kept, described("latent_error"), "base")] == ["equivalent", "worse"]
    rows = compare(kept, described("latent_error"), "base", unscored=lost)
    assert [(row.verdict, row.missing) for row in rows] == [("undecided", 1), ("worse", 1)]
    assert rows[0].extent == "20 prompts, 39 pairs, 1 without a value"
    assert "without a value of 1 of 40 pairs it can't be called equivalent" in undecided_lines(rows)[0]
    assert rows[0].prompts_needed is None


def test_the_margin_is_the_decisions_where_it_fixed_one_and_narrow_where_few_prompts_show_the_seed_noise():
    base = noisy(1.0)
    lanes = {"base": base, "same": plus(base, noisy(0.1, 0, 1))}
    (given,) = compare(table(lanes), described("clip_score"), "base", margins={"clip_score": 0.07})
    assert (given.margin, given.margin_from) == (0.07, "fixed by the calibration of the decision")
    margins = [compare(table(lanes, prompts=n), described("clip_score"), "base")[0].margin for n in (8, 200)]
    assert margins[0] < margins[1] < 0.3 * 2 / np.sqrt(np.pi)
    (few,) = compare(table(lanes, prompts=4), described("clip_score"), "base")
    assert math.isnan(few.margin)
    assert "few prompts of two seeds" in few.margin_from


def test_too_few_pairs_have_no_verdict_and_one_seed_has_no_margin():
    lanes = {"base": noisy(1.0), "same": noisy(1.0)}
    assert compare(table(lanes, prompts=14), described("clip_score"), "base")[0].verdict == "too few"
    (row,) = compare(table(lanes, prompts=40, seeds=1), described("clip_score"), "base")
    assert math.isnan(row.margin)
    assert row.verdict == "undecided"


def test_pictures_that_are_all_alike_recognised_prove_less_than_they_seem():
    lanes = {"base": lambda p, s: 1.0, "same": lambda p, s: 1.0}
    (few,) = compare(table(lanes, prompts=24, metric="recognised"), described("recognised"), "base")
    assert few.verdict == "undecided"
    assert few.difference.low == pytest.approx(-(1 - 0.05 ** (1 / 24)))
    (many,) = compare(table(lanes, prompts=80, metric="recognised"), described("recognised"), "base")
    assert many.verdict == "equivalent"


def test_only_prompts_and_seeds_of_both_lanes_count():
    values = table({"base": noisy(1.0), "same": noisy(1.0)})
    values = values[~((values["lane"] == "same") & (values["prompt"] == "p3") & (values["seed"] == 1))]
    (row,) = compare(values, described("clip_score"), "base")
    assert (row.difference.n, row.difference.pairs) == (20, 39)


def test_differences_below_what_the_reference_can_tell_apart_are_not_ranked():
    base = noisy(0.01, 1.0)
    values = table({"base": base, "near": plus(base, noisy(0.001, 0.08, 1))}, metric="latent_error")
    assert compare(values, described("latent_error"), "base")[0].verdict == "worse"
    (row,) = compare(values, described("latent_error"), "base", {"latent_error": Floor(0.09, "reference and check")})
    assert (row.verdict, row.margin, row.margin_from) == ("equivalent", 0.09, "reference and check")


def test_pictures_of_latents_that_cannot_be_told_apart_are_not_ranked_by_their_likeness_to_the_reference():
    error, likeness = noisy(0.01, 1.0), noisy(0.1, 40)
    quality = pd.concat(
        [
            table({"base": error, "near": plus(error, noisy(0.001, 0.003, 1))}, metric="latent_error"),
            table({"base": likeness, "near": plus(likeness, noisy(0.1, 20, 1))}, metric="psnr"),
        ]
    )
    metrics = pd.concat([described("latent_error"), described("psnr")])
    verdicts = {row.metric: row.verdict for row in compare(quality, metrics, "base")}
    assert verdicts["psnr"] == "better"
    verdicts = {
        row.metric: row.verdict for row in compare(quality, metrics, "base", {"latent_error": Floor(0.01, "it")})
    }
    assert verdicts["psnr"] == "undecided"
