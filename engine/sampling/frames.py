"""Turns latents into pictures: decodes in batches and encodes to PNG or WebP, off the timed path."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from engine.sampling.idle import COPIES, parameters, pictures_of
from engine.sampling.room import DECODED_PIXELS, is_out_of_memory, release_unused

Format = Literal["png", "webp"]


@dataclass(frozen=True)
class Origin:
    """The pipeline call that latents come from.

    Attributes:
        arguments: Arguments of the call.
        seed: Seed of its generator.
        state: State of its generator after all steps.
    """

    arguments: Mapping[str, Any]
    seed: int
    state: torch.Tensor | None = None


def decode(pipe: DiffusionPipeline, latents: torch.Tensor, origins: Sequence[Origin]) -> Iterator[np.ndarray]:
    """Decodes latents with the pipeline's own last lines, in idle calls.

    Args:
        pipe: Any pipeline.
        latents: One row for each picture or video, in the scheduler's layout.
        origins: The call of each row; rows whose calls differ only in prompt and seed are decoded together.

    Yields:
        One array per latent: (F, height, width, 3) bytes, with F = 1 for pictures.

    Raises:
        FloatingPointError: A picture is not finite.
    """
    latents = latents.to(pipe._execution_device)
    size = min(together(pipe, latents, origins[0].arguments), len(latents))
    start = 0
    while start < len(latents):
        found = _decoded(pipe, latents[start : start + size], origins[start])
        if found is None:
            size = max(1, size // 2)
            release_unused()
            continue
        yield from found
        start += size


def _decoded(pipe: DiffusionPipeline, rows: torch.Tensor, origin: Origin) -> np.ndarray | None:
    """The pictures of some latents; None if memory ran out and smaller batches are possible."""
    try:
        return _finite(pipe, rows, origin)
    except Exception as error:
        if len(rows) == 1 or not is_out_of_memory(error):
            raise
        return None


def _finite(pipe: DiffusionPipeline, rows: torch.Tensor, origin: Origin) -> np.ndarray:
    """Pictures of latents; in float32 if the autoencoder overflows in float16."""
    try:
        return pictures_of(pipe, rows, origin.arguments, origin.seed, origin.state)
    except FloatingPointError:
        autoencoder: Any = getattr(pipe, "vae", None)
        if getattr(autoencoder, "dtype", None) != torch.float16:
            raise
    autoencoder.to(torch.float32)
    try:
        return pictures_of(pipe, rows.float(), origin.arguments, origin.seed, origin.state)
    finally:
        autoencoder.to(torch.float16)


def together(pipe: DiffusionPipeline, latents: torch.Tensor, arguments: Mapping[str, Any]) -> int:
    """How many latents to decode at once: one if pictures depend on more than the latents."""
    known = parameters(pipe)
    alone = "num_frames" in known or any("image" in name for name in arguments)
    # An autoencoder with slicing decodes rows one at a time anyway.
    alone = alone or getattr(getattr(pipe, "vae", None), "use_slicing", False)
    if alone or latents.ndim > 4 or not any(name in known for name in COPIES):
        return 1
    pixels = arguments.get("width", 512) * arguments.get("height", 512)
    return max(1, min(32, DECODED_PIXELS // pixels))


def encode(picture: np.ndarray, format: Format) -> bytes:
    """Encodes a (height, width, 3) byte picture as a lossless PNG or a WebP of quality 90."""
    stream = io.BytesIO()
    image = Image.fromarray(picture)
    if format == "png":
        image.save(stream, "PNG", optimize=False, compress_level=6)
    else:
        image.save(stream, "WEBP", quality=90, method=2)
    return stream.getvalue()
