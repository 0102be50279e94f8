"""What fewer steps and other guidance scales do to the finished model's pictures; part of stage 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler, StableDiffusionPipeline

from data.bundled.recipe.evaluate_nearest import Gallery
from data.bundled.recipe.judge import Judge, decode, draw_latents, quartiles

SEED_STRIDE = 1000
LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def relative_error(latents: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return the L2 distance of each of n latents to its reference over the length of the reference."""
    return (latents - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)


def seed_distance(runs: Sequence[torch.Tensor]) -> float:
    """Return the mean L2 distance of the same prompt's latents from the first two seeds over their mean length."""
    first, second = runs[0].flatten(1), runs[1].flatten(1)
    lengths = (first.norm(dim=1) + second.norm(dim=1)) / 2
    return ((first - second).norm(dim=1) / lengths).mean().item()


def colourfulness(pictures: torch.Tensor) -> dict[str, float]:
    """Return mean saturation (HSV, 0 to 1) and mean contrast (deviation of luma, 0 to 0.5) of pictures in -1 to 1."""
    unit = pictures.clamp(-1, 1).add(1).div(2)
    highest = unit.amax(1)
    saturation = (highest - unit.amin(1)) / highest.clamp_min(1e-6)
    contrast = (unit * LUMA).sum(1).flatten(1).std(1)
    return {"saturation": saturation.mean().item(), "contrast": contrast.mean().item()}


def other_solver(pipeline: StableDiffusionPipeline, name: str) -> DDIMScheduler | HeunDiscreteScheduler:
    """Return "ddim" or "heun", set to begin at the same state and to end at the same noise level, none."""
    config = dict(pipeline.scheduler.config)
    if name == "ddim":
        return DDIMScheduler.from_config(config, set_alpha_to_one=True)
    return HeunDiscreteScheduler.from_config(config, use_karras_sigmas=True, timestep_spacing="linspace")


def runs_of_seeds(
    pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, steps: int, seeds: Sequence[int]
) -> list[torch.Tensor]:
    """Return for each seed the final latents of all prompts."""
    return [draw_latents(pipeline, prompts, guidance, steps, SEED_STRIDE * seed) for seed in seeds]


def step_curve(
    pipeline: StableDiffusionPipeline, judge: Judge, prompts: list[str], table: dict[str, Any]
) -> dict[str, Any]:
    """Return error to the converged solution and recognition for each of the table's step counts."""
    guidance, seeds = table["guidance"], table["seeds"]
    reference = torch.cat(runs_of_seeds(pipeline, prompts, guidance, table["converged_steps"], seeds))
    labels, report = prompts * len(seeds), {}
    report["agreement"] = agreement(pipeline, prompts, reference, table)
    for steps in [*table["steps"], table["converged_steps"]]:
        known = steps == table["converged_steps"]
        latents = reference if known else torch.cat(runs_of_seeds(pipeline, prompts, guidance, steps, seeds))
        result = judge.recognise(decode(pipeline, latents), labels)
        report[f"{steps}"] = result.__dict__ | {"error": quartiles(relative_error(latents, reference))}
        print(f"{steps} steps: error {report[f'{steps}']['error'][1]:.4f} top-1 {result.top1:.3f}", flush=True)
    return report


def agreement(
    pipeline: StableDiffusionPipeline, prompts: list[str], reference: torch.Tensor, table: dict[str, Any]
) -> dict[str, Any]:
    """Return how far the other solvers named in `check` (name to steps) end from the first references."""
    report = {}
    for name, steps in table["check"].items():
        few = prompts[: table["check_prompts"]]
        first_seed = SEED_STRIDE * table["seeds"][0]
        solver = other_solver(pipeline, name)
        latents = draw_latents(pipeline, few, table["guidance"], steps, first_seed, solver)
        error = quartiles(relative_error(latents, reference[: len(few)]))
        report[name] = {"steps": steps, "n": len(few), "error": error}
        print(f"converged solution against {name} {steps}: {error[1]:.4f}", flush=True)
    return report


def guidance_point(
    pipeline: StableDiffusionPipeline,
    judge: Judge,
    gallery: Gallery,
    prompts: list[str],
    runs: Sequence[torch.Tensor],
) -> tuple[dict[str, Any], torch.Tensor]:
    """Return what one guidance scale's runs measure, and all their pictures."""
    latents, labels = torch.cat(list(runs)), prompts * len(runs)
    pictures = decode(pipeline, latents)
    report = judge.recognise(pictures, labels).__dict__ | colourfulness(pictures) | gallery.compare(latents, labels)
    if len(runs) > 1:
        report |= {"seed_distance": seed_distance(runs), "same_picture": gallery.same_picture(runs[0], runs[1])}
    return report, pictures
