"""Drawing clips with the finished pipeline, and another model's CLIP as the judge of what their middle frames show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DPMSolverMultistepScheduler, LattePipeline
from diffusers.utils import logging

from data.scenes.recipe.judge import SceneJudge
from data.video.recipe.clips import FRAMES, THINGS

MIDDLE = FRAMES // 2


def load_clip_pipeline(folder: Path) -> LattePipeline:
    """Return the saved pipeline in float32 with DPM++ 2M Karras."""
    logging.set_verbosity_error()
    pipeline = LattePipeline.from_pretrained(folder)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def draw_clips(
    pipeline: LattePipeline, captions: Sequence[str], steps: int, guidance: float, first_seed: int
) -> torch.Tensor:
    """Return final latents (n, c, frames, h, w), the i-th from seed `first_seed + i`.

    One call a caption: given several at once, LattePipeline pads them to a length that training never showed.
    """
    side = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
    options = {"width": side, "height": side, "video_length": FRAMES, "clean_caption": False, "output_type": "latent"}
    made = []
    for number, text in enumerate(captions):
        seed = torch.Generator().manual_seed(first_seed + number)
        found = pipeline(text, num_inference_steps=steps, guidance_scale=guidance, generator=seed, **options).frames
        made.append(found.float())
    return torch.cat(made)


@torch.no_grad()
def frames_of(pipeline: LattePipeline, latents: torch.Tensor) -> torch.Tensor:
    """Return the frames (n, frames, 3, height, width) in -1 to 1 of latents (n, c, frames, h, w)."""
    factor = pipeline.vae.config.scaling_factor
    clips = latents.transpose(1, 2) / factor
    return torch.stack([pipeline.vae.decode(clip).sample.clamp(-1, 1) for clip in clips])


def words_found(judge: SceneJudge, clips: torch.Tensor, things: Sequence[str]) -> float:
    """Return the share of clips whose middle frame the judge finds nearest to the clip's own thing, of all things."""
    names, side = tuple(THINGS), judge.model.config.vision_config.image_size
    middle = F.interpolate(clips[:, MIDDLE], (side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    nearest = (judge.pictures(middle) @ judge.texts(names).T).argmax(1).tolist()
    return float(np.mean([names[index] == thing for index, thing in zip(nearest, things, strict=True)]))


def motion_of(latents: torch.Tensor) -> torch.Tensor:
    """Return the motion energy (n,) of latents (n, c, frames, h, w): mean squared difference of neighbouring frames."""
    return latents.diff(dim=2).square().mean((1, 2, 3, 4))
