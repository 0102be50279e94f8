"""The statistics: error rates and coverage by simulation, the rest against independent formulas."""

import itertools

import numpy as np
import pytest
from scipy import stats

from engine.analysis import statistics as st

RUNS = 20_000
N = 30


def verdicts(true: float, margin: float, n: int = N, runs: int = RUNS, seed: int = 1) -> float:
    """Share of simulated studies found equivalent, by the same formula for all runs at once."""
    samples = np.random.default_rng(seed).normal(true, 1.0, (runs, n))
    # The function under test decides the first hundred; the rest must follow the formula they agree with.
    error = samples.std(axis=1, ddof=1) / np.sqrt(n)
    p = stats.t.sf((margin - np.abs(samples.mean(axis=1))) / error, n - 1)
    np.testing.assert_allclose([st.equivalence_p(row, margin) for row in samples[:100]], p[:100], rtol=1e-12)
    return float(np.mean(p < st.ALPHA))


def test_the_equivalence_test_errs_as_often_as_it_says(capsys):
    rate = verdicts(true=0.6, margin=0.6)
    with capsys.disabled():
        print(
            f"\nequivalence test, n = {N}: false positives {rate:.2%} at a true difference of the margin "
            f"(nominal {st.ALPHA:.0%}, {RUNS:,} runs)"
        )
    assert rate == pytest.approx(st.ALPHA, abs=0.02)


def test_the_equivalence_test_has_the_power_that_is_foretold(capsys):
    for margin, true in ((0.6, 0.0), (0.5, 0.0), (0.6, 0.2)):
        found, foretold = verdicts(true, margin), st.equivalence_power(1.0, N, margin, true)
        with capsys.disabled():
            print(
                f"\nequivalence test, n = {N}: power {found:.2%} at margin {margin} sd, true difference {true} sd "
                f"(foretold {foretold:.2%})"
            )
        assert found == pytest.approx(foretold, abs=0.02)


@pytest.mark.parametrize("draw", ["normal", "skewed"])
def test_the_equivalence_test_holds_its_error_rate_for_the_prompt_means_of_nested_seeds(draw):
    generator = np.random.default_rng(2)
    shape = (4000, N, 1)
    prompt = generator.normal(0, 1, shape) if draw == "normal" else (generator.exponential(1, shape) - 1) * 0.7
    seeds = generator.normal(0, 2.0, (4000, N, 2))
    margin = 1.0
    cells = prompt + seeds + margin
    labels = [prompt for prompt in range(N) for _ in range(2)]
    found = [st.equivalence_p(st.prompt_means(run.ravel(), labels), margin) < st.ALPHA for run in cells]
    assert np.mean(found) == pytest.approx(st.ALPHA, abs=0.02)


@pytest.mark.parametrize("n", [10, N])
def test_the_interval_covers_the_truth_as_often_as_it_says(n):
    samples = np.random.default_rng(3).normal(5, 1, (800, n))
    hits = [low <= 5 <= high for low, high in (st.interval(row) for row in samples)]
    assert np.mean(hits) == pytest.approx(st.CONFIDENCE, abs=0.02)


def test_the_interval_is_close_to_the_one_of_student():
    means = np.random.default_rng(4).normal(3, 1, 40)
    expected = stats.t.interval(0.95, 39, means.mean(), stats.sem(means))
    assert st.interval(means) == pytest.approx(expected, abs=0.03)


def test_resampling_is_by_prompt_so_more_seeds_of_the_same_prompts_do_not_narrow_it():
    generator = np.random.default_rng(6)
    prompts = generator.normal(0, 1, 12)
    once = st.estimate(prompts, range(12))
    often = st.estimate(np.repeat(prompts, 50), np.repeat(np.arange(12), 50).tolist())
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))
    assert (once.n, once.pairs, often.n, often.pairs) == (12, 12, 12, 600)


def test_prompts_count_alike_whatever_their_number_of_seeds():
    assert st.prompt_means([1, 3, 10], ["a", "a", "b"]).tolist() == [2, 10]
    with pytest.raises(ValueError, match="finite"):
        st.prompt_means([1, float("nan")], ["a", "b"])
    with pytest.raises(ValueError, match="2 values for 1"):
        st.prompt_means([1, 2], ["a"])


def test_equal_values_give_equal_figures():
    means = np.random.default_rng(7).normal(0, 1, 9)
    assert st.interval(means) == st.interval(means.copy())


def closed_testing(p: np.ndarray) -> np.ndarray:
    """Holm by its definition: the largest Bonferroni p of all intersections that contain the hypothesis."""
    adjusted = np.zeros(len(p))
    for size in range(1, len(p) + 1):
        for group in itertools.combinations(range(len(p)), size):
            bonferroni = min(1.0, len(group) * min(p[list(group)]))
            for i in group:
                adjusted[i] = max(adjusted[i], bonferroni)
    return adjusted


