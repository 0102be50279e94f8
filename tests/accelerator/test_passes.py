"""Whole studies on a pretend accelerator: timing, low memory, references, commitment, scoring, and what is let go."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import CpuOffload

from engine.measuring.clip_model import ClipModel
from engine.measuring.lane_timing import TimingJob, time_lanes
from engine.passes import run as running
from engine.passes.run import run_study
from engine.sampling import image_pass, models
from engine.sampling.image_pass import sample_cells
from engine.sampling.models import Model, load
from engine.sampling.standins import Answers
from engine.sampling.swapped_cells import run_swaps
from engine.study.cells import cells
from engine.study.frame_settings import FrameSettings
from engine.study.prompt_swaps import Swap
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.accelerator.pretend import Accelerator, PretendTensor
from tests.accelerator.test_image_pass import cells_on
from tests.engine.helpers import ask

# Bytes of what the encoders of the miniature say of a few prompts.
FEW_TEXTS = 60_000


@pytest.fixture
def has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of a device without torch says that there is one."""
    monkeypatch.setattr("engine.environment._cuda", lambda: ("Pretend GPU", ""))


def study_of(folder: Path, **changes: Any) -> Any:
    plain = {
        "name": "whole",
        "model": str(folder),
        "prompts": ["red apple", "green pear"],
        "seeds": [0],
        "lanes": ["ddim:4", "euler:3"],
        "baseline": "ddim:4",
        "guidance_scale": 5.0,
        "frames": {"count": 2},
        "timing": {"repeats": 2, "warmup": 1},
        "reference": {"lane": "dpmpp_2m:6", "check": "heun:4", "tolerance": 1.0},
        "commitment": {"prompts": [["red apple", "green pear"]], "at": [0.5]},
    }
    plain |= changes
    return parse_study({key: value for key, value in plain.items() if value is not None})


def test_a_whole_study_runs_on_cuda_and_finds_itself_complete(
    cuda: Accelerator, has_cuda: None, sd_folder: Path, tmp_path: Path
) -> None:
    study, cache = study_of(sd_folder), tmp_path / "c.duckdb"
    done = run_study(study, cache, device="cuda")
    assert (done.done, done.timed, done.references, done.swaps) == (4, 4, 4, 6)
    assert (done.failed, done.untimed) == (0, 0)
    assert ask(cache, "SELECT DISTINCT dtype FROM trajectories") == [("float16",)]
    assert ask(cache, "SELECT DISTINCT device FROM environments") == [("cuda",)]
    assert ask(cache, "SELECT count(*) FROM scores WHERE metric = 'latent_error' AND value IS NOT NULL") == [(4,)]
    again = run_study(study, cache, device="cuda")
    assert (again.cached, again.done, again.timed) == (4, 0, 0)


def test_the_model_has_left_the_device_when_its_pictures_are_judged(
    cuda: Accelerator, has_cuda: None, sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Any]] = []
    real_load, real_score = models.load, running.score
    alive: list[bool] = []

    def noted(*args: Any) -> Model:
        model = real_load(*args)
        loaded.append(weakref.ref(model.pipe.unet))
        return model

    def judged(*args: Any, **kwargs: Any) -> Any:
        gc.collect()
        alive.append(loaded[0]() is not None)
        return real_score(*args, **kwargs)

    monkeypatch.setattr(models, "load", noted)
    monkeypatch.setattr(running, "score", judged)
    run_study(study_of(sd_folder, reference=None, commitment=None), tmp_path / "c.duckdb", device="cuda")
    assert alive == [False]


