"""Evidence, its intervals and the prompts still missing, against integration, a plain loop and simulation."""

import math

import numpy as np
import pytest
from scipy import integrate

from engine.analysis import eprocess as ep

LEVEL = 0.05


def _mixture(events: int, n: int, share: float, a: float, b: float, low: float, high: float) -> float:
    """The likelihood ratio of a cut beta mixture by numerical integration."""

    def prior(root: float) -> float:  # over the square root of the share, where no density is infinite
        return float(2 * root ** (2 * a - 1) * (1 - root**2) ** (b - 1))

    def weighted(root: float) -> float:
        return prior(root) * (root**2 / share) ** events * ((1 - root**2) / (1 - share)) ** (n - events)

    ends = math.sqrt(low), math.sqrt(high)
    whole, part = (integrate.quad(f, *ends, epsabs=0, epsrel=1e-10, limit=500)[0] for f in (prior, weighted))
    return math.log(part / whole)


@pytest.mark.parametrize(("events", "n", "share"), [(0, 70, 0.05), (3, 120, 0.05), (9, 30, 0.5), (2, 12, 0.1)])
def test_evidence_on_shares_is_the_mixture_that_integration_gives(events: int, n: int, share: float) -> None:
    few = _mixture(events, n, share, 0.5, 1 / share, 0.0, share)
    many = _mixture(events, n, share, 1.0, 1.0, share, 1.0)
    assert float(ep.log_e_few(events, n, share)) == pytest.approx(few, abs=1e-5)
    assert float(ep.log_e_many(events, n, share)) == pytest.approx(many, abs=1e-5)


def test_the_expected_evidence_at_the_border_is_one() -> None:
    n, share = 40, 0.05
    events = np.arange(n + 1)
    chance = np.array([math.comb(n, x) * share**x * (1 - share) ** (n - x) for x in events])
    for evidence in (ep.log_e_few, ep.log_e_many):
        assert float(chance @ np.exp(evidence(events, n, share))) == pytest.approx(1.0, abs=1e-9)


def _bets(values: list[float], mean: float, low: float) -> list[float]:
    """The betting process, one value after the other."""
    total, sums, squares = 0.0, 0.0, 0.0
    guess, spread = mean / 2, abs(mean * low) / 4
    variance, process = spread, []
    for count, value in enumerate(values, start=1):
        stake = (guess - mean) / (variance + (guess - mean) ** 2)
        total += math.log(1 + min(max(stake, 0.0), 0.9 / (mean - low)) * (value - mean))
        sums += value
        guess = (sums + mean / 2) / (count + 1)
        squares += (value - guess) ** 2
        variance = (squares + spread) / (count + 1)
        process.append(total)
    return process


def test_evidence_on_means_is_that_of_bets_placed_one_by_one() -> None:
    values = np.random.default_rng(3).uniform(-2, 2, (4, 60))
    for row, found in zip(values, ep.log_e_above(values, -0.3, -2.0), strict=True):
        assert found == pytest.approx(_bets(list(row), -0.3, -2.0))
        assert ep.log_e_below(row, -0.3, 2.0) == pytest.approx(_bets(list(-row), 0.3, -2.0))


def test_a_value_never_sways_the_stake_it_is_bet_on() -> None:
    values = np.random.default_rng(5).uniform(-1, 1, 30)
    changed = np.where(np.arange(30) == 20, -1.0, values)
    before, after = (ep.log_e_above(y, -0.05, -1.0) for y in (values, changed))
    assert np.array_equal(before[:20], after[:20])
    assert before[20] != after[20]


@pytest.mark.parametrize(
    ("share", "level", "prompts"),
    [
        (0.05, 0.05, [70, 129, 174, 214, 251]),
        (0.05, 0.05 / 6, [109, 171, 219, 261, 301]),
        (0.10, 0.05, [35, 63, 85, 105, 123]),
        (0.02, 0.05, [178, 325, 438, 539, 633]),
    ],
)
def test_the_prompts_that_decide_after_so_many_events(share: float, level: float, prompts: list[int]) -> None:
    assert [ep.prompts_for_few(events, level, share) for events in range(5)] == prompts


