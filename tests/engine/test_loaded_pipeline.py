"""A pipeline that a program has loaded itself: the same pictures, and no trace of the lab in it afterwards."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from engine.errors import LabError
from engine.sampling.loaded import register_pipeline
from engine.sampling.models import load
from engine.study.source import find_model
from engine.visualizer import DiffusionSchedulerVisualizer
from tests.engine.test_model_parts import write_lora

CALL: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np"}


@pytest.fixture
def pipe(sd_folder: Path) -> Any:
    loaded = StableDiffusionPipeline.from_pretrained(sd_folder, safety_checker=None)
    with torch.no_grad():
        loaded.unet.conv_out.weight.mul_(1.1)  # no longer what any folder holds
    loaded.set_progress_bar_config(disable=True)
    return loaded


def drawn(pipe: Any) -> np.ndarray:
    found: np.ndarray = pipe("red apple", generator=torch.Generator().manual_seed(0), **CALL).images[0]
    return found


def test_it_is_drawn_with_and_left_as_it_was(pipe: Any, tmp_path: Path) -> None:
    before, parts, settings = drawn(pipe), dict(pipe.components), dict(vars(pipe))
    config = dict(pipe.scheduler.config)
    lab = DiffusionSchedulerVisualizer(pipe=pipe, cache=tmp_path / "c.duckdb", guidance_scale=5.0, progress="none")
    lab.scheduler_configs = {"DDIM": {"scheduler_class": DDIMScheduler, "num_inference_steps": 4}}
    found = lab.capture_denoising_trajectory("red apple", num_frames=2)
    twin = copy.copy(pipe)
    twin.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    expected = (drawn(twin) * 255).round().astype(int)
    assert np.abs(np.asarray(found.final).astype(int) - expected).max() <= 1
    assert all(pipe.components[name] is part for name, part in parts.items())
    assert vars(pipe).keys() == settings.keys()
    assert dict(pipe.scheduler.config) == config
    assert np.array_equal(drawn(pipe), before)


def test_a_pipeline_on_another_gpu_than_the_first_is_refused(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(pipe), "device", torch.device("cuda:1"))
    with pytest.raises(LabError, match="set CUDA_VISIBLE_DEVICES=1 before Python starts"):
        register_pipeline(pipe)


def test_a_lora_that_is_loaded_is_drawn_with_and_stays_as_it_was(pipe: Any, sd_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    without = drawn(pipe)
    file = write_lora(sd_folder, tmp_path / "style.safetensors")
    pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="style")
    pipe.set_adapters(["style"], adapter_weights=[0.6])
    before, one = drawn(pipe), register_pipeline(pipe)
    assert np.abs(before - without).max() > 0.05, "the LoRA should be seen"
    lab = DiffusionSchedulerVisualizer(pipe=pipe, cache=tmp_path / "c.duckdb", guidance_scale=5.0, progress="none")
    lab.scheduler_configs = {"DDIM": {"scheduler_class": DDIMScheduler, "num_inference_steps": 4}}
    found = lab.capture_denoising_trajectory("red apple", num_frames=2)
    twin = copy.copy(pipe)
    twin.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    expected = (drawn(twin) * 255).round().astype(int)
    assert np.abs(np.asarray(found.final).astype(int) - expected).max() <= 1
    assert np.array_equal(drawn(pipe), before)
    assert pipe.get_active_adapters() == ["style"]
    pipe.set_adapters(["style"], adapter_weights=[0.3])
    assert register_pipeline(pipe).fingerprint != one.fingerprint


def test_its_identity_is_that_of_its_weights_and_configurations(pipe: Any) -> None:
    one = register_pipeline(pipe)
    assert register_pipeline(pipe).fingerprint == one.fingerprint
    assert find_model(one.name) is not None
    assert (one.kind, one.size, one.pipeline) == ("memory", (64, 64), "StableDiffusionPipeline")
    with torch.no_grad():
        pipe.unet.conv_in.bias[0] += 1
    assert register_pipeline(pipe).fingerprint != one.fingerprint


def test_another_number_format_is_refused(pipe: Any) -> None:
    source = register_pipeline(pipe)
    with pytest.raises(LabError, match="is in float32, but the study asks for bfloat16"):
        load(source, "cpu", "bfloat16")
    assert load(source, "cpu", "float32").pipe.unet is pipe.unet
