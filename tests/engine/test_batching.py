"""The hub: calls are joined where they agree and only there, and every job gets what it would have got alone."""

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from greenlet import GreenletExit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.sampling.batching import Hub, Parking
from engine.sampling.joining import Axis


class Denoiser(nn.Module):
    """Answers each row by itself, and notes what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def forward(
        self,
        sample: torch.Tensor,
        timestep: Any,
        text: Any = None,
        extra: Any = None,
        flag: Any = None,
        return_dict: bool = True,
    ) -> tuple[torch.Tensor]:
        self.check(sample)
        self.seen.append({"sample": sample, "timestep": timestep, "text": text, "extra": extra, "flag": flag})
        answer = sample * 2 + timestep.reshape(-1, *[1] * (sample.ndim - 1))
        if text is not None:
            repeats = text.shape[0] // sample.shape[0]
            answer = answer + text.reshape(sample.shape[0], repeats, -1).sum((1, 2)).reshape(-1, *[1] * 3)
        return (answer,)

    def check(self, sample: torch.Tensor) -> None:
        """Raises what a test wants raised."""

    @property
    def rows(self) -> list[int]:
        return [len(call["sample"]) for call in self.seen]


def expected(sample: torch.Tensor, timestep: float) -> torch.Tensor:
    return sample * 2 + timestep


def rows(count: int, size: int = 4, start: float = 0.0) -> torch.Tensor:
    return torch.arange(count * size * size, dtype=torch.float32).reshape(count, 1, size, size) + start


# Where the arguments of the denoiser above hold their rows, as it is learnt of a pipeline.
AXES: dict[Any, Axis] = {
    ("sample",): 0,
    ("text",): 0,
    ("extra", "text_embeds"): 0,
    ("extra", "blocks", 0): 0,
    ("extra", "blocks", 1): 0,
}


def one_call(denoiser: nn.Module, *args: Any, **kwargs: Any) -> Callable[[], torch.Tensor]:
    return lambda: Parking(denoiser, AXES)(*args, **kwargs)[0]


def run(denoiser: nn.Module, jobs: Sequence[Callable[[], Any]], max_batch: int = 8) -> list[Any]:
    with torch.no_grad():
        return list(Hub(max_batch).run(jobs))


def in_order(denoiser: nn.Module, jobs: Sequence[Callable[[], Any]], max_batch: int = 8) -> list[Any]:
    """Results in the order of the jobs; a result is the error's name where a job's call failed."""

    def numbered(number: int, job: Callable[[], Any]) -> tuple[int, Any]:
        try:
            return number, job()
        except Exception as error:
            return number, type(error).__name__

    results = run(denoiser, [lambda n=n, job=job: numbered(n, job) for n, job in enumerate(jobs)], max_batch)
    return [result for _, result in sorted(results, key=lambda pair: pair[0])]


def test_calls_that_agree_share_one_forward_and_each_gets_its_own_slice() -> None:
    denoiser = Denoiser()
    samples = [rows(2), rows(1, start=50), rows(3, start=90)]
    answers = in_order(
        denoiser, [one_call(denoiser, sample, t) for sample, t in zip(samples, (9, 5.5, 1), strict=True)]
    )
    assert denoiser.rows == [6]
    for sample, timestep, answer in zip(samples, (9, 5.5, 1), answers, strict=True):
        torch.testing.assert_close(answer, expected(sample, timestep), rtol=0, atol=0)


def test_numbers_scalars_and_whole_timesteps_become_one_float_per_row() -> None:
    denoiser = Denoiser()
    timesteps = [7, torch.tensor(3), torch.tensor([2.25]), torch.tensor([4, 5])]
    in_order(denoiser, [one_call(denoiser, rows(2), timestep) for timestep in timesteps])
    [call] = denoiser.seen
    assert call["timestep"].tolist() == [7, 7, 3, 3, 2.25, 2.25, 4, 5]


@pytest.mark.parametrize(
    "other",
    [
        {"sample": rows(1, size=6)},
        {"sample": rows(1).double()},
        {"flag": "another option"},
        {"extra": {"scale": 0.5}},
        {"extra": {"scale": 1.0, "more": 1}},
        {"extra": None},
    ],
    ids=["shape", "number format", "option", "nested option", "more options", "fewer options"],
)
def test_calls_that_differ_in_shape_or_options_go_in_separate_forwards(other: dict[str, Any]) -> None:
    denoiser = Denoiser()
    usual = {"sample": rows(1), "timestep": 3, "flag": "an option", "extra": {"scale": 1.0}}
    changed = usual | other
    answers = in_order(
        denoiser, [one_call(denoiser, **usual), one_call(denoiser, **changed), one_call(denoiser, **usual)]
    )
    assert sorted(denoiser.rows) == [1, 2]
    for answer, given_ in zip(answers, (usual, changed, usual), strict=True):
        torch.testing.assert_close(answer, expected(given_["sample"], 3))
    assert {call["flag"] for call in denoiser.seen} == {usual["flag"], changed["flag"]}


def test_constant_tensors_are_shared_where_they_are_equal_and_separate_calls_where_they_are_not() -> None:
    denoiser = Denoiser()
    constants = [torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 2, 4])]
    in_order(denoiser, [one_call(denoiser, rows(2), 1, extra={"scale": constant}) for constant in constants])
    assert sorted(denoiser.rows) == [2, 4]
    shared = next(call for call in denoiser.seen if len(call["sample"]) == 4)
    assert shared["extra"]["scale"].tolist() == [1, 2, 3]


def test_what_belongs_to_the_picture_size_is_never_joined_though_it_may_look_like_rows() -> None:
    class WithIds(Denoiser):
        def forward(self, sample: torch.Tensor, timestep: Any, img_ids: torch.Tensor) -> tuple[torch.Tensor]:  # type: ignore[override]
            return super().forward(sample, timestep, extra=img_ids)

    denoiser = WithIds()
    in_order(denoiser, [one_call(denoiser, rows(2), 1, img_ids=torch.ones(4, 3)) for _ in range(2)])
    [call] = denoiser.seen
    assert len(call["sample"]) == 4
    assert call["extra"].shape == (4, 3)


def test_tensors_with_several_rows_for_each_batch_row_are_joined() -> None:
    """AnimateDiff repeats prompt embeddings for every frame."""
    denoiser = Denoiser()
    texts = [torch.full((4, 5), 1.0), torch.full((2, 5), 3.0)]
    answers = in_order(denoiser, [one_call(denoiser, rows(len(t) // 2), 0, text=t) for t in texts])
    assert denoiser.rows == [3]
    torch.testing.assert_close(answers[0], rows(2) * 2 + 10)
    torch.testing.assert_close(answers[1], rows(1) * 2 + 30)


def test_nested_arguments_reach_the_denoiser_as_they_were() -> None:
    denoiser = Denoiser()
    extra = {"text_embeds": rows(1), "blocks": (rows(1, start=1), rows(1, start=2)), "scale": 0.5, "nothing": None}
    in_order(denoiser, [one_call(denoiser, rows(1), 1, extra=extra) for _ in range(3)])
    [call] = denoiser.seen
    assert call["extra"]["scale"] == 0.5
    assert call["extra"]["nothing"] is None
    assert [tuple(block.shape) for block in call["extra"]["blocks"]] == [(3, 1, 4, 4)] * 2
    assert torch.equal(call["extra"]["blocks"][1][2:], rows(1, start=2))


def test_an_answer_works_as_a_tuple_and_by_name() -> None:
    denoiser = Denoiser()

    def job() -> bool:
        answer = Parking(denoiser, AXES)(rows(1), 1, return_dict=False)
        return torch.equal(answer[0], answer.sample)

    assert run(denoiser, [job]) == [True]


def test_short_jobs_are_replaced_by_waiting_ones_so_that_forwards_stay_full() -> None:
    denoiser = Denoiser()

    def job(calls: int) -> int:
        parking = Parking(denoiser, AXES)
        for _ in range(calls):
            parking(rows(1), 1)
        return int(parking.calls)

    jobs = [lambda calls=calls: job(calls) for calls in (4, 4, 1, 1, 1, 1)]
    assert sorted(run(denoiser, jobs, max_batch=3)) == [1, 1, 1, 1, 4, 4]
    assert denoiser.rows == [3, 3, 3, 3]


def test_jobs_that_never_call_the_denoiser_are_answered_too() -> None:
    denoiser = Denoiser()
    assert sorted(run(denoiser, [lambda: 1, lambda: 2, lambda: 3], max_batch=2)) == [1, 2, 3]
    assert run(denoiser, []) == []
    assert denoiser.seen == []


def test_an_error_of_a_shared_forward_reaches_only_the_call_that_causes_it() -> None:
    class Picky(Denoiser):
        def check(self, sample: torch.Tensor) -> None:
            if (sample < 0).any():
                raise ValueError("negative")

    denoiser = Picky()
    samples = [rows(1), rows(1, start=-5), rows(1, start=5)]
    answers = in_order(denoiser, [one_call(denoiser, sample, 1) for sample in samples])
    assert answers[1] == "ValueError"
    torch.testing.assert_close(answers[0], expected(samples[0], 1))
    torch.testing.assert_close(answers[2], expected(samples[2], 1))


class Small(Denoiser):
    """Has memory for a few rows only."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.tried: list[int] = []

    def check(self, sample: torch.Tensor) -> None:
        self.tried.append(len(sample))
        if len(sample) > self.room:
            raise torch.OutOfMemoryError("out of memory")


