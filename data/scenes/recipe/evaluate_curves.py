"""What guidance, number of steps and the way through the steps do to drawn scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline

from data.bundled.recipe.evaluate_curves import colourfulness, relative_error
from data.bundled.recipe.judge import decode, draw_latents
from data.scenes.recipe.evaluate_variety import pair_distance
from data.scenes.recipe.grammar import Caption
from data.scenes.recipe.judge import SceneJudge

SEED_STRIDE = 10_000


def texts_of(captions: Sequence[Caption]) -> list[str]:
    """Return the captions' words."""
    return [caption.text for caption in captions]


def guidance_curve(
    pipeline: StableDiffusionPipeline,
    judge: SceneJudge,
    captions: Sequence[Caption],
    scales: list[float],
    steps: int,
) -> dict[str, Any]:
    """Return for each scale the share of attributes found, saturation, contrast and the distance of two seeds."""
    report = {}
    for scale in scales:
        runs = [draw_latents(pipeline, texts_of(captions), scale, steps, SEED_STRIDE * seed) for seed in (0, 1)]
        pictures = decode(pipeline, torch.cat(runs))
        found = judge.attributes(pictures, [*captions, *captions])
        length = torch.cat(runs).flatten(1).norm(dim=1).mean()
        apart = (pair_distance(*runs).median() / length).item()
        report[f"{scale:g}"] = colourfulness(pictures) | {
            "found": found.found,
            "n": len(pictures),
            "seed_distance": apart,
        }
        print(f"guidance {scale:g}: {report[f'{scale:g}']}", flush=True)
    return report


def solver(pipeline: StableDiffusionPipeline, name: str) -> DDIMScheduler | DPMSolverMultistepScheduler:
    """Return the scheduler called "ddim" or "dpm" (DPM++ 2M Karras)."""
    config = dict(pipeline.scheduler.config)
    if name == "ddim":
        config.pop("timestep_spacing", None)
        return DDIMScheduler.from_config(config, set_alpha_to_one=True, timestep_spacing="trailing")
    return DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True)


def step_curve(
    pipeline: StableDiffusionPipeline,
    judge: SceneJudge,
    captions: Sequence[Caption],
    guidance: float,
    counts: dict[str, list[int]],
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return for each scheduler and step count the share of attributes found and the error to its most steps.

    The pictures (n, 3, h, w) are given back too, by "name steps".
    """
    report: dict[str, Any] = {}
    pictures: dict[str, torch.Tensor] = {}
    for name, steps in counts.items():
        reference = None
        for count in sorted(steps, reverse=True):
            latents = draw_latents(pipeline, texts_of(captions), guidance, count, 0, solver(pipeline, name))
            reference = latents if reference is None else reference
            key = f"{name} {count}"
            pictures[key] = decode(pipeline, latents)
            found = judge.attributes(pictures[key], captions)
            error = relative_error(latents, reference).median().item()
            report[key] = {"found": found.found, "error": error, "n": len(captions)}
            print(f"{key}: found {found.found:.3f} error {error:.3f}", flush=True)
    return report, pictures


@torch.no_grad()
def estimates(
    pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, steps: int, shown: Sequence[int]
) -> dict[int, torch.Tensor]:
    """Return pictures (n, 3, h, w) of the estimate of the clean image after each of the calls `shown` (1 to steps)."""
    scheduler = solver(pipeline, "ddim")
    scheduler.set_timesteps(steps)
    shape = (pipeline.unet.config.in_channels, *[pipeline.unet.config.sample_size] * 2)
    latents = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(len(prompts))])
    known, empty = pipeline.encode_prompt(prompts, pipeline.device, 1, True)
    found = {}
    for call, time in enumerate(scheduler.timesteps, start=1):
        free = pipeline.unet(latents, time, empty).sample
        velocity = free + guidance * (pipeline.unet(latents, time, known).sample - free)
        step = scheduler.step(velocity, time, latents)
        latents = step.prev_sample
        if call in shown:
            found[call] = decode(pipeline, step.pred_original_sample)
    return found


def formation(
    pipeline: StableDiffusionPipeline, judge: SceneJudge, captions: Sequence[Caption], guidance: float, steps: int
) -> tuple[dict[str, Any], dict[int, torch.Tensor]]:
    """Return for each shown share of the calls how many attributes its estimate of the clean image has.

    `of_final` is the share found over what the last call's pictures have.
    """
    shown = sorted({max(1, round(share * steps)) for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)})
    pictures = estimates(pipeline, texts_of(captions), guidance, steps, shown)
    shares = {call: judge.attributes(pictures[call], captions).found for call in shown}
    last = max(shares[steps], 1e-9)
    report = {f"{call / steps:.2f}": {"found": share, "of_final": share / last} for call, share in shares.items()}
    print(f"formation: {report}", flush=True)
    return report, pictures
