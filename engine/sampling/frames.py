"""From latents to pictures: decoding in batches and encoding to PNG or WebP, off the timed path."""

import io
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

Format = Literal["png", "webp"]
# Latent pixels decoded at once: 32 small pictures, 4 of 512 x 512, 1 of 1024 x 1024.
DECODED_AREA = 2**14


def decode(pipe: DiffusionPipeline, latents: torch.Tensor) -> Iterator[np.ndarray]:
    """Decodes latents with the pipeline's autoencoder, as the pipeline itself does after its loop.

    Args:
        pipe: A pipeline with a `vae`.
        latents: (N, C, H, W) for pictures, (N, C, F, H, W) for videos.

    Yields:
        One array per latent: (F, height, width, 3) bytes, with F = 1 for pictures.
    """
    latents = latents.to(pipe._execution_device)
    together = max(1, min(32, DECODED_AREA // (latents.shape[-2] * latents.shape[-1])))
    for chunk in latents.split(together if latents.ndim == 4 else 1):
        frames = chunk.movedim(1, 2).flatten(0, 1) if chunk.ndim == 5 else chunk
        pictures = _to_bytes(torch.cat([_decoded(pipe, part) for part in frames.split(together)]))
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


def _decoded(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    vae, config, dtype = pipe.vae, pipe.vae.config, pipe.vae.dtype
    # Only families whose own pipeline does so (SDXL) decode float16 models in float32.
    upcast = dtype == torch.float16 and getattr(config, "force_upcast", False) and hasattr(pipe, "upcast_vae")
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