@pytest.mark.parametrize("room", [1, 2, 3, 7])
def test_running_out_of_memory_halves_the_batch_for_good_and_loses_nothing(room: int) -> None:
    denoiser = Small(room)
    samples = [rows(1, start=10 * number) for number in range(12)]
    hub = Hub(8)

    def job(sample: torch.Tensor) -> tuple[float, torch.Tensor]:
        parking = Parking(denoiser, AXES)
        return float(sample[0, 0, 0, 0]), parking(parking(sample, 1)[0], 2)[0]

    with torch.no_grad():
        answers = dict(hub.run([lambda sample=sample: job(sample) for sample in samples]))
    assert len(answers) == 12
    for sample in samples:
        torch.testing.assert_close(answers[float(sample[0, 0, 0, 0])], expected(expected(sample, 1), 2))
    assert hub.max_batch <= room
    failed = [tried for tried in denoiser.tried if tried > room]
    assert len(failed) == len(set(failed)), "a size that failed should not be tried again"


def test_a_call_too_large_for_the_memory_even_alone_fails_and_the_others_go_on() -> None:
    denoiser = Small(2)
    answers = in_order(denoiser, [one_call(denoiser, rows(count), 1) for count in (1, 3, 2)])
    assert answers[1] == "OutOfMemoryError"
    torch.testing.assert_close(answers[0], expected(rows(1), 1))
    torch.testing.assert_close(answers[2], expected(rows(2), 1))


