"""Puts the trained parts together as one diffusers folder in half precision, with CLIP beside it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel

from data.bundled.recipe.common import Stage, write_json
from data.bundled.recipe.export import check_sizes, forget_origin, load_in_float32, replace_files
from data.bundled.recipe.train_denoiser import build_scheduler
from data.scenes.recipe.attributes import known_attributes
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.scene import held_out_pairs
from data.scenes.recipe.train_clip import make_tokenizer


def assemble(stage: Stage) -> StableDiffusionPipeline:
    """Return the pipeline made of what the stages left in the work folder."""
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(stage.need("autoencoder", "run autoencoder")),
        text_encoder=CLIPTextModel.from_pretrained(stage.need("text_encoder", "run denoiser")),
        tokenizer=make_tokenizer(stage),
        unet=UNet2DConditionModel.from_pretrained(stage.need("denoiser", "run denoiser")),
        scheduler=DDIMScheduler.from_config(build_scheduler().config, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def run(stage: Stage, pause: Pause | None = None, target: Path | None = None) -> Path:
    """Write pipeline, CLIP, attributes and the list of held-out combinations to `target`; returns it."""
    del pause  # nothing here takes long
    target = target or Path(stage.require("target"))
    target.mkdir(parents=True, exist_ok=True)
    shard = stage.require("shard_size")
    temporary = Path(tempfile.mkdtemp(dir=target, prefix=".export-"))
    try:
        _save(stage, temporary, shard)
        check_sizes(temporary, stage.require("largest_file_mb"), stage.require("largest_folder_mb"))
        replace_files(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _save(stage: Stage, folder: Path, shard: str) -> None:
    """Write every part into `folder` in half precision."""
    assemble(stage).to(dtype=torch.float16).save_pretrained(folder, max_shard_size=shard)
    CLIPModel.from_pretrained(stage.need("clip", "run clip")).half().save_pretrained(folder / "clip")
    make_tokenizer(stage).save_pretrained(folder / "clip")
    for part in ("text_encoder", "clip"):
        load_in_float32(folder / part / "config.json")
    for part in ("unet", "vae"):
        forget_origin(folder / part / "config.json")
    write_json(folder / "attributes.json", known_attributes())
    write_json(folder / "held_out.json", [list(pair) for pair in held_out_pairs()])
