"""Cells that share forwards: one that fails leaves the others as they are alone."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.sampling.image_pass import Sample, run_cells, sample_cells
from engine.sampling.models import Model
from engine.study.frame_settings import FrameSettings
from tests.engine.miniatures import FAILING, cells_of, picture_of


@pytest.fixture(scope="module")
def with_a_failing_lane(gaussian_model: Model) -> dict[str, Sample]:
    cells = cells_of("gaussian", ["ddim:8", "dpmpp_2m:5", FAILING, "euler:7"], guidance_scale=3.0)
    return {s.cell.lane.key: s for s in sample_cells(gaussian_model, cells, FrameSettings(count=3), 8)}


def test_a_lane_that_raises_becomes_a_sample_with_its_error(with_a_failing_lane: dict[str, Sample]) -> None:
    failed = with_a_failing_lane["failing:5"]
    assert failed.error == "ArithmeticError: step three went wrong"
    assert failed.nfe == 3
    assert not failed.pictures
    assert not failed.steps


def test_lanes_beside_one_that_raises_end_as_they_do_alone(
    with_a_failing_lane: dict[str, Sample], gaussian_model: Model
) -> None:
    for lane in ("ddim:8", "dpmpp_2m:5", "euler:7"):
        cells = cells_of("gaussian", [lane], guidance_scale=3.0)
        [alone] = sample_cells(gaussian_model, cells, FrameSettings(count=3), 1)
        assert with_a_failing_lane[lane].error is None
        assert abs(picture_of(with_a_failing_lane[lane]) - picture_of(alone)).max() <= 1
        together = with_a_failing_lane[lane].distances
        assert [index for index, _ in together] == [index for index, _ in alone.distances]
        assert [value for _, value in together] == pytest.approx([value for _, value in alone.distances], rel=1e-4)


def test_a_lane_that_diverges_fails_and_says_so(gaussian_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = cells_of("gaussian", ["ddim:4", "euler:4"])
    forward = type(gaussian_model.denoiser).forward

    @functools.wraps(forward)
    def broken(self: Any, sample: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = forward(self, sample, timestep, *args, **kwargs)
        # Euler starts at timestep 999, DDIM does not.
        return (torch.where((timestep == 999)[:, None, None, None], torch.inf, answer[0]),)

    monkeypatch.setattr(type(gaussian_model.denoiser), "forward", broken)
    with torch.no_grad():
        samples = {s.cell.lane.key: s for s in run_cells(gaussian_model, cells, FrameSettings(0), 4)}
    assert "not finite" in str(samples["euler:4"].error)
    assert samples["ddim:4"].error is None


def test_the_callers_grad_mode_is_left_alone(gaussian_model: Model) -> None:
    samples = sample_cells(gaussian_model, cells_of("gaussian", ["ddim:2", "ddim:3"]), FrameSettings(0), 1)
    next(samples)
    try:
        assert torch.is_grad_enabled()
    finally:
        samples.close()


def test_each_distinct_prompt_is_encoded_once(sd_folder: Path, sd_model: Model) -> None:
    def encoded(seeds: list[int]) -> int:
        cells = cells_of(sd_folder, ["ddim:2", "euler:2"], prompts=["owl", "green pear"], seeds=seeds)
        calls: list[int] = []
        hook = sd_model.pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
        with torch.no_grad():
            assert len(list(run_cells(sd_model, cells, FrameSettings(0), 4))) == 4 * len(seeds)
        hook.remove()
        return len(calls)

    encoded([0])  # learns the batch axes
    assert encoded([0]) == encoded([0, 1, 2]) > 0