def test_memory_of_a_failed_forward_is_free_before_the_next_try() -> None:
    """An exception holds the tensors of the frames it came through; retried within its handler they would stay."""

    class Watching(Small):
        def __init__(self) -> None:
            super().__init__(2)
            self.failed: weakref.ref[torch.Tensor] | None = None
            self.held: list[bool] = []

        def check(self, sample: torch.Tensor) -> None:
            if self.failed is not None:
                self.held.append(self.failed() is not None)
            if len(sample) > self.room:
                self.failed = weakref.ref(sample)
            super().check(sample)

    denoiser = Watching()
    run(denoiser, [one_call(denoiser, rows(1), 1) for _ in range(3)])
    assert denoiser.held
    assert not any(denoiser.held)


def test_what_a_job_raises_itself_ends_the_run_and_stops_the_other_jobs() -> None:
    denoiser = Denoiser()
    stopped: list[type[BaseException]] = []

    def patient() -> None:
        try:
            while True:
                Parking(denoiser, AXES)(rows(1), 1)
        except BaseException as error:
            stopped.append(type(error))
            raise

    def bug() -> None:
        Parking(denoiser, AXES)(rows(1), 1)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(denoiser, [patient, bug, patient])
    gc.collect()
    assert stopped == [GreenletExit, GreenletExit]


def test_a_run_that_is_closed_early_stops_its_jobs() -> None:
    denoiser = Denoiser()
    stopped: list[bool] = []

    def patient() -> None:
        try:
            while True:
                Parking(denoiser, AXES)(rows(1), 1)
        finally:
            stopped.append(True)

    results = Hub(4).run([patient, lambda: "early"])
    assert next(results) == "early"
    results.close()
    assert stopped == [True]


def test_a_parking_denoiser_outside_a_hub_says_so() -> None:
    with pytest.raises(RuntimeError, match="outside a hub"):
        Parking(Denoiser())(rows(1), 1)


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(
        st.lists(st.tuples(st.sampled_from([2, 3]), st.integers(1, 3), st.integers(0, 999)), max_size=5), max_size=9
    ),
    max_batch=st.integers(1, 10),
)
def test_every_job_gets_what_it_would_get_alone_whatever_shares_its_forwards(
    jobs: list[list[tuple[int, int, int]]], max_batch: int
) -> None:
    denoiser = Denoiser()

    def job(number: int, calls: list[tuple[int, int, int]]) -> list[torch.Tensor]:
        parking = Parking(denoiser, AXES)
        return [parking(rows(count, size, start=number), timestep)[0] for size, count, timestep in calls]

    answers = in_order(denoiser, [lambda n=n, c=calls: job(n, c) for n, calls in enumerate(jobs)], max_batch)
    assert len(answers) == len(jobs)
    for number, (calls, answer) in enumerate(zip(jobs, answers, strict=True)):
        for (size, count, timestep), got in zip(calls, answer, strict=True):
            assert torch.equal(got, expected(rows(count, size, start=number), timestep))
    asked = sum(len(calls) for calls in jobs)
    assert len(denoiser.seen) <= asked
    if max_batch == 1:
        assert len(denoiser.seen) == asked
