"""The autoencoder between scenes and latents, begun from one that knows emoji."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from data.bundled.recipe.common import Stage
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
    model: AutoencoderKL, pictures: torch.Tensor, kl_weight: float, bfloat16: bool
) -> tuple[torch.Tensor, float]:
    """Return the loss of a batch and its reconstruction's peak signal-to-noise ratio in dB."""
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=bfloat16):
        posterior = model.encode(pictures).latent_dist
        spread = torch.exp(0.5 * posterior.logvar.clamp(-10, 2))
        decoded = model.decode(posterior.mean + spread * torch.randn_like(posterior.mean)).sample
    loss, psnr = picture_loss(decoded.float(), pictures)
    return loss + kl_weight * posterior.kl().float().mean() / posterior.mean[0].numel(), psnr


def run(stage: Stage, pause: Pause | None = None) -> float:
    """Train and write `work/autoencoder`, whose latents get unit deviation; returns PSNR on the last 256 pictures."""
    pictures, table, pause = load_pictures(stage), stage.table, pause or Pause()
    model = build_autoencoder(stage, pictures.shape[-1])
    if start := table.get("start"):
        model.load_state_dict(AutoencoderKL.from_pretrained(Path(start)).float().state_dict())
    model = model.to(stage.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=table["learning_rate"], betas=(0.9, 0.99), weight_decay=0.0)
    checkpoint = stage.path("checkpoints/autoencoder.pt")
    learner = Learner(model, optimizer, table, checkpoint, ema_decay=0.995, warmup_steps=50)
    generator = torch.Generator().manual_seed(stage.seed + learner.budget.step)
    kept, mean = pictures[:-256] if len(pictures) > 512 else pictures, 0.0
    while (factor := learner.factor()) > 0:
        pause.wait(learner)
        batch = batch_of(kept, table["batch"], generator).to(stage.device)
        loss, psnr = autoencoder_loss(model, batch, table["kl_weight"], table.get("bfloat16", False))
        learner.step(loss, factor)
        mean += (psnr - mean) * max(0.02, 1 / learner.budget.step)
        if learner.budget.step % 25 == 0:
            print(f"autoencoder {learner.budget.step} {learner.budget.seconds:.0f}s psnr {mean:.2f} dB", flush=True)
    learner.save()
    learner.ema.copy_to(model)
    last = torch.from_numpy(pictures[-256:].copy())
    model.register_to_config(scaling_factor=1 / latent_deviation(model.eval(), last, stage.device))
    model.save_pretrained(stage.path("autoencoder"))
    return psnr_of_each(model, last).mean().item()