@pytest.mark.parametrize("seed", range(20))
def test_holm_agrees_with_closed_testing(seed):
    generator = np.random.default_rng(seed)
    p = generator.uniform(0, 1, generator.integers(1, 7)) ** 3
    np.testing.assert_allclose(st.holm(p), closed_testing(p))


def test_holm_leaves_out_what_is_not_known():
    assert st.holm([0.01, float("nan"), 0.03]) == pytest.approx([0.02, float("nan"), 0.03], nan_ok=True)
    assert st.holm([]).tolist() == []


def test_too_few_prompts_have_no_interval_and_no_p():
    means = np.array([1.0, 2, 3, 4])
    assert np.isnan([*st.interval(means), st.equivalence_p(means, 1), st.difference_p(means)]).all()


def share_runs(generator, n: int, loss: float, *, together: bool, runs: int = 4000) -> np.ndarray:
    """Differences of a share, prompt by prompt: two seeds that each are lost with a chance, or both at once."""
    if together:
        return -(generator.uniform(size=(runs, n)) < loss).astype(float)
    return -(generator.uniform(size=(runs, n, 2)) < loss).mean(axis=2)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("n", [30, 48, 96])
def test_shares_that_few_prompts_differ_in_are_not_found_equivalent_too_often(n, together):
    margin = 0.05
    runs = share_runs(np.random.default_rng(n), n, margin, together=together)
    found = np.mean([st.bounded_equivalence_p(means, margin, 1.0) < st.ALPHA for means in runs])
    plain = np.mean([st.equivalence_p(means, margin) < st.ALPHA for means in runs])
    print(f"\nshares, n = {n}: false positives {found:.2%} (t tests alone {plain:.2%}, nominal 5%, 4,000 runs)")
    assert found <= 0.07


def test_each_further_loss_makes_a_share_less_equivalent():
    p = [st.bounded_equivalence_p(np.array([-1.0] * lost + [0.0] * (100 - lost)), 0.05, 1.0) for lost in range(8)]
    assert p == sorted(p)
    assert p[0] == pytest.approx(0.95**100)
    assert p[1] == pytest.approx(stats.binom.cdf(1, 100, 0.05))


def test_the_interval_of_a_share_covers_a_loss_that_few_prompts_show():
    runs = share_runs(np.random.default_rng(3), 48, 0.05, together=True, runs=1500)
    covered = np.mean([low <= -0.05 <= high for low, high in (st.bounded_interval(means, 1.0) for means in runs)])
    assert covered >= 0.93
    assert st.bounded_interval(np.zeros(24), 1.0) == pytest.approx((0.05 ** (1 / 24) - 1, 1 - 0.05 ** (1 / 24)))
    many = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], 400)
    assert st.bounded_interval(many, 1.0) == pytest.approx(st.interval(many), abs=0.03)


def test_identical_values_say_nothing_of_equality_or_difference_unless_they_are_bounded():
    same = np.zeros(10)
    assert np.isnan([st.equivalence_p(same, 0.1), st.difference_p(same), st.equivalence_p(same, 0.0)]).all()
    assert np.isnan([st.equivalence_p(same + 0.2, 0.1), st.difference_p(same + 0.2)]).all()
    assert st.bounded_equivalence_p(same, 0.1, 1.0) == pytest.approx(0.9**10)
    assert st.bounded_equivalence_p(same - 0.2, 0.1, 1.0) == 1
    assert st.bounded_difference_p(same, 0.1, 1.0) == 1
    assert st.bounded_difference_p(same - 1, 0.1, 1.0) == pytest.approx(2 * 0.1**10)


def test_a_difference_beyond_a_margin_is_the_t_test_against_the_margin():
    means = np.random.default_rng(5).normal(0.9, 1.0, 30)
    two_sided = stats.ttest_1samp(means, 0.5, alternative="greater").pvalue * 2
    assert st.difference_p(means, 0.5) == pytest.approx(two_sided)
    assert st.difference_p(-means, 0.5) == pytest.approx(two_sided)
    assert st.difference_p(means) == pytest.approx(stats.ttest_1samp(means, 0.0).pvalue)


@pytest.mark.parametrize("n", [12, 48])
def test_shares_at_the_margin_are_not_found_worse_too_often(n):
    runs = share_runs(np.random.default_rng(n), n, 0.05, together=True)
    assert np.mean([st.bounded_difference_p(means, 0.05, 1.0) < st.ALPHA for means in runs]) <= 0.03


