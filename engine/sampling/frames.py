"""From latents to pictures: decoding in batches and encoding to PNG or WebP, off the timed path."""

import io
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

Format = Literal["png", "webp"]


def decode(pipe: DiffusionPipeline, latents: torch.Tensor, batch: int = 16) -> Iterator[np.ndarray]:
    """Decodes latents with the pipeline's autoencoder, exactly as the pipeline itself does after its loop.

    Args:
        pipe: A pipeline with a `vae`.
        latents: (N, C, H, W) for pictures, (N, C, F, H, W) for videos.
        batch: Pictures decoded at once.

    Yields:
        One array per latent: (F, height, width, 3) bytes, with F = 1 for pictures.
    """
    vae, latents = pipe.vae, latents.to(pipe._execution_device)
    for chunk in latents.split(batch if latents.ndim == 4 else 1):
        frames = chunk.movedim(1, 2).flatten(0, 1) if chunk.ndim == 5 else chunk
        pictures = _to_bytes(torch.cat([_decoded(vae, part) for part in frames.split(batch)]))
        yield from pictures.reshape(len(chunk), -1, *pictures.shape[1:])


def encode(picture: np.ndarray, format: Format) -> bytes:
    """A (height, width, 3) byte picture as a lossless PNG, or as a WebP of quality 90."""
    stream = io.BytesIO()
    image = Image.fromarray(picture)
    if format == "png":
        image.save(stream, "PNG", optimize=False, compress_level=6)
    else:
        image.save(stream, "WEBP", quality=90, method=2)
    return stream.getvalue()


def _decoded(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    config = vae.config
    dtype = vae.dtype
    upcast = dtype == torch.float16 and getattr(config, "force_upcast", False)
    if upcast:
        vae.to(torch.float32)
    try:
        latents = latents.to(torch.float32 if upcast else dtype)
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is not None and std is not None:
            shape = (1, -1, 1, 1)
            scale = torch.tensor(std).view(shape).to(latents) / config.scaling_factor
            latents = latents * scale + torch.tensor(mean).view(shape).to(latents)
        else:
            latents = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        picture: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    finally:
        if upcast:
            vae.to(dtype)
    return picture


def _to_bytes(pictures: torch.Tensor) -> np.ndarray:
    """(N, 3, H, W) in [-1, 1] to (N, H, W, 3) bytes, as diffusers' image processor does."""
    unit = (pictures.float() / 2 + 0.5).clamp(0, 1)
    return (unit.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype("uint8")
