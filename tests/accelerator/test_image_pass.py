"""The image pass on a pretend accelerator: every scheduler and family, with a bound on how often the host waits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from engine.measuring.lane_timing import TimingJob, time_once
from engine.sampling.building import build_scheduler
from engine.sampling.calls import pipeline_arguments
from engine.sampling.image_pass import Sample, run_cells, sample_cells
from engine.sampling.models import Model, load
from engine.sampling.standins import model_config, with_parts
from engine.study.cells import Cell
from engine.study.frame_settings import FrameSettings
from engine.study.source import find_model
from tests.accelerator.pretend import Accelerator, PretendTensor
from tests.engine.miniatures import DISCRETE, cells_of, picture_of

FRAMES = FrameSettings(count=3, kinds=("x0",))
STEPS = 12
# Deterministic, and none of them draws from a generator on the device.
COMPARED = ("dpmpp_2m", "euler", "ddim", "heun", "unipc", "pndm")


def cells_on(folder: Path, lanes: list[str], dtype: str = "float16", **settings: Any) -> list[Cell]:
    return [replace(cell, dtype=dtype) for cell in cells_of(folder, lanes, guidance_scale=5.0, **settings)]


def plain_call(model: Model, cell: Cell) -> np.ndarray:
    pipe = with_parts(model.pipe, scheduler=build_scheduler(cell.lane, model_config(model.pipe), cell.seed))
    generator = torch.Generator("cpu").manual_seed(cell.seed)
    pictures = pipe(**pipeline_arguments(pipe, cell), generator=generator, output_type="np").images
    return (np.asarray(pictures[0]) * 255).round().astype(int)


def checked(samples: list[Sample]) -> list[Sample]:
    assert [sample.error for sample in samples] == [None] * len(samples)
    return samples


def decoded_formats(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The number formats that the autoencoder decodes in from now on."""
    seen: list[torch.dtype] = []
    decode = AutoencoderKL.decode

    def watched(self: Any, z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(next(self.parameters()).dtype)
        return decode(self, z, *args, **kwargs)

    monkeypatch.setattr(AutoencoderKL, "decode", watched)
    return seen


def test_every_scheduler_runs_on_cuda_in_float16(cuda: Accelerator, sd_folder: Path) -> None:
    model = load(find_model(str(sd_folder)), "cuda", "float16")
    cells = cells_on(sd_folder, [f"{key}:4" for key in DISCRETE])
    for sample in checked(list(sample_cells(model, cells, FRAMES, 8))):
        assert len(sample.pictures) == 4
        assert np.ptp(picture_of(sample)) > 20, "a picture with contrast"


def test_every_scheduler_runs_on_mps_which_has_no_float64(mps: Accelerator, sd_folder: Path) -> None:
    model = load(find_model(str(sd_folder)), "mps", "float16")
    checked(list(sample_cells(model, cells_on(sd_folder, [f"{key}:4" for key in DISCRETE]), FRAMES, 8)))


@pytest.mark.parametrize("key", COMPARED[:3])
def test_the_engine_waits_hardly_more_often_for_the_device_than_plain_diffusers(
    key: str, cuda: Accelerator, sd_folder: Path
) -> None:
    model = load(find_model(str(sd_folder)), "cuda", "float16")
    cells = cells_on(sd_folder, [f"{key}:{STEPS}"], seeds=[0, 1])
    with torch.no_grad():
        cuda.waits.clear()
        plain_call(model, cells[0])
        plain = len(cells) * sum(cuda.waits.values())
        cuda.waits.clear()
        samples = checked(list(run_cells(model, cells, FRAMES, 4)))
    calls = sum(sample.nfe for sample in samples)
    assert cuda.own_waits() / calls <= 0.6
    assert sum(cuda.waits.values()) <= plain + 0.6 * calls


def test_records_of_the_steps_are_those_of_a_run_on_the_cpu(
    guard: None, sd_folder: Path, on_accelerator: Callable[..., list[Sample]]
) -> None:
    lanes = [f"{key}:8" for key in COMPARED]
    here = load(find_model(str(sd_folder)), "cpu", "float32")
    expected = {s.cell.lane.key: s for s in sample_cells(here, cells_on(sd_folder, lanes, "float32"), FRAMES, 4)}
    for sample in on_accelerator(sd_folder, lanes, "float32"):
        same = expected[sample.cell.lane.key]
        assert [(s.timestep, s.log_snr) for s in sample.steps] == [(s.timestep, s.log_snr) for s in same.steps]
        for name in ("x0_change", "guidance_energy"):
            found, wanted = ([getattr(step, name) for step in each.steps][1:] for each in (sample, same))
            assert found == pytest.approx(wanted, rel=1e-3), name
        assert dict(sample.distances) == pytest.approx(dict(same.distances), rel=1e-3)
        assert abs(picture_of(sample) - picture_of(same)).max() <= 1


def test_sdxl_is_decoded_in_the_same_number_format_everywhere(
    cuda: Accelerator, sdxl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(find_model(str(sdxl_folder)), "cuda", "float16")
    [cell] = cells_on(sdxl_folder, ["euler:3"])
    formats = decoded_formats(monkeypatch)
    with torch.no_grad():
        plain_call(model, cell)
        plain, formats[:] = list(formats), []
        checked(list(sample_cells(model, [cell], FrameSettings(count=0), 1)))
        merged, formats[:] = list(formats), []
        assert time_once(model, TimingJob(cell, 1, 0, 1), 0).error is None
    assert plain == [torch.float32], "SDXL's autoencoder overflows in float16, so diffusers decodes in float32"
    assert merged == plain
    assert formats == plain
    assert next(model.pipe.vae.parameters()).dtype == torch.float16, "and it is put back"


def test_nothing_is_left_on_the_accelerator_of_what_a_sample_holds(cuda: Accelerator, sd_folder: Path) -> None:
    model = load(find_model(str(sd_folder)), "cuda", "float16")
    [sample] = sample_cells(model, cells_on(sd_folder, ["ddim:3"]), FrameSettings(count=0), 1)
    held = [sample.final, *(picture.data for picture in sample.pictures), *(data for _, data in sample.sketches)]
    assert not any(isinstance(each, PretendTensor) for each in held)
    assert sample.latents is None


@pytest.fixture
def on_accelerator(cuda: Accelerator) -> Callable[..., list[Sample]]:
    def made(folder: Path, lanes: list[str], dtype: str) -> list[Sample]:
        model = load(find_model(str(folder)), "cuda", dtype)
        return checked(list(sample_cells(model, cells_on(folder, lanes, dtype), FRAMES, 4)))

    return made
