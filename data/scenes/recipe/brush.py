"""Shapes that all places are made of, drawn with skia on a canvas of 64 by 64 units, whatever its pixels."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import skia

from data.scenes.recipe.scene import Scene

SIDE = 64.0
Rgb = tuple[float, float, float]
Point = tuple[float, float]


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """Return the colour `share` of the way from a to b."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def ink(colour: Rgb, alpha: float = 1.0) -> int:
    """Return skia's number for a colour of 0 to 255 and an opacity of 0 to 1."""
    red, green, blue = (round(min(255.0, max(0.0, c))) for c in colour)
    return int(skia.Color(red, green, blue, round(255 * alpha)))


def box(x: float, y: float, width: float, height: float) -> skia.Rect:
    """Return the rectangle with its upper left corner at (x, y)."""
    return skia.Rect.MakeXYWH(x, y, width, height)


@dataclass
class Brush:
    """The canvas of one scene with its style and its random numbers.

    `lights` are drawn last, over the darkening of the night.
    """

    canvas: skia.Canvas
    scene: Scene
    rng: random.Random
    lights: list[Callable[[], None]] = field(default_factory=list)

    @property
    def flat(self) -> bool:
        """Whether the style has neither shades nor soft shadows."""
        return self.scene.style == "flat"

    def vary(self, colour: Rgb, reach: float = 10) -> Rgb:
        """Return the colour a little changed, in brightness more than in hue."""
        shift = self.rng.uniform(-reach, reach)
        red, green, blue = (c + shift + self.rng.uniform(-reach / 3, reach / 3) for c in colour)
        return red, green, blue

    def paint(self, colour: Rgb, alpha: float = 1.0, blur: float = 0.0) -> skia.Paint:
        """Return a smooth filling paint."""
        paint = skia.Paint(AntiAlias=True, Color=ink(colour, alpha))
        if blur:
            paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur))
        return paint

    def shade(self, top: Rgb, bottom: Rgb, y0: float, y1: float) -> skia.Paint:
        """Return a paint that goes from `top` at y0 to `bottom` at y1; only `top` mixed with `bottom` if flat."""
        if self.flat:
            return self.paint(mix(top, bottom, 0.4))
        colours = [ink(top), ink(bottom)]
        shader = skia.GradientShader.MakeLinear([(0, y0), (0, y1)], colours)
        return skia.Paint(AntiAlias=True, Shader=shader)

    def rect(self, x: float, y: float, width: float, height: float, colour: Rgb, alpha: float = 1.0) -> None:
        """Fill a rectangle."""
        self.canvas.drawRect(box(x, y, width, height), self.paint(colour, alpha))

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Rgb, alpha: float = 1.0, blur: float = 0) -> None:
        """Fill an ellipse around (x, y)."""
        self.canvas.drawOval(box(x - rx, y - ry, 2 * rx, 2 * ry), self.paint(colour, alpha, blur))

    def polygon(self, points: Sequence[Point], paint: skia.Paint | Rgb) -> None:
        """Fill a polygon."""
        path = skia.Path()
        path.moveTo(*points[0])
        for point in points[1:]:
            path.lineTo(*point)
        path.close()
        self.canvas.drawPath(path, paint if isinstance(paint, skia.Paint) else self.paint(paint))

    def line(self, points: Sequence[Point], colour: Rgb, width: float, alpha: float = 1.0) -> None:
        """Draw a line with round ends through the points."""
        path = skia.Path()
        path.moveTo(*points[0])
        for point in points[1:]:
            path.lineTo(*point)
        paint = self.paint(colour, alpha)
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(width)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
        self.canvas.drawPath(path, paint)

    def hills(self, base: float, height: float, top: Rgb, bottom: Rgb, waves: float = 1.5) -> Callable[[float], float]:
        """Draw rolling ground down to the lower edge; returns its upper edge y as a function of x."""
        phases = [self.rng.uniform(0, 2 * math.pi) for _ in range(2)]
        lengths = [waves * self.rng.uniform(0.7, 1.3), 2.3 * waves * self.rng.uniform(0.8, 1.2)]

        def edge(x: float) -> float:
            turn = 2 * math.pi * x / SIDE
            return base - height * (
                0.7 * math.sin(turn * lengths[0] + phases[0]) + 0.3 * math.sin(turn * lengths[1] + phases[1])
            )

        points = [(x * 2.0, edge(x * 2.0)) for x in range(-1, 34)]
        self.polygon([*points, (SIDE + 2, SIDE + 2), (-2, SIDE + 2)], self.shade(top, bottom, base - height, SIDE))
        return edge

    def veil(self, alpha: float, y0: float = 0, y1: float = SIDE) -> None:
        """Lay mist over what is there between two heights, if the scene is in fog."""
        if self.scene.time == "fog":
            self.rect(-1, y0, SIDE + 2, y1 - y0, (222, 226, 228), alpha)

    def glow(self, x: float, y: float, radius: float, colour: Rgb = (255, 214, 120), alpha: float = 0.5) -> None:
        """Light up a spot once all is painted, if it is dark enough."""
        if self.scene.time in ("night", "fog"):
            self.lights.append(lambda: self.oval(x, y, radius, radius, colour, alpha, radius / 2))

    def lit_rect(self, x: float, y: float, width: float, height: float, colour: Rgb) -> None:
        """Draw a window: dull by day, shining by night and at dusk."""
        self.rect(x, y, width, height, colour)
        if self.scene.time in ("night", "sunset"):
            self.lights.append(lambda: self.rect(x, y, width, height, (255, 222, 110), 0.95))
