"""Stage 4: the text-conditioned denoiser on latents computed once by the frozen autoencoder."""

from __future__ import annotations

import math
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel

from data.bundled.recipe.common import Ema, RecipeError, Stage, stage_from_command_line
from data.bundled.recipe.dataset import CaptionMix, Dataset, load_dataset, load_tokenizer, to_unit, tokenize
from data.bundled.recipe.learning import Learner
from data.bundled.recipe.muon import MuonWithAdamW
from data.bundled.recipe.workers import Team, train_together

Optimizer = torch.optim.Optimizer | MuonWithAdamW


def build_scheduler() -> DDPMScheduler:
    """Return the noise schedule: 1000 steps, scaled-linear betas, v-prediction."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def build_unet(stage: Stage, latent_channels: int, sample_size: int, text_width: int) -> UNet2DConditionModel:
    """Return an untrained UNet; `attention` says for each level whether it has attention blocks."""
    channels, attention = stage.require("channels"), stage.require("attention")
    if len(channels) != len(attention):
        raise RecipeError(f"[denoiser] 'channels' has {len(channels)} levels but 'attention' {len(attention)}.")
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)]
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=stage.require("layers"),
        block_out_channels=tuple(channels),
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        cross_attention_dim=text_width,
        attention_head_dim=stage.require("head_width"),
        norm_num_groups=32,
    )


@torch.no_grad()
def warm_start(unet: UNet2DConditionModel, folder: Path) -> int:
    """Copy the weights of a saved UNet that fit by name and shape; returns how many numbers were copied.

    A deeper source may be used: the last layer of each of its up blocks, which meets the block's input, goes
    to the last layer here. A source with fewer latent channels has the first ones; it begins blind to the others.
    """
    source = UNet2DConditionModel.from_pretrained(folder)
    extra = source.config.layers_per_block - unet.config.layers_per_block
    last = unet.config.layers_per_block
    given, own, copied = source.state_dict(), unet.state_dict(), 0
    for name, weight in own.items():
        other = name
        if name.startswith("up_blocks") and extra > 0:
            for kind in ("resnets", "attentions"):
                other = other.replace(f"{kind}.{last}.", f"{kind}.{last + extra}.")
        if other in given and given[other].shape == weight.shape:
            weight.copy_(given[other])
            copied += weight.numel()
    channels = source.config.in_channels
    if channels < unet.config.in_channels:
        own["conv_in.weight"].zero_()[:, :channels] = given["conv_in.weight"]
        for name in ("conv_out.weight", "conv_out.bias"):
            own[name].mul_(0.1)[:channels] = given[name]
        copied += sum(given[f"conv_{end}.weight"].numel() for end in ("in", "out"))
    return copied


@torch.no_grad()
def encode_latents(autoencoder: AutoencoderKL, dataset: Dataset, device: torch.device, mirror: bool) -> torch.Tensor:
    """Return latents (n, c, h, w) of all pictures at unit deviation; with `mirror` those of mirror images follow."""
    pictures = torch.cat([dataset.pictures, dataset.pictures.flip(-1)]) if mirror else dataset.pictures
    chunks = [autoencoder.encode(to_unit(c).to(device)).latent_dist.mean.cpu() for c in pictures.split(64)]
    return torch.cat(chunks) * autoencoder.config.scaling_factor


def load_text_tower(stage: Stage) -> CLIPTextModel:
    """Return CLIP's text tower, frozen."""
    clip = CLIPModel.from_pretrained(stage.need("clip", "train_clip"))
    tower = CLIPTextModel(clip.config.text_config)
    own = tower.state_dict()
    given = {k.removeprefix("text_model."): v for k, v in clip.state_dict().items() if k.startswith("text_model.")}
    prefix = "text_model." if any(k.startswith("text_model.") for k in own) else ""
    tower.load_state_dict({prefix + k: v for k, v in given.items()})
    return tower.eval().requires_grad_(False)


