"""Single-file checkpoints: drawn as their folder draws, identified by themselves and their configurations."""

import re
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.errors import LabError
from engine.passes.run import run_study
from engine.sampling.building import build_scheduler
from engine.sampling.image_pass import sample_cells
from engine.sampling.models import load
from engine.study.cells import cells
from engine.study.frame_settings import FrameSettings
from engine.study.model_parts import equipped
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.engine.miniatures import picture_of

CALL: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 4.0, "output_type": "np"}
# Names of diffusers, and those of the original code; {s} is the place of a block, counted through all levels.
RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
)
OUTER = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
)
ATTENTION = (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))


def original_unet_key(key: str) -> str:
    """The name of a weight of a miniature UNet (two levels of one block) in the original code."""
    inner = RESNET if "resnets" in key else ()
    for ours, theirs in OUTER:
        key = re.sub(rf"^{re.escape(ours)}\.", f"{theirs}.", key)
    key = re.sub(r"^down_blocks\.(\d)\.resnets\.0", lambda m: f"input_blocks.{1 + 2 * int(m[1])}.0", key)
    key = re.sub(r"^down_blocks\.(\d)\.attentions\.0", lambda m: f"input_blocks.{1 + 2 * int(m[1])}.1", key)
    key = re.sub(r"^down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op", key)
    key = re.sub(r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.0", key)
    key = re.sub(r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.1", key)
    key = re.sub(r"^up_blocks\.0\.upsamplers\.0", "output_blocks.1.1", key)
    for ours, theirs in inner:
        key = re.sub(rf"\b{ours}\.", f"{theirs}.", key)
    return f"model.diffusion_model.{key}"


def original_vae_key(key: str) -> str:
    """The name of a weight of a miniature autoencoder (four levels) in the original code."""
    key = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.", r"encoder.down.\1.block.", key)
    key = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample.", key)
    key = re.sub(r"decoder\.up_blocks\.(\d)\.resnets\.", lambda m: f"decoder.up.{3 - int(m[1])}.block.", key)
    key = re.sub(r"decoder\.up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"decoder.up.{3 - int(m[1])}.upsample.", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, theirs in ATTENTION:
            key = key.replace(f".{ours}.", f".{theirs}.")
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    return f"first_stage_model.{key}"


@pytest.fixture
def files(sd_folder: Path, tmp_path: Path) -> Path:
    """The weights of a pipeline in one file, with the names of the original code, and its folder without them."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd_folder, safety_checker=None)
    words = {key.removeprefix("text_model."): value for key, value in pipe.text_encoder.state_dict().items()}
    weights = {f"cond_stage_model.transformer.text_model.{key}": value for key, value in words.items()}
    weights |= {original_unet_key(key): value for key, value in pipe.unet.state_dict().items()}
    weights |= {original_vae_key(key): value for key, value in pipe.vae.state_dict().items()}
    save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "one.safetensors")
    shutil.copytree(sd_folder, tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path


def single_study(files: Path, **pipeline: Any) -> Any:
    plain = {"name": "one", "model": str(files / "one.safetensors"), "prompts": ["red apple"], "dtype": "float32"}
    return parse_study(plain | {"lanes": ["ddim:5"], "guidance_scale": 4.0, "pipeline": pipeline}, folder=files)


def test_a_single_file_draws_what_its_folder_draws(sd_folder: Path, files: Path) -> None:
    study = single_study(files, config="config")
    source = equipped(find_model(study.model), study.pipeline.parts)
    assert (source.kind, source.size, source.family.key) == ("file", (64, 64), "sd")
    plain = diffusers.StableDiffusionPipeline.from_single_file(
        str(files / "one.safetensors"), config=str(files / "config"), local_files_only=True, safety_checker=None
    )
    plain.set_progress_bar_config(disable=True)
    [cell] = cells(study, source, "cpu")
    [sample] = sample_cells(load(source, "cpu", "float32"), [cell], FrameSettings(count=0), 1)
    for pipe in (plain, diffusers.StableDiffusionPipeline.from_pretrained(sd_folder, safety_checker=None)):
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = build_scheduler(cell.lane, source.scheduler_config)
        expected = pipe(cell.prompt, generator=torch.Generator().manual_seed(0), **CALL).images[0]
        assert np.abs(picture_of(sample) - (np.asarray(expected) * 255).round().astype(int)).max() <= 1
    assert run_study(study, files / "c.duckdb", device="cpu").done == 1
    assert run_study(study, files / "c.duckdb", device="cpu").done == 0


def test_a_single_file_is_identified_by_itself_and_by_its_configurations(sd_folder: Path, files: Path) -> None:

    def identity() -> str | None:
        study = single_study(files, config="config")
        return equipped(find_model(study.model), study.pipeline.parts).fingerprint

    before = identity()
    assert identity() == before
    scheduler = files / "config" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("scaled_linear", "linear"))
    assert identity() != before
    with pytest.raises(LabError, match=r"is a single file. Add a table \[pipeline\] with config"):
        run_study(single_study(files), files / "c.duckdb", device="cpu")
    with pytest.raises(LabError, match="config is for single files"):
        equipped(find_model(str(sd_folder)), single_study(files, config="config").pipeline.parts)
    (files / "one.safetensors").write_bytes((files / "one.safetensors").read_bytes()[:-9])
    with pytest.raises(LabError, match="is damaged"):
        identity()
