"""Paints clips: one emoji on white, moved, turned and scaled from frame to frame."""

from __future__ import annotations

import numpy as np
import skia

from data.bundled.recipe.build_dataset import fetch_package, find_asset
from data.bundled.recipe.common import RecipeError, Stage
from data.scenes.recipe.sprites import read_sprite, trim
from data.video.recipe.clips import THINGS, MovingClip, Pose, poses

SMOOTH = skia.SamplingOptions(skia.FilterMode.kLinear, skia.MipmapMode.kLinear)


class ClipPainter:
    """Draws clips as pictures.

    Args:
        sprites: thing to RGBA uint8 (height, width, 4), without a transparent border.
        side: of the frames, in pixels.
    """

    def __init__(self, sprites: dict[str, np.ndarray], side: int) -> None:
        self.side = side
        self.images = {
            name: skia.Image.fromarray(np.ascontiguousarray(sprite), colorType=skia.kRGBA_8888_ColorType)
            for name, sprite in sprites.items()
        }
        self.surface = skia.Surface(side, side)

    @classmethod
    def from_packages(cls, stage: Stage) -> ClipPainter:
        """Return the painter of the stage, with the sprites of the emoji package that its `source` names."""
        source, sprites = stage.require("source"), {}
        folder = fetch_package(stage, source["package"])
        for name, code in THINGS.items():
            path = find_asset(folder, source, code)
            if path is None:
                raise RecipeError(f"{source['package']} has no picture of '{name}' ({code}).")
            sprites[name] = trim(read_sprite(path, int(stage.require("sprite_size"))))
        return cls(sprites, int(stage.require("size")))

    def paint(self, clip: MovingClip) -> np.ndarray:
        """Return the clip as uint8 (frames, 3, side, side)."""
        return np.stack([self._frame(clip.thing, pose) for pose in poses(clip)])

    def _frame(self, thing: str, pose: Pose) -> np.ndarray:
        """Return one frame as uint8 (3, side, side)."""
        image, canvas = self.images[thing], self.surface.getCanvas()
        scale = pose.size * self.side / max(image.width(), image.height())
        width, height = image.width() * scale, image.height() * scale
        canvas.clear(skia.ColorWHITE)
        canvas.save()
        canvas.translate(pose.x * self.side, pose.y * self.side)
        canvas.rotate(pose.degrees)
        canvas.drawImageRect(image, skia.Rect.MakeXYWH(-width / 2, -height / 2, width, height), SMOOTH)
        canvas.restore()
        pixels: np.ndarray = self.surface.toarray(colorType=skia.kRGBA_8888_ColorType)[..., :3]
        return pixels.transpose(2, 0, 1)


def plain_sprites(side: int = 16) -> dict[str, np.ndarray]:
    """Return rectangles in place of emoji, one hue per thing, for tests that must not fetch anything."""
    sprites = {}
    for number, name in enumerate(THINGS):
        sprite = np.full((side, side // 2, 4), 255, dtype=np.uint8)
        sprite[..., :3] = (number * 37 % 200, number * 91 % 200, number * 151 % 200)
        sprites[name] = sprite
    return sprites
