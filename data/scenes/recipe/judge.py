"""CLIP as the judge of drawn and painted scenes, and drawing with the finished pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from transformers import CLIPModel, CLIPTokenizer

from data.bundled.recipe.dataset import tokenize
from data.scenes.recipe.attributes import Asked, Attributes, questions, score
from data.scenes.recipe.grammar import Caption

BATCH = 64


class SceneJudge:
    """The CLIP of a folder, asked which of some texts fits a picture best."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder).float().eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.texts = lru_cache(maxsize=None)(self._texts)

    @torch.no_grad()
    def _texts(self, texts: tuple[str, ...]) -> torch.Tensor:
        """Return unit vectors (n, d) of texts."""
        side = self.model.config.vision_config.image_size
        ids = tokenize(self.tokenizer, list(texts))
        return self.model(input_ids=ids, pixel_values=torch.zeros(1, 3, side, side)).text_embeds

    @torch.no_grad()
    def pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (n, d) of pictures (n, 3, h, w) in -1 to 1."""
        ids = torch.zeros(1, 2, dtype=torch.long)
        chunks = [self.model(input_ids=ids, pixel_values=part).image_embeds for part in pictures.split(BATCH)]
        return torch.cat(chunks)

    def answers(self, pictures: torch.Tensor, asked: Sequence[Sequence[Asked]]) -> list[list[int]]:
        """Return for each picture the answer to each of its questions."""
        vectors = self.pictures(pictures)
        return [
            [int((self.texts(question.texts) @ vector).argmax()) for question in own]
            for vector, own in zip(vectors, asked, strict=True)
        ]

    def attributes(self, pictures: torch.Tensor, captions: Sequence[Caption]) -> Attributes:
        """Return how many of the captions' attributes are found in their pictures."""
        asked = [questions(caption) for caption in captions]
        answers = self.answers(pictures, asked)
        return score([q for own in asked for q in own], [a for own in answers for a in own])

    def retrieval(self, pictures: torch.Tensor, captions: Sequence[Caption]) -> float:
        """Return the share of pictures nearest to their own caption, or one of the same text, among all n."""
        nearest = (self.pictures(pictures) @ self.texts(tuple(c.text for c in captions)).T).argmax(1)
        hits = [captions[i].text == caption.text for i, caption in zip(nearest.tolist(), captions, strict=True)]
        return sum(hits) / len(hits)
