"""Stage 2: the autoencoder between pictures and latents; a second leg may sharpen its decoder alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from data.bundled.recipe.common import Stage, second_table, stage_from_command_line
from data.bundled.recipe.dataset import autoencoder_pictures, to_unit
from data.bundled.recipe.learning import Learner
from data.bundled.recipe.workers import Team, train_together


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


@torch.no_grad()
def grow(model: AutoencoderKL, source: AutoencoderKL) -> None:
    """Copy the weights of `source`, which has fewer latent channels but else the same sizes, into `model`.

    Its latents become the first ones and stay as they were; decoding begins without regard to the new ones.
    """
    old, new = source.config.latent_channels, model.config.latent_channels
    both = [*range(old), *range(new, new + old)]  # means, then logarithms of variances
    own = model.state_dict()
    for name, weight in source.state_dict().items():
        target = own[name]
        if weight.shape == target.shape:
            target.copy_(weight)
            continue
        rows = both if name.startswith(("encoder.", "quant_conv")) else range(weight.shape[0])
        columns = both if name == "quant_conv.weight" else range(weight.shape[1] if weight.ndim > 1 else 0)
        if name.startswith("quant_conv"):
            target[list(rows)] = 0.0  # old latents take nothing from new features
        if name.startswith("post_quant"):
            target[:] = torch.eye(new)[:, :, None, None] if weight.ndim > 1 else 0.0
        if name.startswith("post_quant") and weight.ndim > 1:
            target[:old, old:] = 0.0
        if name == "decoder.conv_in.weight":
            target[:, old:] *= 0.1
        if weight.ndim == 1:
            target[list(rows)] = weight
        else:
            target[torch.tensor(list(rows))[:, None], torch.tensor(list(columns))[None]] = weight
    own["quant_conv.bias"][new + old :] -= 8.0  # new latents begin with little spread


def picture_loss(decoded: torch.Tensor, pictures: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the loss of a batch, and the mean of its pictures' peak signal-to-noise ratios in dB.

    The loss is the mean absolute error of the pixels and of the differences between neighbours, which keeps edges,
    less a fiftieth of the dB, which is what is measured in the end.
    """

    def slopes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]

    edges = sum((a - b).abs().mean() for a, b in zip(slopes(decoded), slopes(pictures), strict=True))
    decibels = 10 * torch.log10(4 / ((decoded - pictures).square().mean((1, 2, 3)) + 1e-6)).mean()
    return (decoded - pictures).abs().mean() + edges - 0.02 * decibels, decibels.item()


def vary(pictures: torch.Tensor, reach: int = 6) -> torch.Tensor:
    """Return the batch changed without any resampling: half of the pictures mirrored, shifted by up to `reach`

    pixels over white, and three in ten with their colour channels in another order.
    """
    height, width = pictures.shape[-2:]
    padded = F.pad(pictures, (reach,) * 4, value=1.0)
    changed = []
    for picture in padded:
        top, left = torch.randint(2 * reach + 1, (2,)).tolist()
        crop = picture[:, top : top + height, left : left + width]
        crop = crop.flip(-1) if torch.rand(()) < 0.5 else crop
        changed.append(crop[torch.randperm(3)] if torch.rand(()) < 0.3 else crop)
    return torch.stack(changed)


@dataclass(frozen=True)
class Leg:
    """A part of the training: its table in the config and whether the encoder learns."""

    name: str
    table: dict[str, Any]
    encoder_learns: bool


def legs(stage: Stage) -> list[Leg]:
    """Return the whole autoencoder and then, if the config has a table for it, the `decoder` alone.

    Latents depend on the encoder only, so the second leg may run before or after the denoiser's training.
    """
    whole = Leg("autoencoder", stage.table, encoder_learns=True)
    decoder = second_table(stage.table, "decoder")
    return [whole] if decoder is None else [whole, Leg("decoder", decoder, encoder_learns=False)]


