"""Paints scenes and keeps them as latents in half precision, in shards that the denoiser reads.

A shard `things-SEED.npy` beside `shard-SEED.npy` says how much of each cell of the latents things cover.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from data.bundled.recipe.common import Stage, dropout_free
from data.bundled.recipe.dataset import to_unit
from data.scenes.recipe.paint import paint_each
from data.scenes.recipe.painter import Painter
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.sprites import Sprites

CHUNK = 250


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: np.ndarray, bfloat16: bool = False) -> np.ndarray:
    """Return latents float16 (n, c, h, w) at unit deviation of uint8 pictures (n, 3, size, size)."""
    chunks = []
    for part in np.array_split(pictures, -(-len(pictures) // 50)):
        seen = to_unit(torch.from_numpy(np.array(part))).to(model.device)
        with torch.autocast(seen.device.type, torch.bfloat16, enabled=bfloat16):  # moves latents by half a percent
            chunks.append(model.encode(seen).latent_dist.mean.float().cpu())
    return (torch.cat(chunks) * model.config.scaling_factor).numpy().astype(np.float16)


def shards(work: Path) -> list[Path]:
    """Return the finished shards in the order of their seeds."""
    return sorted((work / "latents").glob("shard-*.npy"))


def beside(shard: Path) -> Path:
    """Return the shard of where things are that belongs to a shard of latents."""
    return shard.with_name(shard.name.replace("shard", "things"))


def paint_and_encode(
    model: AutoencoderKL, painter: Painter, seeds: range, bfloat16: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return latents float16 (n, c, h, w) of scenes and what things cover of each cell, uint8 (n, h, w), of 255."""
    cells = painter.size // 2 ** (len(model.config.block_out_channels) - 1)
    pictures, covered = [], []
    for picture in paint_each(painter, seeds):
        pictures.append(picture)
        covered.append((painter.covered(cells) * 255).round().astype(np.uint8))
    return encode(model, np.stack(pictures), bfloat16), np.stack(covered)


def run(stage: Stage, pause: Pause | None = None) -> int:
    """Write the missing shards under `work/latents`; returns the number of latents there."""
    size, first, pause = int(stage.require("size")), int(stage.table.get("first_seed", 0)), pause or Pause()
    model = AutoencoderKL.from_pretrained(stage.need("autoencoder", "run autoencoder")).to(stage.device)
    dropout_free(model)
    painter = Painter(Sprites.from_packages(stage), size)
    bfloat16 = stage.table.get("bfloat16", False)
    shard, total = int(stage.require("shard")), int(stage.require("latents"))
    for start in range(0, total, shard):
        target = stage.path(f"latents/shard-{first + start:010d}.npy")
        if target.exists():
            continue
        parts, places = [], []
        for low in range(start, min(start + shard, total), CHUNK):
            pause.wait()
            high = min(low + CHUNK, start + shard, total)
            latents, covered = paint_and_encode(model, painter, range(first + low, first + high), bfloat16)
            parts.append(latents)
            places.append(covered)
        write_whole(beside(target), np.concatenate(places))
        write_whole(target, np.concatenate(parts))
        print(f"encoded {start + shard} of {total}", flush=True)
    return sum(len(np.load(path, mmap_mode="r")) for path in shards(stage.work))


def write_whole(target: Path, values: np.ndarray) -> None:
    """Write an array so that nobody ever sees half of it."""
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, values)
    partial.rename(target)
