"""Puts the trained parts together as one diffusers folder: the autoencoder in 8 bits, all else in 16."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel
from transformers import T5EncoderModel

from data.bundled.recipe.common import Stage, write_json
from data.bundled.recipe.export import check_sizes, forget_origin, load_in_float32, replace_files
from data.bundled.recipe.train_denoiser import build_scheduler
from data.scenes.recipe.pause import Pause
from data.video.recipe.clip_text import make_tokenizer
from data.video.recipe.clips import HELD_OUT, caption


def assemble(stage: Stage) -> LattePipeline:
    """Return the pipeline made of what the stages left in the work folder."""
    return LattePipeline(
        tokenizer=make_tokenizer(),
        text_encoder=T5EncoderModel.from_pretrained(stage.need("text_encoder", "run denoiser")),
        vae=AutoencoderKL.from_pretrained(stage.need("autoencoder", "run autoencoder")),
        transformer=LatteTransformer3DModel.from_pretrained(stage.need("transformer", "run denoiser")),
        scheduler=DDIMScheduler.from_config(build_scheduler().config, set_alpha_to_one=False),
    )


def in_eight_bits(module: torch.nn.Module) -> None:
    """Turn every convolution and matrix to float8_e4m3fn; loading turns them to the number format asked for."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(torch.float8_e4m3fn)


def run(stage: Stage, pause: Pause | None = None, target: Path | None = None) -> Path:
    """Write the pipeline and the list of held-out captions to `target`; returns it."""
    del pause  # nothing here takes long
    target = target or Path(stage.require("target"))
    target.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target, prefix=".export-"))
    try:
        pipeline = assemble(stage).to(dtype=torch.float16)
        in_eight_bits(pipeline.vae)
        pipeline.save_pretrained(temporary)
        load_in_float32(temporary / "text_encoder" / "config.json")
        for part in ("transformer", "vae"):
            forget_origin(temporary / part / "config.json")
        write_json(temporary / "held_out.json", [caption(*pair) for pair in HELD_OUT])
        check_sizes(temporary, stage.require("largest_file_mb"), stage.require("largest_folder_mb"))
        replace_files(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
