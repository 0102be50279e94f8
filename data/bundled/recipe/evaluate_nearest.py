"""Which training picture a drawing comes nearest to: concept and style without CLIP's word; part of stage 5."""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from data.bundled.recipe.common import RecipeError
from data.bundled.recipe.dataset import Dataset
from data.bundled.recipe.judge import Judge, decode, draw_latents, quartiles
from data.bundled.recipe.train_denoiser import encode_latents

STYLE = re.compile(r"(\w+) style$")


class Gallery:
    """The training pictures as latents, to be compared with drawn ones."""

    def __init__(self, pipeline: StableDiffusionPipeline, dataset: Dataset) -> None:
        self.concepts = dataset.concepts
        self.latents = encode_latents(pipeline.vae, dataset, pipeline.device, mirror=False).flatten(1)

    def nearest(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return for each of n latents the index of the nearest training picture and the distance over its length."""
        distance, index = torch.cdist(latents.flatten(1), self.latents).min(1)
        return index, distance / self.latents.norm(dim=1)[index]

    def compare(self, latents: torch.Tensor, labels: list[str]) -> dict[str, Any]:
        """Return how far drawings are from the training and what their nearest pictures show.

        `own_concept` is the share whose nearest picture shows their label, `styles` the share of each style.
        """
        index, distance = self.nearest(latents)
        found = [self.concepts[i] for i in index.tolist()]
        styles = [concept.style for concept in found]
        own = [concept.label == label for concept, label in zip(found, labels, strict=True)]
        return {
            "n": len(labels),
            "own_concept": sum(own) / len(own),
            "distance": quartiles(distance),
            "styles": {style: styles.count(style) / len(styles) for style in sorted({c.style for c in self.concepts})},
        }

    def same_picture(self, first: torch.Tensor, second: torch.Tensor) -> float:
        """Return the share of pairs of drawings that have the same nearest picture."""
        return (self.nearest(first)[0] == self.nearest(second)[0]).float().mean().item()


def wording(
    pipeline: StableDiffusionPipeline, judge: Judge, gallery: Gallery, prompts: list[str], table: dict[str, Any]
) -> dict[str, Any]:
    """Return recognition and nearest pictures for each template of the table, such as "{}, flat style".

    Where a template ends by naming a style, `style_followed` is the share of drawings whose nearest picture has it.
    """
    report: dict[str, Any] = {}
    for template in table["templates"]:
        named = STYLE.search(template)
        texts = [template.format(prompt) for prompt in prompts]
        latents = draw_latents(pipeline, texts, table["guidance"], table["steps"], table.get("first_seed", 0))
        point = judge.recognise(decode(pipeline, latents), prompts).__dict__ | gallery.compare(latents, prompts)
        if named:
            if named[1] not in point["styles"]:
                raise RecipeError(f"[evaluate.words] '{template}' names a style that the dataset does not have.")
            point["style_followed"] = point["styles"][named[1]]
        report[template] = point
        print(f"'{template}': top-1 {point['top1']:.3f}, style {point.get('style_followed', '-')}", flush=True)
    return report
