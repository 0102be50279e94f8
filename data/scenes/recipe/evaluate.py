"""How well the exported model draws scenes: judged by its CLIP, against freshly painted scenes, and on sheets."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from data.bundled.recipe.common import Stage, write_json
from data.bundled.recipe.dataset import to_unit
from data.bundled.recipe.evaluate_held_out import psnr_of_each
from data.bundled.recipe.judge import decode, draw_latents, load_pipeline
from data.scenes.recipe.encode import encode, shards
from data.scenes.recipe.evaluate_curves import SEED_STRIDE, formation, guidance_curve, step_curve, texts_of
from data.scenes.recipe.evaluate_variety import gallery_of, variety
from data.scenes.recipe.judge import SceneJudge
from data.scenes.recipe.painter import Painter
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.prompts import README, captions_of, fresh_scenes, held_out_scenes, other_seeds
from data.scenes.recipe.scene import Scene
from data.scenes.recipe.sheets import sheet
from data.scenes.recipe.sprites import Sprites


def paint_scenes(stage: Stage, scenes: list[Scene], size: int) -> np.ndarray:
    """Return pictures uint8 (n, 3, size, size) of scenes."""
    dataset = Stage("dataset", stage.config["dataset"], stage.config, stage.work, stage.device, stage.seed)
    painter = Painter(Sprites.from_packages(dataset), size)
    return np.stack([painter.paint(scene).transpose(2, 0, 1) for scene in scenes])


def judge_painted(stage: Stage, judge: SceneJudge, pipeline: StableDiffusionPipeline, count: int) -> dict[str, Any]:
    """Return what CLIP finds in freshly painted scenes, also through the autoencoder, and the latter's PSNR in dB."""
    report: dict[str, Any] = {}
    for name, scenes in (("fresh", fresh_scenes(count)), ("held_out", held_out_scenes(count))):
        raw = torch.from_numpy(paint_scenes(stage, scenes, judge.model.config.vision_config.image_size))
        captions = captions_of(scenes)
        with torch.no_grad():
            through = torch.cat(
                [pipeline.vae.decode(pipeline.vae.encode(x).latent_dist.mean).sample for x in to_unit(raw).split(50)]
            )
        report[name] = {
            "n": count,
            "attributes": asdict(judge.attributes(to_unit(raw), captions)),
            "through_autoencoder": asdict(judge.attributes(through.clamp(-1, 1), captions)),
            "retrieval": judge.retrieval(to_unit(raw), captions),
            "psnr": psnr_of_each(pipeline.vae, raw).mean().item(),
        }
        print(f"painted, {name}: {report[name]}", flush=True)
    return report


def judge_made(
    stage: Stage,
    judge: SceneJudge,
    pipeline: StableDiffusionPipeline,
    scenes: list[Scene],
    guidance: float,
    steps: int,
) -> tuple[dict[str, Any], torch.Tensor]:
    """Return what CLIP finds in drawn scenes, how new and varied they are, and the pictures of the first seed."""
    captions = captions_of(scenes)
    made = [draw_latents(pipeline, texts_of(captions), guidance, steps, SEED_STRIDE * seed) for seed in (0, 1)]
    pictures = decode(pipeline, made[0])
    report: dict[str, Any] = {"n": len(scenes), "attributes": asdict(judge.attributes(pictures, captions))}
    others = [next(other_seeds(scene)) for scene in scenes]
    size = pictures.shape[-1]
    painted = [torch.from_numpy(encode(pipeline.vae, paint_scenes(stage, s, size))).float() for s in (scenes, others)]
    parts = [np.load(path, mmap_mode="r") for path in shards(stage.work)]
    gallery = gallery_of(parts, int(stage.table.get("gallery", 20000)))
    compared = variety(made, painted, gallery)
    report["variety"] = asdict(compared) | {"memory_ratio": compared.memory_ratio, "seed_ratio": compared.seed_ratio}
    report["variety"]["gallery"] = len(gallery)
    print(f"made: {report}", flush=True)
    return report, pictures


def time_beside(stage: Stage, pipeline: StableDiffusionPipeline, other: Path, repeats: int) -> dict[str, Any]:
    """Return median seconds of one picture by `pipeline` and by the model in `other`, in turns, and their ratio."""
    guidance, steps = stage.require("sheet_guidance"), stage.require("steps")
    seconds: dict[str, list[float]] = {"scenes": [], "other": []}
    both = {"scenes": pipeline, "other": load_pipeline(other, stage.device)}
    for seed in range(repeats + 1):
        for name, drawer in both.items():
            start = time.perf_counter()
            decode(drawer, draw_latents(drawer, ["owl"], guidance, steps, seed))
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(own[1:]) for name, own in seconds.items()}  # the first of each warms up
    return medians | {"ratio": medians["scenes"] / medians["other"], "n": repeats, "threads": torch.get_num_threads()}


def save_sheets(stage: Stage, pipeline: StableDiffusionPipeline, scenes: list[Scene], pictures: torch.Tensor) -> None:
    """Write the numbered sheet for blind judging, the README's prompt last, and its prompts beside it."""
    guidance, steps = stage.require("sheet_guidance"), stage.require("steps")
    garden = decode(pipeline, draw_latents(pipeline, [README.text] * 6, guidance, steps, 0))
    shown = torch.cat([pictures, garden])
    prompts = [*texts_of(captions_of(scenes)), *[README.text] * 6]
    target = Path(stage.require("sheet"))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet(shown, [str(i + 1) for i in range(len(prompts))], columns=11).save(target)
    lines = "".join(f"{i + 1}. {prompt}\n" for i, prompt in enumerate(prompts))
    target.with_suffix(".txt").write_text(lines, encoding="utf-8")


def run(stage: Stage, pause: Pause | None = None) -> dict[str, Any]:
    """Measure the model in `bundle` and write `work/evaluation.json` and the sheets; returns the report."""
    del pause
    bundle, guidance, steps = Path(stage.require("bundle")), stage.require("sheet_guidance"), stage.require("steps")
    pipeline, judge = load_pipeline(bundle, stage.device), SceneJudge(bundle / "clip")
    scenes = held_out_scenes(stage.require("held_out"))
    report: dict[str, Any] = {"painted": judge_painted(stage, judge, pipeline, stage.require("painted"))}
    report["made"], pictures = judge_made(stage, judge, pipeline, scenes, guidance, steps)
    save_sheets(stage, pipeline, scenes[: stage.require("on_sheet")], pictures[: stage.require("on_sheet")])
    few = captions_of(scenes[: stage.require("curve_prompts")])
    report["guidance"] = guidance_curve(pipeline, judge, few, stage.require("guidance"), steps)
    report["steps"], by_steps = step_curve(pipeline, judge, few, guidance, stage.require("counts"))
    report["formation"], by_call = formation(pipeline, judge, few, guidance, stage.require("formation_steps"))
    if other := stage.table.get("compare"):
        report["cost"] = time_beside(stage, pipeline, Path(other), stage.require("repeats"))
        print(f"cost: {report['cost']}", flush=True)
    row = 11
    steps_sheet = Path(stage.require("sheet"))
    steps_sheet = steps_sheet.with_stem(f"{steps_sheet.stem}_steps")
    rows = {**by_steps, **{f"call {call}": found for call, found in by_call.items()}}
    labels = [name for name, found in rows.items() for _ in range(len(found[:row]))]
    shown = torch.cat([found[:row] for found in rows.values()])
    sheet(shown, labels, columns=min(row, len(few))).quantize(256).save(steps_sheet)
    write_json(stage.path("evaluation.json"), report)
    return report
