"""Paints clips and keeps them as latents in half precision, in shards that the denoiser reads."""

from __future__ import annotations

import numpy as np
from diffusers import AutoencoderKL

from data.bundled.recipe.common import Stage, dropout_free
from data.scenes.recipe.encode import encode, shards, write_whole
from data.scenes.recipe.pause import Pause
from data.video.recipe.clip_painter import ClipPainter
from data.video.recipe.clips import FRAMES
from data.video.recipe.paint_clips import CHUNK, paint_many


def encode_clips(model: AutoencoderKL, frames: np.ndarray) -> np.ndarray:
    """Return latents float16 (clips, c, frames, h, w) at unit deviation of uint8 frames (clips * frames, 3, h, w)."""
    latents = encode(model, frames)
    return latents.reshape(-1, FRAMES, *latents.shape[1:]).transpose(0, 2, 1, 3, 4)


def run(stage: Stage, pause: Pause | None = None) -> int:
    """Write the missing shards under `work/latents`; returns the number of clips there."""
    model = AutoencoderKL.from_pretrained(stage.need("autoencoder", "run autoencoder")).to(stage.device)
    dropout_free(model)
    painter, pause = ClipPainter.from_packages(stage), pause or Pause()
    shard, total = int(stage.require("shard")), int(stage.require("latents"))
    for start in range(0, total, shard):
        target = stage.path(f"latents/shard-{start:010d}.npy")
        if target.exists():
            continue
        end, parts = min(start + shard, total), []
        for low in range(start, end, CHUNK):
            pause.wait()
            parts.append(encode_clips(model, paint_many(painter, range(low, min(low + CHUNK, end)))))
        write_whole(target, np.concatenate(parts))
        print(f"encoded {end} of {total}", flush=True)
    return sum(len(np.load(path, mmap_mode="r")) for path in shards(stage.work))
