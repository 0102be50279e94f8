"""Emoji as sprites with transparent ground, in each style, with their own colours or tinted."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import skia
from PIL import Image

from data.bundled.recipe.build_dataset import fetch_package, find_asset
from data.bundled.recipe.common import RecipeError, Stage
from data.scenes.recipe.vocabulary import COLOURS, THINGS

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def read_sprite(path: Path, side: int) -> np.ndarray:
    """Return the picture as RGBA uint8 (side, side, 4)."""
    if path.suffix == ".svg":
        import resvg_py  # only packages of vector pictures need it

        raw = io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=side, height=side)))
        image = Image.open(raw).convert("RGBA")
    else:
        image = Image.open(path).convert("RGBA")
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image).copy()


def tint(sprite: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Return the sprite in shades of `colour`: its middle brightness becomes the colour, eyes stay dark and white."""
    luma = sprite[..., :3].astype(np.float32) @ LUMA / 255
    solid = sprite[..., 3] > 128
    low, middle, high = np.quantile(luma[solid], (0.02, 0.5, 0.98)) if solid.any() else (0.0, 0.5, 1.0)
    middle = min(max(middle, low + 0.05), high - 0.05) if high - low > 0.1 else 0.5
    target = np.array(colour, dtype=np.float32) / 255
    dark = (luma / max(middle, 1e-3)).clip(0, 1)[..., None]
    light = ((luma - middle) / max(1 - middle, 1e-3)).clip(0, 1)[..., None]
    shaded = target * (0.3 + 0.7 * dark) * (dark > 0) + (1 - target) * light**1.3 * 0.85
    shaded = np.where(luma[..., None] < 0.12, luma[..., None] * 0.8, shaded)
    result = sprite.copy()
    result[..., :3] = (shaded.clip(0, 1) * 255).round().astype(np.uint8)
    return result


def trim(sprite: np.ndarray) -> np.ndarray:
    """Return the sprite without its transparent border, so that it stands where it is put."""
    rows, columns = (np.flatnonzero((sprite[..., 3] > 24).any(axis)) for axis in (1, 0))
    return sprite[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


class Sprites:
    """All things in all styles; `image` gives them in a colour.

    Args:
        raw: style and thing to RGBA uint8 (side, side, 4).
    """

    def __init__(self, raw: dict[tuple[str, str], np.ndarray]) -> None:
        self.raw = {key: trim(sprite) for key, sprite in raw.items()}
        self.image = lru_cache(maxsize=None)(self._image)

    def _image(self, style: str, thing: str, colour: str | None) -> skia.Image:
        """Return the sprite of a thing as a picture that skia can draw."""
        sprite = self.raw[style, thing]
        if colour is not None:
            sprite = tint(sprite, COLOURS[colour])
        return skia.Image.fromarray(np.ascontiguousarray(sprite), colorType=skia.kRGBA_8888_ColorType)

    @classmethod
    def from_packages(cls, stage: Stage) -> Sprites:
        """Return the sprites of the emoji packages that the stage's `source` tables name, fetched if need be."""
        raw: dict[tuple[str, str], np.ndarray] = {}
        for source in stage.require("source"):
            folder = fetch_package(stage, source["package"])
            for name, thing in THINGS.items():
                path = find_asset(folder, source, thing.code)
                if path is None:
                    raise RecipeError(f"{source['package']} has no picture of '{name}' ({thing.code}).")
                raw[source["style"], name] = read_sprite(path, int(stage.require("sprite_size")))
        return cls(raw)


def plain_sprites(side: int = 16) -> Sprites:
    """Return discs in place of emoji, one hue per thing, for tests that must not fetch anything."""
    y, x = np.mgrid[0:side, 0:side]
    inside = (x - side / 2 + 0.5) ** 2 + (y - side / 2 + 0.5) ** 2 < (side / 2) ** 2
    raw: dict[tuple[str, str], np.ndarray] = {}
    for number, name in enumerate(THINGS):
        disc: Any = np.zeros((side, side, 4), dtype=np.uint8)
        disc[..., :3] = (number * 37 % 256, number * 91 % 256, number * 151 % 256)
        disc[..., 3] = np.where(inside, 255, 0)
        for style in ("3d", "flat", "painted"):
            raw[style, name] = disc
    return Sprites(raw)
