"""Stage 5: how well the finished model draws its prompts, measured with its own CLIP, and a labelled sheet."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image, ImageDraw
from transformers import CLIPModel, CLIPTokenizer

from data.bundled.recipe.common import BUNDLED_DIR, RecipeError, Stage, stage_from_command_line, write_json
from data.bundled.recipe.dataset import load_dataset, to_unit, tokenize

BATCH = 32


@dataclass(frozen=True)
class Recognition:
    """How many of n pictures CLIP ranks their own label first, or among the first five, of all labels."""

    n: int
    top1: float
    top5: float
    missed: tuple[str, ...]


def load_pipeline(folder: Path, device: torch.device) -> StableDiffusionPipeline:
    """Return the saved pipeline in float32 with DPM++ 2M Karras."""
    diffusers_logging.set_verbosity_error()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).to(device, torch.float32)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, steps: int, first_seed: int
) -> torch.Tensor:
    """Return pictures (n, 3, h, w) in -1 to 1, the i-th from seed `first_seed + i`."""
    pictures = []
    for start in range(0, len(prompts), BATCH):
        chunk = prompts[start : start + BATCH]
        seeds = [torch.Generator().manual_seed(first_seed + start + i) for i in range(len(chunk))]
        options = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": seeds}
        pictures.append(pipeline(chunk, output_type="pt", **options).images.float().cpu())
    return torch.cat(pictures) * 2 - 1


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
        """Return how often pictures (n, 3, h, w) in -1 to 1 are recognised as their label."""
        if unknown := sorted(set(labels) - set(self.labels)):
            raise RecipeError(f"Not in the vocabulary: {', '.join(unknown)}. vocabulary.txt lists the known labels.")
        ids = torch.zeros(1, 2, dtype=torch.long)
        images = torch.cat([self.model(input_ids=ids, pixel_values=c).image_embeds for c in pictures.split(BATCH)])
        ranking = (images @ self.text.T).argsort(1, descending=True)
        own = torch.tensor([self.labels.index(label) for label in labels])[:, None]
        place = (ranking == own).float().argmax(1)
        missed = [f"{x} -> {self.labels[r[0]]}" for x, r, p in zip(labels, ranking, place, strict=True) if p > 0]
        top1, top5 = ((place < k).float().mean().item() for k in (1, 5))
        return Recognition(len(labels), top1, top5, tuple(missed))


@torch.no_grad()
def reconstruction_psnr(autoencoder: AutoencoderKL, pictures: torch.Tensor) -> float:
    """Return the mean over pictures of the peak signal-to-noise ratio in dB after encoding and decoding."""
    autoencoder, values = autoencoder.float().eval(), []
    for chunk in pictures.split(BATCH):
        x = to_unit(chunk)
        decoded = autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        values += [10 * math.log10(4 / e) for e in (decoded - x).square().mean((1, 2, 3)).tolist()]
    return sum(values) / len(values)


def contact_sheet(pictures: torch.Tensor, captions: list[str], columns: int, zoom: int = 1) -> Image.Image:
    """Return the pictures in rows, each over its caption."""
    side, line = pictures.shape[-1] * zoom, 14
    cell = side + 6
    rows, font_size = math.ceil(len(captions) / columns), 9 if side < 100 else 11
    sheet = Image.new("RGB", (columns * cell, rows * (cell + line)), "white")
    pen = ImageDraw.Draw(sheet)
    arrays = pictures.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for i, (array, caption) in enumerate(zip(arrays, captions, strict=True)):
        left, top = (i % columns) * cell + 3, (i // columns) * (cell + line)
        image = Image.fromarray(np.ascontiguousarray(array))
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (left, top))
        pen.text((left + side / 2, top + side + 6), caption, fill=(60, 60, 60), anchor="mm", font_size=font_size)
    return sheet


def read_prompts(path: Path) -> list[str]:
    """Return the lines of a prompt file, without empty ones."""
    if not path.is_file():
        raise RecipeError(f"No prompt file {path}; [evaluate] 'prompts' names it.")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def run(stage: Stage) -> dict[str, object]:
    """Measure, write `work/evaluation.json` and the sheet; returns what was measured."""
    warnings.filterwarnings("ignore", message=".*fp16.*")
    bundle = Path(stage.table.get("bundle", BUNDLED_DIR))
    prompts = read_prompts(Path(stage.require("prompts")))
    pipeline = load_pipeline(bundle, stage.device)
    judge = Judge(bundle / "clip", read_prompts(bundle / "vocabulary.txt"))
    dataset = load_dataset(stage)
    real = judge.recognise(to_unit(dataset.pictures), [c.label for c in dataset.concepts])
    report: dict[str, object] = {"real_pictures": real.__dict__}
    report["psnr_db"] = reconstruction_psnr(pipeline.vae.cpu(), dataset.pictures)
    pipeline.vae.to(stage.device)
    steps, seeds = stage.require("steps"), stage.table.get("seeds", [0])
    for guidance in stage.require("guidance"):
        runs = [draw(pipeline, prompts, guidance, steps, 1000 * seed) for seed in seeds]
        result = judge.recognise(torch.cat(runs), prompts * len(seeds))
        report[f"guidance_{guidance:g}"] = result.__dict__
        print(f"guidance {guidance:g}: top-1 {result.top1:.3f} top-5 {result.top5:.3f} of {result.n}", flush=True)
        sheet = contact_sheet(runs[0], prompts, stage.table.get("columns", 12))
        sheet.save(stage.path(f"sheets/guidance_{guidance:g}.png"))
        if guidance == stage.require("sheet_guidance") and (path := stage.table.get("sheet")):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            sheet.save(path)
    write_json(stage.path("evaluation.json"), report)
    return report


if __name__ == "__main__":
    run(stage_from_command_line("evaluate"))
