"""The dataset as the stages read it: pictures, concepts, captions, tokenizer."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import numpy as np
import torch
from transformers import CLIPTokenizer

from data.bundled.recipe.common import RecipeError, Stage


@dataclass(frozen=True)
class Concept:
    """One thing the model knows: the word for it, other words, and the picture's style."""

    label: str
    tags: tuple[str, ...]
    style: str


@dataclass(frozen=True)
class Dataset:
    """Pictures uint8 (n, 3, size, size) and, in the same order, their concepts."""

    pictures: torch.Tensor
    concepts: tuple[Concept, ...]

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def labels(self) -> list[str]:
        """Each label once, in the order of the dataset."""
        return list(dict.fromkeys(concept.label for concept in self.concepts))


def load_dataset(stage: Stage) -> Dataset:
    """Return what `build_dataset` wrote under `work/dataset`."""
    pictures = torch.from_numpy(np.load(stage.need("dataset/pictures.npy", "build_dataset")))
    rows = json.loads(stage.need("dataset/concepts.json", "build_dataset").read_text(encoding="utf-8"))
    concepts = tuple(Concept(row["label"], tuple(row["tags"]), row["style"]) for row in rows)
    if len(concepts) != len(pictures):
        raise RecipeError(f"{len(pictures)} pictures but {len(concepts)} concepts in {stage.work}/dataset; rebuild it.")
    return Dataset(pictures, concepts)


def autoencoder_pictures(stage: Stage) -> torch.Tensor:
    """Return what the autoencoder learns from: the dataset's pictures and those of `dataset/more.npy`, if any."""
    pictures = load_dataset(stage).pictures
    if (more := stage.work / "dataset/more.npy").exists():
        pictures = torch.cat([pictures, torch.from_numpy(np.load(more))])
    return pictures


def load_tokenizer(stage: Stage) -> CLIPTokenizer:
    """Return the tokenizer that `build_dataset` trained on the captions."""
    folder = stage.need("dataset/tokenizer", "build_dataset")
    return CLIPTokenizer.from_pretrained(folder)


def to_unit(pictures: torch.Tensor) -> torch.Tensor:
    """Return uint8 pictures as float32 in -1 to 1."""
    return pictures.float().div(127.5).sub(1.0)


LEADS = ("a", "a", "an", "the", "one", "a picture of a")


@dataclass(frozen=True)
class CaptionMix:
    """How often a caption is the label alone, the label and a tag, or some tags; the rest is left empty."""

    label: float
    label_and_tag: float
    tags: float
    style: float = 0.0
    lead: float = 0.0

    def sample(self, concept: Concept, rng: random.Random, name_style: bool = False) -> str:
        """Return one caption; a word such as "a" leads at the rate `lead`, the style follows at the rate `style`.

        With `name_style` the style is always named, also by itself where the caption would be empty.
        """
        draw = rng.random()
        if draw < self.label or (not concept.tags and draw < self.label + self.label_and_tag + self.tags):
            caption = concept.label
        elif draw < self.label + self.label_and_tag:
            caption = f"{concept.label}, {rng.choice(concept.tags)}"
        elif draw < self.label + self.label_and_tag + self.tags:
            caption = " ".join(rng.sample(concept.tags, min(3, len(concept.tags))))
        else:
            return f"{concept.style} style" if name_style else ""
        if rng.random() < self.lead:
            caption = f"{rng.choice(LEADS)} {caption}"
        return f"{caption}, {concept.style} style" if name_style or rng.random() < self.style else caption


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Return token ids (n, model_max_length), padded and cut to the tokenizer's length."""
    options = {"padding": "max_length", "truncation": True, "max_length": tokenizer.model_max_length}
    return tokenizer(captions, return_tensors="pt", **options).input_ids