def test_the_prompts_still_missing_are_the_least_that_reject() -> None:
    values = np.clip(np.random.default_rng(1).normal(0.0, 1.0, 40), -2, 2)
    needed = ep.prompts_for_above(values, -0.3, -2.0, 0.001)
    assert needed is not None
    process = ep.log_e_above(np.tile(values, 20), -0.3, -2.0)
    assert process[needed - 1] >= math.log(1000) > process[: needed - 1].max()
    assert ep.prompts_for_above(values - values.mean() - 0.4, -0.3, -3.0, 0.05) is None
    assert ep.prompts_for_few(50, 0.05, 0.05, rate=0.2, n=100) is None


@pytest.mark.parametrize("level", [0.05, 0.01])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.2, 0.9])
def test_the_interval_of_a_share_agrees_with_the_evidence(share: float, level: float) -> None:
    events = (np.random.default_rng(7).random(150) < share).astype(float)
    low, high = ep.share_interval(events, level)
    counts, n = np.cumsum(events), np.arange(1, 151)
    need = ep.threshold(level)
    for tried in np.linspace(0.004, 0.996, 125):
        assert (ep.log_e_few(counts, n, tried).max() >= need) == (tried > high)
        assert (ep.log_e_many(counts, n, tried).max() >= need) == (tried < low)
    assert low <= events.mean() <= high


def test_the_interval_of_a_mean_agrees_with_the_verdict() -> None:
    generator, agreed = np.random.default_rng(11), set()
    for mean in np.repeat([-0.8, -0.3, 0.0, 0.3], 10):
        values = np.clip(generator.normal(mean, 1.0, 80), -2, 2)
        low, high = ep.mean_interval(values, -0.3, -2.0, 2.0, LEVEL)
        shown = ep.log_e_above(values, -0.3, -2.0).max() >= ep.threshold(LEVEL)
        refuted = ep.log_e_below(values, -0.3, 2.0).max() >= ep.threshold(LEVEL)
        assert (shown, refuted) == (low > -0.3, high < -0.3)
        agreed.add((bool(shown), bool(refuted)))
    assert agreed == {(True, False), (False, True), (False, False)}


def test_nothing_seen_excludes_nothing() -> None:
    assert ep.share_interval([], LEVEL) == (0.0, 1.0)
    assert ep.mean_interval([], -0.3, -2.0, 2.0, LEVEL) == (-2.0, 2.0)
    assert ep.p_value(0.0) == ep.p_value(-math.inf) == 1.0
    assert ep.threshold(0.0) == math.inf


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_intervals_of_shares_looked_at_after_every_prompt_keep_what_they_promise(share: float) -> None:
    events = (np.random.default_rng(13).random((1500, 200)) < share).cumsum(axis=1)
    n = np.arange(1, 201)
    limit = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / 1500)
    assert (ep.log_e_few(events, n, share).max(axis=1) >= ep.threshold(LEVEL)).mean() <= limit
    assert (ep.log_e_many(events, n, share).max(axis=1) >= ep.threshold(LEVEL)).mean() <= limit


@pytest.mark.parametrize("mean", [-0.6, -0.3, 0.2])
def test_intervals_of_means_looked_at_after_every_prompt_keep_what_they_promise(mean: float) -> None:
    """Two-point values, the hardest: far ends, seldom."""
    chance = (2 - mean) / 4
    values = np.where(np.random.default_rng(17).random((1500, 200)) < chance, -2.0, 2.0)
    start = ep.first_guess(-0.3, 2.0)
    limit = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / 1500)
    need = ep.threshold(LEVEL)
    assert (ep.log_e_above(values, mean, -2.0, start).max(axis=1) >= need).mean() <= limit
    assert (ep.log_e_below(values, mean, 2.0, start).max(axis=1) >= need).mean() <= limit


def test_half_of_simulated_studies_have_rejected_by_the_usual_number_of_prompts() -> None:
    events = np.random.default_rng(3).uniform(size=(20_000, 200)) < 0.01
    enough = ep.log_e_few(np.cumsum(events, axis=1), np.arange(1, 201), 0.05) >= ep.threshold(0.05)
    first = np.where(enough.any(axis=1), enough.argmax(axis=1) + 1, 201)
    usual = ep.usual_prompts_for_few(0.05, 0.05, 0.01)
    assert usual is not None
    assert np.mean(first < usual) < 0.51
    assert np.mean(first <= usual) > 0.6
    assert ep.usual_prompts_for_few(0.05, 0.05, 0.0) == ep.prompts_for_few(0, 0.05, 0.05) == 70
    assert ep.usual_prompts_for_few(0.05, 0.05, 0.05) is None
