"""Stage 2: the autoencoder between pictures and latents; a second leg may sharpen its decoder alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from data.bundled.recipe.common import (
    Budget,
    Ema,
    Stage,
    resume_checkpoint,
    save_checkpoint,
    second_table,
    stage_from_command_line,
)
from data.bundled.recipe.dataset import load_dataset, to_unit


def build_autoencoder(stage: Stage, size: int) -> AutoencoderKL:
    """Return an untrained AutoencoderKL; each level but the last halves the picture."""
    channels, layers = stage.require("channels"), stage.require("layers")
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        latent_channels=stage.require("latent_channels"),
        norm_num_groups=math.gcd(*channels, 32),
        sample_size=size,
        mid_block_add_attention=False,
    )


def picture_loss(decoded: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute error of the pixels plus that of the differences between neighbours."""

    def slopes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]

    edges = sum((a - b).abs().mean() for a, b in zip(slopes(decoded), slopes(pictures), strict=True))
    return (decoded - pictures).abs().mean() + edges


@dataclass(frozen=True)
class Leg:
    """A part of the training: its table in the config and whether the encoder learns."""

    name: str
    table: dict[str, Any]
    encoder_learns: bool


def legs(stage: Stage) -> list[Leg]:
    """Return the whole autoencoder, unless the config has a trained one to `start` from; then the `decoder` alone.

    Latents depend on the encoder only, so the second leg may run before or after the denoiser's training.
    """
    whole = [] if "start" in stage.table else [Leg("autoencoder", stage.table, encoder_learns=True)]
    if (decoder := second_table(stage.table, "decoder")) is None:
        return whole
    return [*whole, Leg("decoder", decoder, encoder_learns=False)]


def leg_loss(model: AutoencoderKL, pictures: torch.Tensor, leg: Leg) -> tuple[torch.Tensor, float]:
    """Return the loss of a batch and its reconstruction's peak signal-to-noise ratio in dB."""
    device, bfloat16 = pictures.device.type, leg.table.get("bfloat16", False)
    with torch.set_grad_enabled(leg.encoder_learns):
        posterior = model.encode(pictures).latent_dist
    own_spread = torch.exp(0.5 * posterior.logvar.clamp(-10, 2))
    spread = own_spread if leg.encoder_learns else leg.table.get("latent_noise", 0.1)
    latents = posterior.mean + spread * torch.randn_like(posterior.mean)
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
        decoded = model.decode(latents).sample
    decoded = decoded.float()
    loss = picture_loss(decoded, pictures)
    if leg.encoder_learns:
        loss = loss + leg.table["kl_weight"] * posterior.kl().mean() / posterior.mean[0].numel()
    return loss, 10 * math.log10(4 / (decoded - pictures).detach().square().mean().item())


def train_leg(stage: Stage, leg: Leg, model: AutoencoderKL, pictures: torch.Tensor) -> float:
    """Train `model` in place, ending with the mean of its weights; returns the running PSNR in dB."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(leg.encoder_learns or name.startswith(("decoder", "post_quant")))
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=leg.table["learning_rate"], betas=(0.9, 0.99), weight_decay=0.0)
    ema, budget = Ema(model, leg.table.get("ema", 0.995)), Budget(leg.table.get("minutes"), leg.table.get("steps"))
    checkpoint = stage.path(f"checkpoints/{leg.name}.pt")
    resume_checkpoint(checkpoint, budget, model=model, optimizer=optimizer, ema=ema)
    mean, size = 0.0, leg.table["batch"]
    while budget.progress < 1:
        chosen = to_unit(pictures[torch.randint(len(pictures), (size,))]).to(stage.device)
        chosen = chosen.flip(-1) if torch.rand(()) < 0.5 else chosen
        for group in optimizer.param_groups:
            group["lr"] = leg.table["learning_rate"] * budget.rate(warmup_steps=leg.table.get("warmup_steps", 100))
        loss, psnr = leg_loss(model, chosen, leg)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        ema.update(model)
        budget.tick()
        mean += (psnr - mean) * max(0.02, 1 / budget.step)
        if budget.step % 50 == 0:
            print(f"{leg.name} {budget.step} {budget.seconds:.0f}s psnr {mean:.2f} dB", flush=True)
        if budget.step % 200 == 0:
            save_checkpoint(checkpoint, budget, model=model, optimizer=optimizer, ema=ema)
    save_checkpoint(checkpoint, budget, model=model, optimizer=optimizer, ema=ema)
    ema.copy_to(model)
    return mean


@torch.no_grad()
def latent_deviation(model: AutoencoderKL, pictures: torch.Tensor, device: torch.device) -> float:
    """Return the standard deviation of the latents of all pictures."""
    chunks = [model.encode(to_unit(c).to(device)).latent_dist.mean for c in pictures.split(64)]
    return torch.cat(chunks).std().item()


def run(stage: Stage) -> float:
    """Train and write `work/autoencoder`, its scaling factor set from the latents; returns the last PSNR."""
    pictures = load_dataset(stage).pictures
    model = build_autoencoder(stage, pictures.shape[-1])
    if start := stage.table.get("start"):
        model = AutoencoderKL.from_pretrained(Path(start))
    model = model.to(stage.device).train()
    psnr = 0.0
    for leg in legs(stage):
        psnr = train_leg(stage, leg, model, pictures)
        if leg.encoder_learns:
            deviation = latent_deviation(model, pictures, stage.device)
            model.register_to_config(scaling_factor=1 / deviation)
        model.save_pretrained(stage.path("autoencoder"))
    return psnr


if __name__ == "__main__":
    run(stage_from_command_line("train_autoencoder"))