def on_device(model: Model) -> set[str]:
    parts = {name: part for name, part in model.pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {name for name, part in parts.items() if isinstance(next(part.parameters()), PretendTensor)}


def images(model: Model, folder: Path) -> list[str | None]:
    cells = cells_on(folder, ["euler:3", "ddim:3"], prompts=["red apple", "green pear", "owl", "small house"])
    return [sample.error for sample in sample_cells(model, cells, FrameSettings(count=1, kinds=("x0",)), 1)]


def swapped(model: Model, folder: Path) -> list[str | None]:
    first, second, third = cells_on(folder, ["euler:3"], prompts=["red apple", "green pear", "owl"])
    swaps = [Swap(*pair, share) for pair in ((first, second), (second, third)) for share in (0.0, 0.5, 1.0)]
    return [sample.error for group in run_swaps(model, swaps, 1) for sample in group]


@pytest.mark.parametrize("remembered", [Answers.MOST_BYTES, FEW_TEXTS], ids=["all texts", "few texts"])
@pytest.mark.parametrize("work", [images, swapped])
def test_with_low_memory_one_part_at_a_time_is_on_the_gpu(
    work: Callable[[Model, Path], list[str | None]],
    remembered: int,
    cuda: Accelerator,
    sdxl_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load(find_model(str(sdxl_folder)), "cuda", "float16", "low")
    seen: list[set[str]] = []
    exact: set[bool] = set()
    arrive = CpuOffload.pre_forward

    def watched(self: CpuOffload, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        answer = arrive(self, module, *args, **kwargs)
        seen.append(on_device(model))
        if module is model.pipe.unet:
            exact.add(not torch.backends.cudnn.allow_tf32)
        return answer

    monkeypatch.setattr(CpuOffload, "pre_forward", watched)
    monkeypatch.setattr(Answers, "MOST_BYTES", remembered)
    monkeypatch.setattr(image_pass, "MOST_WAITING", 2)
    errors = work(model, sdxl_folder)
    assert errors == [None] * len(errors)
    assert {"unet"} in seen
    assert {"vae"} in seen, seen
    assert exact == {True}
    encoders = {"text_encoder", "text_encoder_2"}
    assert all(len(parts) == 1 or parts <= encoders for parts in seen), seen
    assert torch.backends.cudnn.allow_tf32


def test_a_lane_is_timed_as_a_whole_where_parts_take_turns(cuda: Accelerator, sd_folder: Path) -> None:
    model = load(find_model(str(sd_folder)), "cuda", "float16", "low")
    jobs = [TimingJob(cell, 1, 0, 2) for cell in cells_on(sd_folder, ["ddim:3", "pndm:3"])]
    samples = list(time_lanes(model, jobs, 1))
    assert [sample.error for sample in samples] == [None] * 4
    assert {tuple(sample.seconds) for sample in samples} == {("total",)}
    assert {(sample.job.cell.lane.key, sample.nfe) for sample in samples} == {("ddim:3", 3), ("pndm:3", 4)}
    assert all(sample.seconds["total"] > 0 for sample in samples)


def test_slicing_is_had_by_name_and_by_name_only(cuda: Accelerator, sd_folder: Path) -> None:
    def sliced(memory: Any) -> bool:
        model = load(find_model(str(sd_folder)), "cuda", "float16", memory)
        processors = {type(processor).__name__ for processor in model.pipe.unet.attn_processors.values()}
        return processors == {"SlicedAttnProcessor"}

    assert [sliced(memory) for memory in ("standard", "low", "slicing")] == [False, False, True]


def test_noise_drawn_on_the_device_makes_another_cell(sd_folder: Path) -> None:
    study, source = study_of(sd_folder, lanes=["ddim:4", "dpm_sde:4"], dtype="float32"), find_model(str(sd_folder))
    here, there = ({c.lane.key: c.trajectory_id for c in cells(study, source, kind)} for kind in ("cpu", "cuda"))
    assert here["ddim:4"] == there["ddim:4"]
    assert here["dpm_sde:4"] != there["dpm_sde:4"]


def test_the_judge_sits_where_the_run_is_and_takes_pictures_in_batches(
    mps: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.measuring import clip_model
    from engine.study.source import BUNDLED

    monkeypatch.setattr(clip_model, "MOST_TOGETHER", 4)
    pictures = torch.randint(0, 256, (10, 64, 64, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    own, best = ClipModel(BUNDLED / "clip", device="cpu"), ClipModel(BUNDLED / "clip")
    mps.waits.clear()
    expected, found = own.pictures(pictures), best.pictures(pictures)
    assert found == pytest.approx(expected, abs=1e-5)
    assert sum(count for (what, _), count in mps.waits.items() if what == "to host") == 3, "4, 4 and 2 pictures"