def test_the_bound_of_the_seed_noise_holds_and_comes_near_it_with_many_prompts():
    generator, truth = np.random.default_rng(12), 2 / np.sqrt(np.pi)
    few = np.repeat(np.arange(8), 2)
    below = [st.seed_noise_bound(generator.normal(0, 1, 16), few) <= truth for _ in range(1000)]
    assert np.mean(below) >= 0.93
    many = st.seed_noise_bound(generator.normal(0, 1, 4000), np.repeat(np.arange(2000), 2))
    assert many == pytest.approx(truth, rel=0.06)
    assert np.isnan(st.seed_noise_bound([1, 2, 1, 2], ["a", "a", "b", "b"]))


def test_so_many_prompts_all_alike_bound_a_share_below_the_margin_and_one_less_does_not():
    n = st.unanimous_prompts(0.05, 1.0)
    assert n == 59
    assert st.unanimous_bound(n, 1.0) < 0.05 <= st.unanimous_bound(n - 1, 1.0)


def test_where_no_prompt_of_n_differs_the_bound_is_the_rule_of_three():
    assert st.unanimous_bound(100, 1.0) == pytest.approx(3 / 100, rel=0.02)
    assert st.unanimous_bound(24, 1.0) == pytest.approx(stats.beta.ppf(0.95, 1, 24))


def test_where_all_prompts_are_alike_an_interval_reaches_as_far_as_what_was_not_seen_can_move_the_mean():
    prompts, unseen = np.repeat(np.arange(12), 2), 1 - 0.05 ** (1 / 12)
    alike = st.ranged_estimate([0.2, 0.4] * 12, prompts, 0.0, 1.0)
    assert (alike.low, alike.high) == pytest.approx((0.3 - 0.3 * unseen, 0.3 + 0.7 * unseen))
    assert (alike.value, alike.n, alike.pairs) == (pytest.approx(0.3), 12, 24)
    one = st.ranged_estimate(np.ones(12), range(12), 0.0, 1.0)
    assert (one.low, one.high) == pytest.approx((1 - unseen, 1.0))
    assert np.isnan(st.ranged_estimate([0.3] * 12, range(12)).low), "no ends, no interval"
    values = np.random.default_rng(13).uniform(size=12)
    assert st.ranged_estimate(values, range(12), 0.0, 1.0) == st.estimate(values, range(12))
    assert np.isnan(st.ranged_estimate([0.3] * 4, range(4), 0.0, 1.0).low)


def test_the_ratio_has_an_interval_that_drawing_prompts_together_makes_narrow():
    baseline = np.random.default_rng(8).uniform(1, 9, 30)
    value, low, high = st.ratio(0.97 * baseline, baseline)
    assert (value, low, high) == pytest.approx((0.97, 0.97, 0.97))
    assert np.isnan(st.ratio(baseline, np.zeros(30))).all()


def test_the_ratio_interval_covers_the_truth():
    generator = np.random.default_rng(9)
    hits = 0
    for _ in range(400):
        baseline = generator.normal(10, 2, N)
        _, low, high = st.ratio(baseline * 0.9 + generator.normal(0, 1, N), baseline)
        hits += low <= 0.9 <= high
    assert hits / 400 == pytest.approx(0.95, abs=0.025)


def test_seed_noise_is_the_mean_gap_between_two_seeds_of_a_prompt():
    assert st.seed_noise([1, 2, 5, 5], ["a", "a", "b", "b"]) == pytest.approx(0.5)
    assert st.seed_noise([0, 1, 3], ["a"] * 3) == pytest.approx(2.0)
    assert np.isnan(st.seed_noise([1, 2], ["a", "b"]))
    noise = np.random.default_rng(10).normal(0, 2, 20_000)
    assert st.seed_noise(noise, np.repeat(np.arange(10_000), 2)) == pytest.approx(2 * 2 / np.sqrt(np.pi), rel=0.02)


def test_the_smallest_difference_that_can_be_found_is_found_with_that_power():
    effect = st.minimum_detectable(1.0, N)
    samples = np.random.default_rng(11).normal(effect, 1.0, (RUNS, N))
    found = np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < st.ALPHA)
    assert found == pytest.approx(0.8, abs=0.02)
    assert st.minimum_detectable(1.0, 1) == np.inf


def test_the_prompts_needed_give_the_power_asked_for_and_one_less_does_not():
    n = st.prompts_needed(1.0, 0.5)
    assert n is not None
    assert st.equivalence_power(1.0, n, 0.5) >= 0.8 > st.equivalence_power(1.0, n - 1, 0.5)
    assert st.prompts_needed(1.0, 1e-4) is None
