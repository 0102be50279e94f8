"""Paints a scene: sky, place, light of the time of day, things with shadows and mirror images, weather."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import skia

from data.scenes.recipe import places_built, places_wild
from data.scenes.recipe.brush import SIDE, Brush, ink
from data.scenes.recipe.scene import Item, Scene
from data.scenes.recipe.sky import grade, sky
from data.scenes.recipe.sprites import Sprites
from data.scenes.recipe.vocabulary import PLACES, THINGS

PLACE_PAINTERS: dict[str, Callable[[Brush, float], None]] = {
    "meadow": places_wild.meadow,
    "desert": places_wild.desert,
    "snowy hill": places_wild.snowy_hill,
    "sea": places_wild.sea,
    "lake": places_wild.lake,
    "beach": places_wild.beach,
    "city street": places_built.city_street,
    "room": places_built.room,
    "table": places_built.table,
    "japanese garden": places_built.japanese_garden,
    "forest": places_wild.forest,
    "mountains": places_wild.mountains,
    "castle": places_built.castle,
    "village": places_built.village,
    "volcano": places_wild.volcano,
    "flower field": places_wild.flower_field,
}
HORIZONS = {"room": (29, 33), "table": (28, 31), "sea": (26, 32), "japanese garden": (22, 27), "mountains": (33, 37)}
HORIZONS |= {"volcano": (32, 36), "castle": (31, 35), "snowy hill": (28, 33)}
SAMPLING = skia.SamplingOptions(skia.FilterMode.kLinear, skia.MipmapMode.kLinear)


def _strokes(surface: skia.Surface, canvas: skia.Canvas, rng: random.Random) -> None:
    """Repaint what is there in short strokes of its own colours, as with a brush."""
    seen = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)
    scale = seen.shape[0] / SIDE
    paint = skia.Paint(AntiAlias=True, Style=skia.Paint.kStroke_Style, StrokeCap=skia.Paint.kRound_Cap)
    for row in range(0, 64, 4):
        for column in range(0, 64, 4):
            x, y = column + rng.uniform(0, 4), row + rng.uniform(0, 4)
            pixel = seen[min(int(y * scale), seen.shape[0] - 1), min(int(x * scale), seen.shape[1] - 1)]
            shift = rng.uniform(-9, 9)
            paint.setColor(ink((pixel[0] + shift, pixel[1] + shift, pixel[2] + shift), 0.7))
            paint.setStrokeWidth(rng.uniform(1.3, 2.2))
            dx, dy = rng.uniform(1.0, 2.6), rng.uniform(-0.9, 0.9)
            canvas.drawLine(x - dx, y - dy, x + dx, y + dy, paint)


class Painter:
    """Paints scenes of one size with one set of sprites.

    `boxes` are where the things of the last scene are, in units of which 64 make a side.

    Args:
        size: side of the pictures in pixels.
    """

    def __init__(self, sprites: Sprites, size: int) -> None:
        self.sprites, self.size = sprites, size
        self.boxes: list[skia.Rect] = []
        self.surface = skia.Surface(size, size)
        self.canvas = self.surface.getCanvas()
        self.canvas.scale(size / SIDE, size / SIDE)

    def paint(self, scene: Scene) -> np.ndarray:
        """Return the scene as RGB uint8 (size, size, 3)."""
        brush = Brush(self.canvas, scene, random.Random(scene.seed + 1))
        horizon = brush.rng.uniform(*HORIZONS.get(scene.place, (27, 33)))
        indoors = PLACES[scene.place].indoors
        self.canvas.clear(skia.ColorWHITE)
        if not indoors:
            sky(brush, horizon + 3)
        self._graded(scene, 0.6 if indoors else 1.0, lambda: PLACE_PAINTERS[scene.place](brush, horizon))
        for light in brush.lights:
            light()
        if scene.style == "painted":
            _strokes(self.surface, self.canvas, brush.rng)
        self._things(brush, horizon)
        self._weather(brush)
        return np.ascontiguousarray(
            self.surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)[..., :3]
        )

    def covered(self, cells: int) -> np.ndarray:
        """Return how much of each cell of a grid the boxes of the last scene's things cover, float32 (cells, cells)."""
        edges = np.linspace(0, SIDE, cells + 1)
        free = np.ones((cells, cells))
        for box in self.boxes:
            down, across = (
                (np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)).clip(0) * cells / SIDE
                for low, high in ((box.top(), box.bottom()), (box.left(), box.right()))
            )
            free *= 1 - np.outer(down, across)
        return (1 - free).astype(np.float32)

    def _graded(self, scene: Scene, share: float, draw: Callable[[], None]) -> None:
        """Draw in the light of the scene's time of day."""
        if scene.time == "day":
            draw()
            return
        self.canvas.saveLayer(None, skia.Paint(ColorFilter=grade(scene.time, share)))
        draw()
        self.canvas.restore()

    def _things(self, brush: Brush, horizon: float) -> None:
        """Put every thing where it belongs, those further back first."""
        self.boxes = []
        items = brush.scene.items
        many = len(items) > 1
        for item in items:
            middle = {"left": 16.0, "right": 48.0, None: 32.0}[item.side] + brush.rng.uniform(-4, 4)
            side = brush.rng.uniform(24, 29) if many else brush.rng.uniform(30, 40)
            if item.count > 1:
                side = brush.rng.uniform(21, 25) if item.count == 2 else brush.rng.uniform(17, 20)
            for i in range(item.count):
                spread = (i - (item.count - 1) / 2) * (60 / item.count if item.count > 2 else 27)
                self._thing(
                    brush,
                    item,
                    middle + spread + brush.rng.uniform(-1.5, 1.5),
                    side * brush.rng.uniform(0.93, 1.07),
                    horizon,
                )

    def _thing(self, brush: Brush, item: Item, x: float, side: float, horizon: float) -> None:
        """Draw one thing at x with its shadow, or its image in the water."""
        rng, place = brush.rng, brush.scene.place
        home, style = THINGS[item.thing].home, brush.scene.style
        image = self.sprites.image(style, item.thing, item.colour)
        scale = side / max(image.width(), image.height())
        width, height = image.width() * scale, image.height() * scale
        foot = rng.uniform(52, 55) if place == "table" else rng.uniform(55, 60)
        afloat = home == "water" and place == "sea"
        if home == "air" and place != "table":
            foot = rng.uniform(height + 4, height + 14)
        elif place == "sea" and not afloat:
            foot = rng.uniform(50, 55)
            places_wild.rock(brush, x, foot, width)
        elif afloat:
            foot = rng.uniform(48, 54)
        box = skia.Rect.MakeXYWH(x - width / 2, foot - height, width, height)
        self.boxes.append(box)
        mirror = THINGS[item.thing].mirror and rng.random() < 0.5
        if home != "air" or place == "table":
            self._below(brush, image, box, afloat)
        self._sprite(brush, image, box, mirror, 1.0)
        if afloat:
            for dx in (-0.4, 0.0, 0.4):
                brush.line(
                    [(x + dx * width - 3, foot), (x + dx * width, foot - 1.2), (x + dx * width + 3, foot)],
                    (236, 246, 252),
                    1.1,
                    0.9,
                )

    def _below(self, brush: Brush, image: skia.Image, box: skia.Rect, afloat: bool) -> None:
        """Draw what shows that a thing stands: a shadow on the ground, its image in the water."""
        x, foot, half = box.centerX(), box.bottom(), box.width() / 2
        if afloat:
            self.canvas.save()
            self.canvas.translate(0, 2 * foot)
            self.canvas.scale(1, -1)
            self._sprite(brush, image, box, False, 0.3)
            self.canvas.restore()
            return
        soft = 0.0 if brush.flat else 1.2
        brush.oval(x + half * 0.12, foot - 0.4, half * 0.95, max(1.6, half * 0.2), (20, 16, 40), 0.36, soft)

    def _sprite(self, brush: Brush, image: skia.Image, box: skia.Rect, mirror: bool, alpha: float) -> None:
        """Draw a sprite into a box, a little in the light of the time of day."""
        paint = skia.Paint(AntiAlias=True, Alphaf=alpha)
        if brush.scene.time in ("night", "sunset"):
            paint.setColorFilter(grade(brush.scene.time, 0.3))
        self.canvas.save()
        if mirror:
            self.canvas.translate(2 * box.centerX(), 0)
            self.canvas.scale(-1, 1)
        self.canvas.drawImageRect(image, box, SAMPLING, paint)
        self.canvas.restore()

    def _weather(self, brush: Brush) -> None:
        """Let snow fall on some winter scenes and mist drift low through fog."""
        rng, scene = brush.rng, brush.scene
        if (scene.place == "snowy hill" or scene.season == "winter") and rng.random() < 0.5:
            for _ in range(26):
                size = rng.uniform(0.35, 0.8)
                brush.oval(rng.uniform(0, 64), rng.uniform(0, 64), size, size, (255, 255, 255), 0.9)
        if scene.time == "fog" and not PLACES[scene.place].indoors:
            for _ in range(3):
                y = rng.uniform(24, 58)
                brush.oval(rng.uniform(0, 64), y, rng.uniform(18, 30), rng.uniform(2, 4), (232, 235, 236), 0.4, 2)
