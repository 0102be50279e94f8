"""Memory that runs out: in the denoiser, the decoder and at loading; and how many cells are asked to share it."""

import functools
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from engine.cache.connection import reading
from engine.display.tables import environment_table
from engine.errors import LabError, ModelError
from engine.measuring.lane_timing import TimingJob, time_lanes
from engine.passes.run import run_study
from engine.progress import Progress
from engine.results import read_results
from engine.sampling import models, room
from engine.sampling.image_pass import sample_cells
from engine.sampling.models import Model, load
from engine.sampling.room import default_max_batch, is_lost_device, is_out_of_memory
from engine.sampling.swapped_cells import run_swaps
from engine.study.frame_settings import FrameSettings
from engine.study.prompt_swaps import Swap
from engine.study.source import find_model
from tests.engine.helpers import ask, parsed
from tests.engine.miniatures import cells_of, picture_of

GIB = 2**30
LACKING = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", LACKING, ids=lambda error: f"{type(error).__name__} {error}"[:40])
def test_every_form_of_running_out_of_memory_is_told_from_a_fault(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_lost_device(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def roomy_for(rows: int, error: Exception, tried: list[int], real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def called(self: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        tried.append(len(sample))
        if len(sample) > rows:
            raise type(error)(*error.args)
        return real(self, sample, *args, **kwargs)

    return called


@pytest.mark.parametrize("error", LACKING[:3], ids=["cuda", "mps", "cudnn"])
def test_the_batch_of_the_denoiser_is_halved_for_good_whatever_says_that_memory_is_out(
    error: Exception, sd_model: Model, sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    kind = type(sd_model.pipe.unet)
    monkeypatch.setattr(kind, "forward", roomy_for(6, error, tried, kind.forward))
    cells = cells_of(sd_folder, ["ddim:3"], seeds=list(range(12)), guidance_scale=5.0)
    samples = list(sample_cells(sd_model, cells, FrameSettings(count=0), 12))
    assert [sample.error for sample in samples] == [None] * 12
    assert [rows for rows in tried if rows > 6] == [24, 12], "room for three guided cells: 12, 6, then 3 for good"


def test_how_many_cells_could_share_a_forward_and_why_is_kept_told_and_shown(
    sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Progress, "note", lambda self, text: said.append(text))
    kind, cache = UNet2DConditionModel, tmp_path / "c.duckdb"
    study = parsed(model=str(sd_folder), prompts=["red apple"], lanes=["ddim:3"], seeds=[0], frames={"count": 0})
    run_study(study, cache, device="cpu")
    forward = kind.forward
    with monkeypatch.context() as patch:
        patch.setattr(kind, "forward", roomy_for(6, LACKING[0], [], forward))
        run_study(replace(study, seeds=tuple(range(7))), cache, device="cpu", max_batch=6)
    rows = ask(cache, "SELECT max_batch, max_batch_by, count(*) FROM trajectories GROUP BY ALL ORDER BY 1")
    assert rows == [(3, "out of memory", 6), (32, "picture size", 1)]
    assert said.count("Memory ran out: 3 cells at once from here on.") == 1
    with reading(cache) as db:
        [machine] = environment_table(read_results(db, study.name).environments).rows
    assert "3 to 32 (out of memory, picture size)" in map(str, machine)


@pytest.mark.parametrize("error", LACKING[:3], ids=["cuda", "mps", "cudnn"])
def test_the_decoded_area_is_halved_likewise_and_no_cell_is_lost(
    error: Exception, sd_model: Model, sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(sd_folder, ["ddim:3"], seeds=list(range(4)))
    settings = FrameSettings(count=2, kinds=("x0",))
    expected = {s.cell.seed: picture_of(s) for s in sample_cells(sd_model, cells, settings, 4)}
    tried: list[int] = []
    monkeypatch.setattr(AutoencoderKL, "decode", roomy_for(3, error, tried, AutoencoderKL.decode))
    for sample in sample_cells(sd_model, cells, settings, 4):
        assert sample.error is None
        assert len(sample.pictures) == 3
        assert abs(picture_of(sample) - expected[sample.cell.seed]).max() <= 1
    assert tried[:3] == [12, 6, 3]


def test_a_model_that_does_not_fit_names_the_remedy(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(models, "_place", full)
    with pytest.raises(ModelError, match="does not fit into the memory of cpu: run with --memory low"):
        load(find_model(str(sd_folder)), "cpu", "float32")
    with pytest.raises(ModelError, match="choose a smaller model"):
        load(find_model(str(sd_folder)), "cpu", "float32", "low")


def one_by_one(model: Model, folder: Path) -> Iterator[Any]:
    return sample_cells(model, cells_of(folder, ["ddim:3"], seeds=[0, 1]), FrameSettings(count=0), 1)


def together(model: Model, folder: Path) -> Iterator[Any]:
    return sample_cells(model, cells_of(folder, ["ddim:3"], seeds=[0, 1]), FrameSettings(count=0), 2)


def swapped(model: Model, folder: Path) -> Iterator[Any]:
    first, second = cells_of(folder, ["ddim:3"], prompts=["red apple", "owl"])
    return run_swaps(model, [Swap(first, second, share) for share in (0.0, 0.5, 1.0)], 2)


def timed(model: Model, folder: Path) -> Iterator[Any]:
    return time_lanes(model, [TimingJob(cell, 1, 0, 2) for cell in cells_of(folder, ["ddim:3", "ddim:4"])], 1)


@pytest.mark.parametrize("work", [one_by_one, together, swapped, timed])
@pytest.mark.parametrize(
    ("kind", "name"), [(UNet2DConditionModel, "forward"), (DDIMScheduler, "step"), (AutoencoderKL, "decode")]
)
def test_a_device_that_answers_no_more_ends_the_run_at_once_wherever_that_shows(
    kind: Any, name: str, work: Any, sd_model: Model, sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    @functools.wraps(getattr(kind, name))
    def lost(self: Any, *args: Any, **kwargs: Any) -> None:
        tried.append(name)
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(kind, name, lost)
    with pytest.raises(LabError, match="stopped responding"):
        list(work(sd_model, sd_folder))
    assert tried == [name]
    gc.collect()
    assert torch.is_grad_enabled(), "calls that were given up have left, each of which had switched it off"


@pytest.mark.parametrize(
    ("free", "pixels", "cells"),
    [(3.5, 512, 7), (20, 512, 32), (10, 1024, 8), (17, 1024, 15), (70, 1024, 32), (0.5, 1024, 1)],
    ids=str,
)
def test_cells_in_flight_follow_the_memory_that_is_free_after_loading(
    free: float, pixels: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * GIB), 80 * GIB))
    assert default_max_batch("cuda", pixels, pixels) == cells


def test_memory_that_torch_keeps_from_earlier_work_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(3 * GIB), 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: int(21 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: int(7 * GIB))
    assert default_max_batch("cuda", 1024, 1024) == 15


@pytest.mark.parametrize(
    ("said", "lost"), [("an illegal memory access was encountered", True), ("invalid configuration argument", False)]
)
def test_an_error_of_one_call_is_not_that_of_a_lost_device(said: str, lost: bool) -> None:
    assert room.is_lost_device(torch.AcceleratorError(f"CUDA error: {said}")) is lost


def test_a_gpu_that_torch_has_no_code_for_is_not_said_to_have_stopped() -> None:
    error = torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device")
    with pytest.raises(LabError, match=r"has no code for this GPU: install one that has"):
        room.raise_if_lost(error)


def test_convolutions_of_float32_cells_use_no_tf32_and_the_switch_is_put_back() -> None:
    before = torch.backends.cudnn.allow_tf32
    with room.exact_float32():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_picture_that_overflows_in_float16_is_decoded_again_in_float32(
    sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(find_model(str(sd_folder)), "cpu", "bfloat16")
    model.pipe.vae.half()
    decode = AutoencoderKL.decode
    formats: list[torch.dtype] = []

    def overflowing(self: Any, z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        formats.append(self.dtype)
        answer = decode(self, z.to(self.dtype), *args, **kwargs)
        return tuple(each * float("nan") for each in answer) if self.dtype == torch.float16 else answer

    monkeypatch.setattr(AutoencoderKL, "decode", overflowing)
    cell = cells_of(sd_folder, ["ddim:3"], dtype="bfloat16")
    [sample] = sample_cells(model, cell, FrameSettings(count=0), 1)
    assert sample.error is None
    assert formats == [torch.float16, torch.float32]
    assert model.pipe.vae.dtype == torch.float16
    assert np.ptp(picture_of(sample)) > 20
