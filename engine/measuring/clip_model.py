"""A loaded CLIP model, which maps pictures and texts to unit vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer
from transformers.utils import logging

from engine.measuring.evidence import Pictures

# Normalisation with which OpenAI's CLIP models were trained.
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
MOST_TOGETHER = 32


class ClipModel:
    """A CLIP model in float32.

    Pictures are resized by their shorter side and cropped to a square. OpenAI's models get them normalised as in
    training; a model in a pipeline's folder gets values from -1 to 1, as the pipeline's autoencoder does.
    """

    def __init__(self, folder: Path, tokenizer: Path | None = None, device: str = "") -> None:
        """Loads the model, and the tokenizer from another folder if given; on the best device by default."""
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        self._device = device or best
        self._model = CLIPModel.from_pretrained(folder, local_files_only=True).float().eval().to(self._device)
        self._tokenizer = CLIPTokenizer.from_pretrained(tokenizer or folder, local_files_only=True)
        self._size = int(self._model.config.vision_config.image_size)
        own = folder.name == "clip"
        self._mean = torch.tensor((0.5, 0.5, 0.5) if own else OPENAI_MEAN).view(3, 1, 1)
        self._std = torch.tensor((0.5, 0.5, 0.5) if own else OPENAI_STD).view(3, 1, 1)
        self._texts: dict[str, np.ndarray] = {}

    @property
    def scale(self) -> float:
        """Learned factor by which cosines are multiplied before the softmax."""
        return float(self._model.logit_scale.detach().exp())

    def text(self, text: str) -> np.ndarray:
        """The unit vector of a text, (D,) float32."""
        if text not in self._texts:
            length = min(int(self._tokenizer.model_max_length), self._model.config.text_config.max_position_embeddings)
            ids = self._tokenizer(
                [text], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            ).input_ids
            self._texts[text] = self._run(ids, self._blank()).text_embeds[0].cpu().numpy()
        return self._texts[text]

    def pictures(self, pictures: Pictures) -> np.ndarray:
        """The unit vectors of pictures (N, H, W, 3), (N, D) float32."""
        values = (self.prepared(torch.from_numpy(pictures.copy())) - self._mean) / self._std
        ids = torch.tensor([[self._model.config.text_config.bos_token_id, self._model.config.text_config.eos_token_id]])
        parts = [self._run(ids, part).image_embeds.cpu().numpy() for part in values.split(MOST_TOGETHER)]
        vectors: np.ndarray = np.concatenate(parts)
        return vectors

    def prepared(self, pictures: torch.Tensor) -> torch.Tensor:
        """Resizes (bicubic, antialiased) and centre-crops byte pictures (N, H, W, 3) to (N, 3, size, size) in 0..1."""
        values = pictures.permute(0, 3, 1, 2).float() / 255
        height, width = values.shape[-2:]
        if (height, width) != (self._size, self._size):
            scale = self._size / min(height, width)
            to = (max(self._size, round(height * scale)), max(self._size, round(width * scale)))
            values = functional.interpolate(values, to, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (values.shape[-2] - self._size) // 2, (values.shape[-1] - self._size) // 2
        return values[..., top : top + self._size, left : left + self._size]

    def _blank(self) -> torch.Tensor:
        return torch.zeros(1, 3, self._size, self._size)

    @torch.no_grad()
    def _run(self, ids: torch.Tensor, values: torch.Tensor) -> Any:
        return self._model(input_ids=ids.to(self._device), pixel_values=values.to(self._device))
