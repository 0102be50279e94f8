"""The autoencoder between scenes and latents, begun from one that knows emoji."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from data.bundled.recipe.common import RecipeError, Stage, second_table
from data.bundled.recipe.dataset import to_unit
from data.bundled.recipe.evaluate_held_out import psnr_of_each
from data.bundled.recipe.learning import Learner
from data.bundled.recipe.train_autoencoder import build_autoencoder, latent_deviation, picture_loss
from data.scenes.recipe.pause import Pause


def load_pictures(stage: Stage) -> np.ndarray:
    """Return the painted pictures as uint8 (n, 3, size, size), read from disk as they are needed."""
    pictures: np.ndarray = np.load(stage.need("pictures.npy", "run paint"), mmap_mode="r")
    return pictures


def batch_of(pictures: np.ndarray, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return `size` random pictures in -1 to 1, each mirrored half of the time."""
    index = torch.randint(len(pictures), (size,), generator=generator)
    chosen = to_unit(torch.from_numpy(pictures[np.sort(index.numpy())]))
    flip = torch.rand(size, generator=generator) < 0.5
    return torch.where(flip[:, None, None, None], chosen.flip(-1), chosen)


def autoencoder_loss(
    model: AutoencoderKL, pictures: torch.Tensor, table: dict[str, Any], encoder_learns: bool
) -> tuple[torch.Tensor, float]:
    """Return the loss of a batch and its reconstruction's peak signal-to-noise ratio in dB."""
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=table.get("bfloat16", False)):
        with torch.set_grad_enabled(encoder_learns):
            posterior = model.encode(pictures).latent_dist
        spread = torch.exp(0.5 * posterior.logvar.clamp(-10, 2))
        decoded = model.decode(posterior.mean + spread * torch.randn_like(posterior.mean)).sample
    loss, psnr = picture_loss(decoded.float(), pictures)
    if encoder_learns:
        loss = loss + table["kl_weight"] * posterior.kl().float().mean() / posterior.mean[0].numel()
    return loss, psnr


def train_leg(stage: Stage, model: AutoencoderKL, table: dict[str, Any], name: str, pause: Pause) -> float:
    """Train `model` in place, all of it or in the leg "decoder" only what decodes; ends with the mean of its weights.

    Returns the PSNR in dB on the last 256 pictures, which no step has used.
    """
    pictures, encoder_learns = load_pictures(stage), name == "autoencoder"
    for part, parameter in model.named_parameters():
        parameter.requires_grad_(encoder_learns or part.startswith(("decoder", "post_quant")))
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=table["learning_rate"], betas=(0.9, 0.99), weight_decay=0.0)
    checkpoint = stage.path(f"checkpoints/{name}.pt")
    learner = Learner(model.train(), optimizer, table, checkpoint, ema_decay=0.995, warmup_steps=50)
    generator = torch.Generator().manual_seed(stage.seed + learner.budget.step)
    kept, mean = pictures[:-256] if len(pictures) > 512 else pictures, 0.0
    while (factor := learner.factor()) > 0:
        pause.wait(learner)
        batch = batch_of(kept, table["batch"], generator).to(stage.device)
        loss, psnr = autoencoder_loss(model, batch, table, encoder_learns)
        learner.step(loss, factor)
        mean += (psnr - mean) * max(0.02, 1 / learner.budget.step)
        if learner.budget.step % 25 == 0:
            print(f"{name} {learner.budget.step} {learner.budget.seconds:.0f}s psnr {mean:.2f} dB", flush=True)
    learner.save()
    learner.ema.copy_to(model)
    return psnr_of_each(model, torch.from_numpy(pictures[-256:].copy())).mean().item()


def run(stage: Stage, pause: Pause | None = None) -> float:
    """Train and write `work/autoencoder`, whose latents get unit deviation; returns PSNR on the last 256 pictures."""
    pictures = load_pictures(stage)
    model = build_autoencoder(stage, pictures.shape[-1])
    if start := stage.table.get("start"):
        model.load_state_dict(AutoencoderKL.from_pretrained(Path(start)).float().state_dict())
    psnr = train_leg(stage, model.to(stage.device), stage.table, "autoencoder", pause or Pause())
    last = torch.from_numpy(pictures[-256:].copy())
    model.register_to_config(scaling_factor=1 / latent_deviation(model.eval(), last, stage.device))
    model.save_pretrained(stage.path("autoencoder"))
    return psnr


def sharpen(stage: Stage, pause: Pause | None = None) -> float:
    """Train only the decoder of `work/autoencoder`: latents, and thus denoisers, stay as they are. Returns the PSNR."""
    table = second_table(stage.table, "decoder")
    if table is None:
        raise RecipeError("[autoencoder] has no 'decoder' table; scenes_64.toml has one.")
    model = AutoencoderKL.from_pretrained(stage.need("autoencoder", "run autoencoder")).float().to(stage.device)
    psnr = train_leg(stage, model, table, "decoder", pause or Pause())
    model.save_pretrained(stage.path("autoencoder"))
    return psnr
