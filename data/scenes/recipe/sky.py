"""Skies of the four times of day, and how each time of day colours what is below."""

from __future__ import annotations

import skia

from data.scenes.recipe.brush import SIDE, Brush, Rgb, ink, mix

SKIES: dict[str, tuple[tuple[Rgb, Rgb, Rgb], ...]] = {
    "day": (
        ((56, 142, 230), (120, 186, 244), (206, 232, 250)),
        ((86, 168, 240), (150, 206, 248), (226, 240, 248)),
        ((40, 120, 214), (96, 170, 238), (186, 222, 248)),
    ),
    "sunset": (
        ((74, 50, 120), (226, 92, 96), (255, 190, 96)),
        ((120, 60, 130), (248, 120, 80), (255, 212, 120)),
        ((48, 56, 120), (190, 80, 130), (255, 160, 90)),
    ),
    "night": (
        ((8, 12, 40), (18, 28, 78), (44, 60, 122)),
        ((12, 10, 44), (30, 26, 84), (66, 56, 128)),
        ((4, 14, 36), (12, 36, 76), (30, 72, 116)),
    ),
    "fog": (
        ((196, 202, 206), (212, 216, 218), (226, 228, 228)),
        ((182, 192, 200), (204, 210, 214), (222, 226, 228)),
    ),
}


def sky(brush: Brush, horizon: float) -> None:
    """Fill the canvas with the sky of the scene's time, with sun, clouds, or moon and stars above `horizon`."""
    top, middle, low = (brush.vary(c, 6) for c in brush.rng.choice(SKIES[brush.scene.time]))
    if brush.flat:
        for y, colour in ((0.0, top), (horizon * 0.4, middle), (horizon * 0.75, low)):
            brush.rect(-1, y, SIDE + 2, SIDE, mix(colour, middle, 0.3))
    else:
        stops = [ink(top), ink(middle), ink(low), ink(low)]
        places = [0.0, 0.5 * horizon / SIDE, horizon / SIDE, 1.0]
        shader = skia.GradientShader.MakeLinear([(0, 0), (0, SIDE)], stops, places)
        brush.canvas.drawPaint(skia.Paint(Shader=shader))
    {"day": _by_day, "sunset": _at_sunset, "night": _at_night, "fog": _in_fog}[brush.scene.time](brush, horizon)


def cloud(brush: Brush, x: float, y: float, width: float, colour: Rgb, alpha: float) -> None:
    """Draw a cloud of a few puffs on a flat base."""
    for dx, dy, radius in ((-0.32, 0.02, 0.16), (-0.1, -0.08, 0.22), (0.14, -0.04, 0.19), (0.34, 0.03, 0.13)):
        r = radius * width
        if not brush.flat:
            brush.oval(x + dx * width, y + dy * width + 0.7, r, r * 0.7, mix(colour, (120, 140, 180), 0.35), alpha)
        brush.oval(x + dx * width, y + dy * width, r, r * 0.7, colour, alpha)


def _clouds(brush: Brush, horizon: float, colour: Rgb, alpha: float, most: int = 3) -> None:
    for _ in range(brush.rng.randint(1, most)):
        x, y = brush.rng.uniform(0, SIDE), brush.rng.uniform(3, max(5.0, horizon * 0.6))
        cloud(brush, x, y, brush.rng.uniform(12, 24), colour, alpha)


def _by_day(brush: Brush, horizon: float) -> None:
    x, y, radius = brush.rng.uniform(6, 58), brush.rng.uniform(5, max(7.0, horizon * 0.4)), brush.rng.uniform(3, 4.5)
    if brush.rng.random() < 0.7:
        brush.oval(x, y, radius * 2.2, radius * 2.2, (255, 240, 180), 0.4, 0 if brush.flat else 2.5)
        brush.oval(x, y, radius, radius, (255, 226, 84))
    _clouds(brush, horizon, (252, 253, 255), 0.95)


def _at_sunset(brush: Brush, horizon: float) -> None:
    x, y, radius = brush.rng.uniform(12, 52), horizon - brush.rng.uniform(0, 8), brush.rng.uniform(5, 7.5)
    brush.oval(x, y, radius * 2, radius * 2, (255, 214, 120), 0.45, 0 if brush.flat else 4)
    brush.oval(x, y, radius, radius, (255, 236, 150))
    _clouds(brush, horizon, brush.vary((250, 150, 130), 14), 0.6)


def _at_night(brush: Brush, horizon: float) -> None:
    rng = brush.rng
    for _ in range(rng.randint(22, 40)):
        size = rng.choice((0.35, 0.45, 0.7))
        brush.oval(rng.uniform(0, SIDE), rng.uniform(0, horizon), size, size, (255, 252, 226), rng.uniform(0.6, 1))
    x, y, radius = rng.uniform(8, 56), rng.uniform(7, max(9.0, horizon * 0.45)), rng.uniform(4, 6)
    brush.oval(x, y, radius * 1.9, radius * 1.9, (240, 240, 210), 0.22, 0 if brush.flat else 3)
    if rng.random() < 0.5:
        brush.oval(x, y, radius, radius, (252, 246, 206))
        brush.oval(x - radius * 0.3, y - radius * 0.2, radius * 0.25, radius * 0.25, (226, 218, 180))
        brush.oval(x + radius * 0.35, y + radius * 0.3, radius * 0.2, radius * 0.2, (226, 218, 180))
        return
    whole, bite = skia.Path(), skia.Path()
    whole.addCircle(x, y, radius)
    bite.addCircle(x + radius * 0.5, y - radius * 0.25, radius * 0.85)
    brush.canvas.drawPath(skia.Op(whole, bite, skia.kDifference_PathOp), brush.paint((252, 246, 206)))


def _in_fog(brush: Brush, horizon: float) -> None:
    x, y = brush.rng.uniform(8, 56), brush.rng.uniform(6, max(8.0, horizon * 0.5))
    brush.oval(x, y, 4.5, 4.5, (250, 248, 240), 0.8, 0 if brush.flat else 1.5)


GRADES: dict[str, tuple[Rgb, Rgb]] = {
    "day": ((1.0, 1.0, 1.0), (0, 0, 0)),
    "sunset": ((0.92, 0.68, 0.62), (20, 2, 12)),
    "night": ((0.44, 0.52, 0.74), (4, 8, 30)),
    "fog": ((0.72, 0.74, 0.76), (40, 42, 44)),
}


def grade(time: str, share: float = 1.0) -> skia.ColorFilter:
    """Return the filter that gives daylight colours the light of `time`; `share` 0 leaves them as they are."""
    scale, offset = GRADES[time]
    rows = [0.0] * 20
    for i in range(3):
        rows[6 * i] = 1 + (scale[i] - 1) * share
        rows[5 * i + 4] = offset[i] * share / 255
    rows[18] = 1.0
    return skia.ColorFilters.Matrix(rows)
