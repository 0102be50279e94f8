"""How much of its budget a search has spent, and how many prompts still fit, by a clock that the test sets."""

from collections.abc import Iterator

import pytest

from engine.passes import search_budget
from engine.passes.search_budget import FIRST_PROMPTS, DecideOutcome, Meter, SearchBudget


class Clock:
    """Seconds that go by when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    found = Clock()
    monkeypatch.setattr(search_budget, "time", found)
    return found


def _made(meter: Meter, clock: Clock, prompts: int, calls: int, seconds: float) -> None:
    with meter.working():
        clock.now += seconds
        meter.outcome.calls += calls
    meter.outcome.prompts += prompts


def test_without_a_budget_every_prompt_fits(clock: Clock) -> None:
    meter = Meter(SearchBudget(), DecideOutcome())
    assert meter.fits(50_000, 10) == 10
    clock.now += 1e6
    assert not meter.spent


def test_under_a_limit_of_time_batches_shrink_to_what_is_left(clock: Clock) -> None:
    meter = Meter(SearchBudget(seconds=100), DecideOutcome())
    assert meter.fits(5000, 10) == FIRST_PROMPTS  # no pace yet
    _made(meter, clock, 2, 1000, 20.0)
    assert meter.fits(5000, 10) == 7  # 70 s are left of 90, at 10 s a prompt
    _made(meter, clock, 7, 3500, 65.0)
    assert meter.fits(5000, 10) == 0
    assert meter.spent
    assert meter.seconds <= 100


@pytest.mark.parametrize("pace", [0.001, 0.01, 0.05])
def test_a_search_ends_near_its_minutes_whatever_the_pace(clock: Clock, pace: float) -> None:
    meter = Meter(SearchBudget(seconds=540), DecideOutcome())
    while size := meter.fits(5000, 10):
        _made(meter, clock, size, 500 * size, 500 * size * pace)
    one = 500 * pace
    assert 0.9 * 540 - one - 1e-6 <= meter.seconds <= 540


def test_prompts_and_calls_are_limits_too(clock: Clock) -> None:
    meter = Meter(SearchBudget(prompts=25), DecideOutcome())
    sizes = []
    while size := meter.fits(1000, 10):
        sizes.append(size)
        _made(meter, clock, size, 100 * size, 1.0)
    assert sizes == [10, 10, 10]  # whole batches
    meter = Meter(SearchBudget(calls=1250), DecideOutcome())
    while size := meter.fits(1000, 10):
        _made(meter, clock, size, 100 * size, 1.0)
    assert meter.outcome.calls == 1200


def test_what_the_cache_holds_costs_nothing_and_a_call_makes_at_least_one_prompt(clock: Clock) -> None:
    meter = Meter(SearchBudget(calls=10), DecideOutcome())
    assert meter.fits(0, 10) == 10
    assert meter.fits(1000, 10) == 1
    _made(meter, clock, 1, 100, 1.0)
    assert meter.fits(1000, 10) == 0


def test_times_are_taken_only_if_they_fit_and_cost_no_prompts(clock: Clock) -> None:
    meter = Meter(SearchBudget(seconds=100, prompts=2), DecideOutcome())
    _made(meter, clock, 2, 1000, 20.0)
    assert meter.spent
    assert meter.fits_calls(4000, None)
    assert not meter.fits_calls(4001, None)
    assert not meter.fits_calls(4000, 0.05)