def loss_weight(scheduler: DDPMScheduler, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return min(snr + 1, gamma) / (snr + 1), the weight of the error in v.

    In terms of x0 this is min(snr + 1, gamma): min-SNR (Hang et al., 2023) with the 1 that keeps nearly pure noise,
    where a small set of pictures is told apart by the text alone, from being ignored.
    """
    alphas = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alphas / (1 - alphas)
    return (snr + 1).clamp(max=gamma) / (snr + 1)


class Batches:
    """Draws latents with captions as text-tower states, from its own seeded generators."""

    def __init__(self, stage: Stage) -> None:
        self.dataset, self.tokenizer = load_dataset(stage), load_tokenizer(stage)
        self.device, self.size = stage.device, int(stage.require("batch"))
        autoencoder = AutoencoderKL.from_pretrained(stage.need("autoencoder", "train_autoencoder"))
        self.latents = encode_latents(
            autoencoder.eval().to(self.device), self.dataset, self.device, stage.table.get("mirror", False)
        )
        self.text_tower = load_text_tower(stage).to(self.device)
        self.scheduler = build_scheduler()
        self.mix = CaptionMix(**stage.require("captions"))
        self.rng = random.Random(stage.seed)
        self.order: list[int] = []

    @torch.no_grad()
    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents (b, c, h, w) and text states (b, tokens, width); each picture once per pass."""
        while len(self.order) < self.size:
            passed = list(range(len(self.latents)))
            self.rng.shuffle(passed)
            self.order += passed
        index, self.order = self.order[: self.size], self.order[self.size :]
        captions = [self.mix.sample(self.dataset.concepts[i % len(self.dataset)], self.rng) for i in index]
        ids = tokenize(self.tokenizer, captions).to(self.device)
        return self.latents[index].to(self.device), self.text_tower(ids)[0]


def make_optimizer(stage: Stage, unet: UNet2DConditionModel) -> Optimizer:
    """Return the optimiser named in the config."""
    name, rate = stage.require("optimizer"), stage.require("learning_rate")
    if name == "muon":
        return MuonWithAdamW(unet, rate)
    if name == "adamw":
        return torch.optim.AdamW(unet.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    raise RecipeError(f"[denoiser] optimizer '{name}' is unknown; use 'muon' or 'adamw'.")


def denoising_loss(
    unet: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: torch.Tensor,
    text: torch.Tensor,
    gamma: float,
    bfloat16: bool = False,
    places: torch.Tensor | None = None,
) -> tuple[torch.Tensor, float]:
    """Return the weighted loss and the plain mean square error of v; timesteps are spread evenly over the batch.

    `places` says how much the error counts at each place of the latents, relative to others, (b, 1, h, w).
    """
    size = len(latents)
    spread = (torch.randperm(size) + torch.rand(size)) / size
    timesteps = (spread * scheduler.config.num_train_timesteps).long().to(latents.device)
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    with torch.autocast(latents.device.type, torch.bfloat16, enabled=bfloat16):
        velocity = unet(noisy, timesteps, text).sample
    squares = (velocity.float() - target).square()
    counted = squares if places is None else squares * (places / places.mean())
    weight = loss_weight(scheduler, timesteps, gamma)
    return (counted.flatten(1).mean(1) * weight / weight.mean()).mean(), squares.mean().item()


def build(stage: Stage, batches: Batches) -> UNet2DConditionModel:
    """Return the UNet that fits the batches, warm-started if the config names a folder."""
    channels, side = batches.latents.shape[1], batches.latents.shape[-1]
    unet = build_unet(stage, channels, side, batches.text_tower.config.hidden_size)
    if folder := stage.table.get("warm_start"):
        print(f"warm start: {warm_start(unet, Path(folder)):,} numbers from {folder}")
    return unet.to(stage.device)


def save_unet(unet: UNet2DConditionModel, ema: Ema, folder: Path) -> None:
    """Write the running mean of the weights as a diffusers folder."""
    mean = UNet2DConditionModel.from_config(unet.config)
    ema.copy_to(mean)
    mean.save_pretrained(folder)


def report(learner: Learner, batches: Batches, mean: float) -> None:
    """Print where the training stands."""
    step, seconds = learner.budget.step, learner.budget.seconds
    passes = step * batches.size * learner.team.size / len(batches.latents)
    print(f"denoiser {step} {seconds:.0f}s error {mean:.4f} passes {passes:.0f}", flush=True)


def train(stage: Stage, team: Team) -> float:
    """Train as one process of a team; the leader writes `work/denoiser`. Returns the running error of v."""
    batches = Batches(stage)
    unet = build(stage, batches)
    team.share_weights(unet)
    learner = Learner(
        unet,
        make_optimizer(stage, unet),
        stage.table,
        stage.path("checkpoints/denoiser.pt"),
        ema_decay=0.999,
        warmup_steps=50,
        hold=0.3,
        save_every=60 * stage.table.get("save_minutes", 5.0),
        team=team,
    )
    if learner.resumed and team.leads:
        print(f"resumed at step {learner.budget.step}, {learner.budget.seconds:.0f} s", flush=True)
    torch.manual_seed(stage.seed + learner.budget.step * team.size + team.rank)
    batches.rng.seed(stage.seed + learner.budget.step * team.size + team.rank)
    options = {"gamma": stage.table.get("gamma", 5.0), "bfloat16": stage.table.get("bfloat16", False)}
    mean = math.nan
    while (factor := learner.factor()) > 0:
        latents, text = batches.draw()
        loss, error = denoising_loss(unet, batches.scheduler, latents, text, **options)
        saved = learner.step(loss, factor)
        mean = error if math.isnan(mean) else mean + 0.02 * (error - mean)
        if team.leads and learner.budget.step % 25 == 0:
            report(learner, batches, mean)
        if saved:
            save_unet(unet, learner.ema, stage.path("denoiser"))
    learner.save()
    if team.leads:
        save_unet(unet, learner.ema, stage.path("denoiser"))
    return mean


def run(stage: Stage) -> None:
    """Train with as many processes as the config's `workers`."""
    train_together(stage, train)


if __name__ == "__main__":
    run(stage_from_command_line("train_denoiser"))