def leg_loss(
    model: AutoencoderKL, pictures: torch.Tensor, leg: Leg, source: AutoencoderKL | None
) -> tuple[torch.Tensor, float]:
    """Return the loss of a batch and its reconstruction's peak signal-to-noise ratio in dB.

    With a `source` the first latents are held near those it gives, by the weight `anchor`.
    """
    device, bfloat16 = pictures.device.type, leg.table.get("bfloat16", False)
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
        with torch.set_grad_enabled(leg.encoder_learns):
            posterior = model.encode(pictures).latent_dist
        own_spread = torch.exp(0.5 * posterior.logvar.clamp(-10, 2))
        spread = own_spread if leg.encoder_learns else leg.table.get("latent_noise", 0.1)
        latents = posterior.mean + spread * torch.randn_like(posterior.mean)
        decoded = model.decode(latents).sample
    loss, psnr = picture_loss(decoded.float(), pictures)
    if leg.encoder_learns:
        loss = loss + leg.table["kl_weight"] * posterior.kl().float().mean() / posterior.mean[0].numel()
    if source is not None and leg.encoder_learns:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            wanted = source.encode(pictures).latent_dist.mean.float()
        moved = (posterior.mean.float()[:, : wanted.shape[1]] - wanted) * source.config.scaling_factor
        loss = loss + leg.table.get("anchor", 0.0) * moved.square().mean()
    return loss, psnr


def train_leg(
    stage: Stage, leg: Leg, team: Team, model: AutoencoderKL, source: AutoencoderKL | None, pictures: torch.Tensor
) -> float:
    """Train `model` in place, ending with the mean of its weights; returns the running PSNR in dB."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(leg.encoder_learns or name.startswith(("decoder", "post_quant")))
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=leg.table["learning_rate"], betas=(0.9, 0.99), weight_decay=0.0)
    checkpoint = stage.path(f"checkpoints/{leg.name}.pt")
    learner = Learner(model, optimizer, leg.table, checkpoint, ema_decay=0.995, warmup_steps=100, team=team)
    torch.manual_seed(stage.seed + learner.budget.step * team.size + team.rank)
    mean, size = 0.0, leg.table["batch"]
    while (factor := learner.factor()) > 0:
        chosen = vary(to_unit(pictures[torch.randint(len(pictures), (size,))])).to(stage.device)
        loss, psnr = leg_loss(model, chosen, leg, source)
        learner.step(loss, factor)
        step, seconds = learner.budget.step, learner.budget.seconds
        mean += (psnr - mean) * max(0.02, 1 / step)
        if step % 50 == 0 and team.leads:
            print(f"{leg.name} {step} {seconds:.0f}s psnr {mean:.2f} dB", flush=True)
    learner.save()
    learner.ema.copy_to(model)
    return mean


@torch.no_grad()
def latent_deviation(model: AutoencoderKL, pictures: torch.Tensor, device: torch.device) -> float:
    """Return the standard deviation of the latents of all pictures."""
    chunks = [model.encode(to_unit(c).to(device)).latent_dist.mean for c in pictures.split(64)]
    return torch.cat(chunks).std().item()


def train(stage: Stage, team: Team) -> float:
    """Train as one process of a team; the leader writes `work/autoencoder`. Returns the last PSNR."""
    pictures = autoencoder_pictures(stage)
    model = build_autoencoder(stage, pictures.shape[-1])
    source = None
    if start := stage.table.get("start"):
        source = AutoencoderKL.from_pretrained(Path(start)).float().to(stage.device).eval().requires_grad_(False)
        grow(model, source)
    model = model.to(stage.device).train()
    team.share_weights(model)
    psnr = 0.0
    for leg in legs(stage):
        psnr = train_leg(stage, leg, team, model, source, pictures)
        if team.leads and leg.encoder_learns:
            scale = source.config.scaling_factor if source else 1 / latent_deviation(model, pictures, stage.device)
            model.register_to_config(scaling_factor=scale)
        if team.leads:
            model.save_pretrained(stage.path("autoencoder"))
    return psnr


def run(stage: Stage) -> None:
    """Train with as many processes as `workers` says; latents get the scale of the warm start or unit deviation."""
    train_together(stage, train)


if __name__ == "__main__":
    run(stage_from_command_line("train_autoencoder"))
