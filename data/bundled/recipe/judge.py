"""Drawing with the finished model, and its own CLIP as the judge of what was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, SchedulerMixin, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPModel, CLIPTokenizer

from data.bundled.recipe.common import RecipeError
from data.bundled.recipe.dataset import tokenize

BATCH = 32
QUARTERS = torch.tensor([0.25, 0.5, 0.75])


def quartiles(values: torch.Tensor) -> list[float]:
    """Return lower quartile, median and upper quartile."""
    return values.float().quantile(QUARTERS).tolist()


@dataclass(frozen=True)
class Recognition:
    """How many of n pictures CLIP ranks their own label first, or among the first five, of all labels; and how surely.

    `similarity` is the mean cosine of picture and label; `probability` has the quartiles of the softmax that the
    model's own logit scale gives the label.
    """

    n: int
    top1: float
    top5: float
    missed: tuple[str, ...]
    similarity: float
    probability: list[float]


def load_pipeline(folder: Path, device: torch.device) -> StableDiffusionPipeline:
    """Return the saved pipeline in float32 with DPM++ 2M Karras."""
    diffusers_logging.set_verbosity_error()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).to(device, torch.float32)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_latents(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    guidance: float,
    steps: int,
    first_seed: int,
    scheduler: SchedulerMixin | None = None,
) -> torch.Tensor:
    """Return final latents (n, c, h, w), the i-th from seed `first_seed + i`; of another scheduler if one is given.

    Every scheduler starts from the same state: unit noise at the last of the 1000 training steps.
    """
    solver, latents = scheduler or pipeline.scheduler, []
    shape = (pipeline.unet.config.in_channels, *[pipeline.unet.config.sample_size] * 2)
    usual, pipeline.scheduler = pipeline.scheduler, solver
    try:
        for start in range(0, len(prompts), BATCH):
            chunk = prompts[start : start + BATCH]
            seeds = [torch.Generator().manual_seed(first_seed + start + i) for i in range(len(chunk))]
            noise = torch.stack([torch.randn(shape, generator=g) for g in seeds]).to(pipeline.device)
            options = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": seeds}
            latents.append(pipeline(chunk, latents=noise, output_type="latent", **options).images.float().cpu())
    finally:
        pipeline.scheduler = usual
    return torch.cat(latents)


@torch.no_grad()
def decode(pipeline: StableDiffusionPipeline, latents: torch.Tensor) -> torch.Tensor:
    """Return the pictures (n, 3, h, w) in -1 to 1 of final latents."""
    vae = pipeline.vae
    chunks = (latents / vae.config.scaling_factor).split(BATCH)
    return torch.cat([vae.decode(chunk.to(vae.device)).sample.clamp(-1, 1).cpu() for chunk in chunks])


def draw(
    pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, steps: int, first_seed: int
) -> torch.Tensor:
    """Return pictures (n, 3, h, w) in -1 to 1, the i-th from seed `first_seed + i`."""
    return decode(pipeline, draw_latents(pipeline, prompts, guidance, steps, first_seed))


class Judge:
    """The bundled CLIP, asked which of the known labels a picture shows."""

    def __init__(self, folder: Path, labels: list[str]) -> None:
        self.labels = labels
        self.model = CLIPModel.from_pretrained(folder).float().eval()
        ids = tokenize(CLIPTokenizer.from_pretrained(folder), labels)
        with torch.no_grad():
            self.text = self.model(input_ids=ids, pixel_values=torch.zeros(1, 3, *[self.size] * 2)).text_embeds

    @property
    def size(self) -> int:
        """Side of the pictures CLIP takes, in pixels."""
        return int(self.model.config.vision_config.image_size)

    @torch.no_grad()
    def recognise(self, pictures: torch.Tensor, labels: list[str]) -> Recognition:
        """Return how often and how surely pictures (n, 3, h, w) in -1 to 1 are recognised as their label."""
        if unknown := sorted(set(labels) - set(self.labels)):
            raise RecipeError(f"Not in the vocabulary: {', '.join(unknown)}. vocabulary.txt lists the known labels.")
        ids = torch.zeros(1, 2, dtype=torch.long)
        images = torch.cat([self.model(input_ids=ids, pixel_values=c).image_embeds for c in pictures.split(BATCH)])
        cosines = images @ self.text.T
        ranking = cosines.argsort(1, descending=True)
        own = torch.tensor([self.labels.index(label) for label in labels])[:, None]
        place = (ranking == own).float().argmax(1)
        missed = [f"{x} -> {self.labels[r[0]]}" for x, r, p in zip(labels, ranking, place, strict=True) if p > 0]
        top1, top5 = ((place < k).float().mean().item() for k in (1, 5))
        sure = (cosines * self.model.logit_scale.exp()).softmax(1).gather(1, own)[:, 0]
        mean = cosines.gather(1, own).mean().item()
        return Recognition(len(labels), top1, top5, tuple(missed), mean, quartiles(sure))
