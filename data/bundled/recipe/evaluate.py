"""Stage 5: how well the finished model draws its prompts, measured with its own CLIP, and a labelled sheet.

Guidance always; [evaluate.curve], [evaluate.held_out], [evaluate.words] and [evaluate.cost] if the config has them.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from data.bundled.recipe.common import BUNDLED_DIR, RecipeError, Stage, stage_from_command_line, write_json
from data.bundled.recipe.dataset import Dataset, load_dataset, to_unit
from data.bundled.recipe.evaluate_cost import measure_apart
from data.bundled.recipe.evaluate_curves import colourfulness, guidance_point, runs_of_seeds, step_curve
from data.bundled.recipe.evaluate_held_out import reconstruction
from data.bundled.recipe.evaluate_nearest import Gallery, wording
from data.bundled.recipe.judge import Judge, load_pipeline


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


def guidance_scales(stage: Stage, pipeline: StableDiffusionPipeline, judge: Judge, gallery: Gallery) -> dict[str, Any]:
    """Return what each guidance scale gives on all prompts and seeds; saves a sheet of the first seed's pictures."""
    report: dict[str, Any] = {}
    prompts = read_prompts(Path(stage.require("prompts")))
    for guidance in stage.require("guidance"):
        runs = runs_of_seeds(pipeline, prompts, guidance, stage.require("steps"), stage.table.get("seeds", [0]))
        report[f"{guidance:g}"], pictures = guidance_point(pipeline, judge, gallery, prompts, runs)
        point = report[f"{guidance:g}"]
        print(f"guidance {guidance:g}: top-1 {point['top1']:.3f} top-5 {point['top5']:.3f} of {point['n']}", flush=True)
        sheet = contact_sheet(pictures[: len(prompts)], prompts, stage.table.get("columns", 12))
        sheet.save(stage.path(f"sheets/guidance_{guidance:g}.png"))
        if guidance == stage.require("sheet_guidance") and (path := stage.table.get("sheet")):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            sheet.save(path)
    return report


def real_pictures(judge: Judge, dataset: Dataset) -> dict[str, Any]:
    """Return what the judge says of the training pictures, and their colours, for all styles and for each."""
    report: dict[str, Any] = {}
    for style in ["all", *dict.fromkeys(concept.style for concept in dataset.concepts)]:
        rows = [i for i, concept in enumerate(dataset.concepts) if style in ("all", concept.style)]
        pictures = to_unit(dataset.pictures[rows])
        recognised = judge.recognise(pictures, [dataset.concepts[i].label for i in rows])
        report[style] = recognised.__dict__ | colourfulness(pictures)
    return report


def run(stage: Stage) -> dict[str, Any]:
    """Measure, write `work/evaluation.json` and the sheet; returns what was measured."""
    warnings.filterwarnings("ignore", message=".*fp16.*")
    bundle = Path(stage.table.get("bundle", BUNDLED_DIR))
    pipeline = load_pipeline(bundle, stage.device)
    judge = Judge(bundle / "clip", read_prompts(bundle / "vocabulary.txt"))
    dataset = load_dataset(stage)
    gallery = Gallery(pipeline, dataset)
    report: dict[str, Any] = {}
    if cost := stage.table.get("cost"):
        threads = cost.get("threads", [0])
        rest = {key: value for key, value in cost.items() if key != "threads"}
        report["cost"] = [measure_apart(bundle, **rest, threads=count) for count in threads]
    report["real_pictures"] = real_pictures(judge, dataset)
    if held_out := stage.table.get("held_out"):
        report["psnr_db"] = reconstruction(pipeline.vae, stage, dataset, Path(held_out["listed"]))
    if curve := stage.table.get("curve"):
        report["steps"] = step_curve(pipeline, judge, read_prompts(Path(curve["prompts"])), curve)
    report["guidance"] = guidance_scales(stage, pipeline, judge, gallery)
    if words := stage.table.get("words"):
        prompts = read_prompts(Path(stage.require("prompts")))
        report["words"] = wording(pipeline, judge, gallery, prompts, words)
        report["vocabulary"] = wording(pipeline, judge, gallery, judge.labels, words | {"templates": ["{}"]})
    write_json(stage.path("evaluation.json"), report)
    return report


if __name__ == "__main__":
    run(stage_from_command_line("evaluate"))
