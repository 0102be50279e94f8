"""Parts of a forward on threads of their own: when, and that each call gets what it would have got in one."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from accelerate import cpu_offload_with_hook
from torch import nn

from engine.sampling.batching import Hub, Parking
from engine.sampling.side_by_side import parts
from tests.engine import helpers
from tests.engine.test_batching import AXES, Denoiser, expected, in_order, one_call, rows


@pytest.mark.parametrize(
    ("calls", "threads", "wanted"),
    [
        (16, 2, 2),
        (15, 2, 2),
        (9, 2, 1),
        (3, 2, 1),
        (2, 2, 2),
        (1, 2, 1),
        (16, 1, 1),
        (8, 6, 2),
        (12, 6, 6),
        (16, 64, 16),
    ],
)
def test_a_forward_is_divided_only_where_no_thread_waits_long(calls: int, threads: int, wanted: int) -> None:
    assert parts(calls, threads) == wanted


class Large(Denoiser):
    """Has weights enough to be worth several threads, and notes which ran it."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(1_000_000), requires_grad=False)
        self.by: list[tuple[str, int, bool]] = []
        self.broken = False

    def check(self, sample: torch.Tensor) -> None:
        self.by.append((threading.current_thread().name, torch.get_num_threads(), torch.is_grad_enabled()))
        if self.broken and (sample[:, 0, 0, 0] >= 60).any():
            raise ValueError("broken")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_parts_of_a_forward_run_side_by_side_and_each_call_gets_its_own(two_threads: None) -> None:
    denoiser = Large()
    answers = in_order(denoiser, [one_call(denoiser, rows(2, start=10 * n), n) for n in range(8)])
    for number, answer in enumerate(answers):
        torch.testing.assert_close(answer, expected(rows(2, start=10 * number), number))
    assert denoiser.rows == [8, 8]
    assert {name.rpartition("_")[0] for name, _, _ in denoiser.by} == {"forwards"}
    assert {(count, grad) for _, count, grad in denoiser.by} == {(1, False)}
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2, "a thread that starts later has all of them"
    assert not any(thread.name.startswith("forwards") for thread in threading.enumerate())


def test_a_denoiser_that_moves_to_a_device_at_its_call_is_called_once_at_a_time(two_threads: None) -> None:
    denoiser = Large()
    cpu_offload_with_hook(denoiser, "cpu")
    in_order(denoiser, [one_call(denoiser, rows(2, start=10 * n), n) for n in range(8)])
    assert {name for name, _, _ in denoiser.by} == {threading.current_thread().name}


def test_what_fails_side_by_side_fails_alone(two_threads: None) -> None:
    denoiser = Large()
    denoiser.broken = True
    answers = in_order(denoiser, [one_call(denoiser, rows(1, start=10 * n), n) for n in range(8)])
    assert [isinstance(answer, str) for answer in answers] == [False] * 6 + [True] * 2
    torch.testing.assert_close(answers[5], expected(rows(1, start=50), 5))
    assert len(denoiser.by) == 2 + 4, "both shares, then each call of the one that failed"


def test_pipelines_go_on_while_other_forwards_run_and_which_calls_meet_does_not_depend_on_time(
    two_threads: None,
) -> None:
    """The first forward's calls go on while the second one still runs: it waits until they have."""

    class Waits(Large):
        went_on = threading.Event()
        delays = iter([0.0] * 99)

        def check(self, sample: torch.Tensor) -> None:
            super().check(sample)
            time.sleep(next(self.delays))
            if (sample[:, 0, 0, 0] == 20).any():  # the second half, at its first call
                assert self.went_on.wait(helpers.PATIENCE_SECONDS)

    def job(denoiser: Waits, number: int, calls: int) -> Callable[[], torch.Tensor]:
        def goes_on() -> torch.Tensor:
            parking, sample = Parking(denoiser, AXES), rows(1, start=10 * number)
            for call in range(calls):
                sample = parking(sample, call)[0]
                denoiser.went_on.set()
            return sample

        return goes_on

    met, answered = [], []
    for delays in ([0.0] * 99, [0.03, 0.0] * 50, [0.0, 0.03] * 50):
        denoiser = Waits()
        denoiser.went_on.clear()
        denoiser.delays = iter(delays)
        with torch.no_grad():
            answered.append(
                list(Hub(4).run(job(denoiser, number, calls) for number, calls in enumerate((3, 5, 4, 2, 3))))
            )
        met.append(sorted(denoiser.rows))
    assert met == [met[0]] * 3
    assert all(torch.equal(one, other) for found in answered for one, other in zip(found, answered[0], strict=True))


def test_a_hub_runs_forwards_side_by_side_as_often_as_it_is_asked(two_threads: None) -> None:
    denoiser, hub = Large(), Hub(8)
    for _ in range(2):
        with torch.no_grad():
            assert len(list(hub.run(one_call(denoiser, rows(2), n) for n in range(8)))) == 8
        assert not any(thread.name.startswith("forwards") for thread in threading.enumerate())
    assert denoiser.rows == [8] * 4
    assert {name.rpartition("_")[0] for name, _, _ in denoiser.by} == {"forwards"}
