"""The autoencoder between frames and latents: another model's, scaled so that latents of clips have unit deviation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from data.bundled.recipe.common import Stage, dropout_free
from data.bundled.recipe.evaluate_held_out import psnr_of_each
from data.bundled.recipe.train_autoencoder import latent_deviation
from data.scenes.recipe.pause import Pause

CHECKED = 256  # frames


def run(stage: Stage, pause: Pause | None = None) -> float:
    """Write `work/autoencoder`; returns its mean PSNR in dB on frames, weights rounded as they will be stored."""
    del pause  # nothing here takes long
    pictures = np.load(stage.need("pictures.npy", "run paint"), mmap_mode="r")
    frames = torch.from_numpy(pictures[:: max(1, len(pictures) // CHECKED)].copy())
    model = AutoencoderKL.from_pretrained(Path(stage.require("start"))).float().to(stage.device)
    round_matrices(dropout_free(model))
    model.register_to_config(scaling_factor=1 / latent_deviation(model, frames, stage.device))
    model.save_pretrained(stage.path("autoencoder"))
    return psnr_of_each(model, frames).mean().item()


@torch.no_grad()
def round_matrices(module: torch.nn.Module) -> None:
    """Round every convolution and matrix to 8 bits (float8_e4m3fn), which is how the export stores them."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.to(torch.float8_e4m3fn).to(parameter.dtype))
