"""Places without houses: meadow, desert, snow, water, woods and mountains."""

from __future__ import annotations

import math
from collections.abc import Callable

from data.scenes.recipe.brush import SIDE, Brush, Rgb, box, mix
from data.scenes.recipe.plants import FLOWERS, flowers, palm, pine, tree

GREENS: tuple[tuple[Rgb, Rgb], ...] = (
    ((142, 204, 84), (74, 152, 62)),
    ((160, 208, 92), (92, 160, 66)),
    ((118, 190, 92), (60, 140, 72)),
)


def _season_green(brush: Brush) -> tuple[Rgb, Rgb]:
    """Return the grass's upper and lower colour."""
    if brush.scene.season == "autumn":
        return (206, 180, 88), (158, 126, 62)
    if brush.scene.season == "winter":
        return (246, 249, 253), (212, 226, 242)
    return brush.rng.choice(GREENS)


def meadow(brush: Brush, horizon: float) -> None:
    """Rolling green hills, flowers, a tree or two at the side."""
    top, bottom = _season_green(brush)
    brush.hills(horizon + 1, 4, mix(top, (120, 170, 190), 0.55), mix(bottom, (120, 170, 190), 0.5))
    brush.veil(0.6)
    edge = brush.hills(horizon + 7, 3, top, bottom)
    sides = [brush.rng.uniform(4, 16), brush.rng.uniform(48, 60)]
    brush.rng.shuffle(sides)
    for x in sides[: 2 if brush.scene.season else brush.rng.randint(0, 2)]:
        tree(brush, x, edge(x) + 2, brush.rng.uniform(17, 25))
    brush.veil(0.25)
    flowers(brush, horizon + 12, 63, brush.rng.randint(20, 40))


def desert(brush: Brush, horizon: float) -> None:
    """Dunes, now and then pyramids or cacti."""
    sand, dark = brush.vary((240, 202, 124)), brush.vary((206, 146, 78))
    if brush.rng.random() < 0.45:
        for _ in range(brush.rng.randint(1, 3)):
            x, height = brush.rng.uniform(8, 56), brush.rng.uniform(9, 16)
            peak = (x, horizon + 4 - height)
            brush.polygon(
                [(x - height, horizon + 6), (x + height * 0.3, horizon + 6), peak], mix(sand, (255, 240, 200), 0.3)
            )
            brush.polygon(
                [(x + height * 0.3, horizon + 6), (x + height, horizon + 6), peak], mix(dark, (150, 100, 80), 0.3)
            )
    brush.hills(horizon + 4, 4, mix(sand, (255, 236, 200), 0.5), sand, 1.0)
    brush.veil(0.5)
    brush.hills(horizon + 11, 5, sand, dark, 0.9)
    for _ in range(brush.rng.choice((0, 1, 2))):
        x, y, height = (
            brush.rng.choice((brush.rng.uniform(3, 14), brush.rng.uniform(50, 61))),
            horizon + 16,
            brush.rng.uniform(9, 14),
        )
        green = brush.vary((66, 140, 78), 8)
        brush.line([(x, y), (x, y - height)], green, 2.6)
        brush.line([(x, y - height * 0.35), (x + 3.4, y - height * 0.4), (x + 3.4, y - height * 0.75)], green, 1.7)
        brush.line([(x, y - height * 0.5), (x - 3.2, y - height * 0.55), (x - 3.2, y - height * 0.85)], green, 1.7)
    edge = brush.hills(horizon + 22, 4, mix(sand, (255, 224, 160), 0.35), mix(dark, (180, 120, 70), 0.3), 0.8)
    for _ in range(3):
        y = brush.rng.uniform(3, 12)
        brush.line([(x * 4.0, edge(x * 4.0) + y) for x in range(17)], mix(dark, sand, 0.4), 0.6, 0.6)


def snowy_hill(brush: Brush, horizon: float) -> None:
    """One great white hill with snowy conifers."""
    if brush.rng.random() < 0.6:
        brush.hills(horizon + 3, 6, (196, 212, 234), (214, 226, 242), 1.6)
    brush.veil(0.5)
    middle, width, height = brush.rng.uniform(20, 44), brush.rng.uniform(34, 46), brush.rng.uniform(9, 14)

    def edge(x: float) -> float:
        return horizon + 16 - height * math.exp(-(((x - middle) / width * 1.6) ** 2))

    points = [(x * 2.0, edge(x * 2.0)) for x in range(-1, 34)]
    brush.polygon([*points, (66, 66), (-2, 66)], brush.shade((252, 254, 255), (196, 214, 240), horizon, SIDE))
    for _ in range(brush.rng.randint(2, 5)):
        x = brush.rng.choice((brush.rng.uniform(2, 17), brush.rng.uniform(47, 62)))
        pine(brush, x, edge(x) + brush.rng.uniform(1, 7), brush.rng.uniform(12, 20), snow=True)
    brush.veil(0.2)


def _waves(brush: Brush, top: float, bottom: float, colour: Rgb, count: int) -> None:
    """Draw short bright lines on water, longer and wider apart towards the viewer."""
    for _ in range(count):
        depth = brush.rng.random()
        x, y, width = brush.rng.uniform(0, 64), top + depth * (bottom - top), 2 + depth * 6
        brush.line([(x, y), (x + width / 2, y - 0.3 - depth * 0.5), (x + width, y)], colour, 0.35 + depth * 0.5, 0.75)


def water(brush: Brush, top: float, bottom: float, far: Rgb, near: Rgb) -> None:
    """Fill a stretch of water that mirrors some of the sky's light."""
    if brush.scene.time == "sunset":
        far, near = mix(far, (255, 226, 170), 0.75), mix(near, (214, 120, 150), 0.5)
    brush.canvas.save()
    brush.canvas.clipRect(box(-2, top, SIDE + 4, bottom - top))
    brush.canvas.drawPaint(brush.shade(far, near, top, bottom))
    brush.canvas.restore()
    _waves(brush, top + 1, bottom, mix(far, (255, 255, 255), 0.55), 22)


def sea(brush: Brush, horizon: float) -> None:
    """Open water to the horizon."""
    blue = brush.vary((60, 140, 206))
    water(brush, horizon, SIDE + 1, mix(blue, (200, 230, 245), 0.35), mix(blue, (10, 50, 120), 0.5))
    brush.veil(0.45, 0, horizon + 8)
    for row in range(3):
        y = horizon + 9 + row * 7 + brush.rng.uniform(-2, 2)
        shift = brush.rng.uniform(0, 12)
        for i in range(-1, 6):
            x = i * 13 + shift
            brush.line([(x, y), (x + 3.5, y - 1.4), (x + 7, y)], (236, 246, 252), 0.7, 0.8)


def rock(brush: Brush, x: float, y: float, width: float) -> None:
    """Draw the flat rock on which things stand that do not swim."""
    stone = (150, 140, 128)
    brush.oval(x, y + 1.5, width * 0.66, 3.4, (236, 246, 252), 0.8)
    points = [(x - width * 0.6, y + 2), (x - width * 0.45, y - 2), (x + width * 0.4, y - 2.2), (x + width * 0.6, y + 2)]
    brush.polygon(points, brush.shade(mix(stone, (255, 255, 255), 0.25), mix(stone, (60, 60, 80), 0.35), y - 3, y + 3))


def lake(brush: Brush, horizon: float) -> None:
    """Still water before mountains that it mirrors, a green shore in front."""
    top, bottom = _season_green(brush)
    ridge = [(-2.0, horizon)]
    for x in range(0, 68, 11):
        ridge.append((x + brush.rng.uniform(-3, 3), horizon - brush.rng.uniform(4, 15)))
    ridge.append((66.0, horizon))
    rocks = brush.vary((104, 124, 160), 8)
    brush.polygon(ridge, brush.shade(mix(rocks, (235, 240, 250), 0.35), rocks, horizon - 14, horizon))
    brush.veil(0.55, 0, horizon)
    shore = horizon + brush.rng.uniform(18, 22)
    water(brush, horizon, shore + 3, (150, 200, 228), (58, 120, 178))
    mirrored = [(x, 2 * horizon - y * 1.0) for x, y in ridge]
    brush.polygon(mirrored, brush.paint(mix(rocks, (60, 90, 140), 0.4), 0.45))
    for x in (brush.rng.uniform(2, 12), brush.rng.uniform(52, 62)):
        if brush.scene.season or brush.rng.random() < 0.5:
            tree(brush, x, horizon + 4, brush.rng.uniform(14, 19))
        else:
            pine(brush, x, horizon + 3, brush.rng.uniform(12, 18))
    brush.veil(0.25)
    brush.hills(shore + 1, 1.5, top, bottom, 1.2)
    for _ in range(brush.rng.randint(3, 8)):
        x = brush.rng.uniform(0, 64)
        brush.line(
            [(x, shore + 3), (x + brush.rng.uniform(-1, 1), shore - brush.rng.uniform(2, 5))], (92, 138, 60), 0.6
        )


def beach(brush: Brush, horizon: float) -> None:
    """Sand with a rim of foam, the sea behind and a palm or a parasol."""
    blue = brush.vary((44, 166, 206))
    shore = horizon + brush.rng.uniform(8, 12)
    water(brush, horizon, shore + 4, mix(blue, (20, 90, 170), 0.35), mix(blue, (170, 236, 230), 0.35))
    brush.veil(0.4, 0, shore)
    edge = brush.hills(shore + 1, 1.6, (250, 250, 246), (252, 252, 248), 1.0)
    points = [(x * 2.0, edge(x * 2.0) + 1.6) for x in range(-1, 34)]
    sand = brush.vary((246, 220, 160), 6)
    brush.polygon([*points, (66, 66), (-2, 66)], brush.shade(sand, mix(sand, (200, 150, 90), 0.45), shore, SIDE))
    side = brush.rng.choice((-1, 1))
    x = 32 + side * brush.rng.uniform(22, 29)
    palm(brush, x, shore + brush.rng.uniform(6, 12), brush.rng.uniform(26, 34), -side * brush.rng.uniform(0.0, 0.2))
    for _ in range(4):
        brush.oval(brush.rng.uniform(2, 62), brush.rng.uniform(shore + 8, 62), 0.8, 0.5, (250, 250, 240))


def forest(brush: Brush, horizon: float) -> None:
    """Rows of trunks under leaves, with a path between them."""
    season = brush.scene.season
    ground, shade = _season_green(brush) if season else ((92, 142, 70), (48, 92, 52))
    leaves: Rgb = {
        None: (36, 100, 58),
        "blossom": (236, 150, 186),
        "autumn": (206, 104, 40),
        "winter": (206, 220, 234),
    }[season]
    back = mix(leaves, (170, 200, 190), 0.35)
    brush.rect(-1, horizon - 22, 66, 40, back)
    brush.veil(0.6)
    for layer in range(2):
        for _ in range(6):
            x = brush.rng.uniform(-2, 66)
            trunk = mix((84, 58, 44), back, 0.5 - 0.3 * layer)
            brush.rect(x, -1, 1.4 + layer, horizon + 8 + 3 * layer, brush.vary(trunk, 6))
        brush.veil(0.35)
    brush.hills(horizon + 7, 2, ground, shade, 1.2)
    path = brush.vary((206, 176, 128) if season != "winter" else (226, 226, 232), 6)
    middle = brush.rng.uniform(26, 38)
    brush.polygon([(middle - 3, horizon + 8), (middle + 3, horizon + 8), (50, 66), (14, 66)], brush.paint(path, 0.85))
    for x in (brush.rng.uniform(-1, 7), brush.rng.uniform(55, 63), brush.rng.uniform(8, 13)):
        brush.rect(x, -1, brush.rng.uniform(3.5, 5), horizon + 14, brush.vary((82, 56, 42), 8))
    for _ in range(34):
        x, y = brush.rng.uniform(-4, 68), brush.rng.uniform(-3, 13) ** 1.0
        y = y * (0.6 + 0.9 * abs(x - 32) / 32)
        brush.oval(x, y, brush.rng.uniform(3, 6), brush.rng.uniform(2.4, 4.4), brush.vary(leaves, 18))


def mountains(brush: Brush, horizon: float) -> None:
    """Tall snow-capped peaks over a green valley."""
    for layer in range(2):
        for _ in range(3 - layer):
            x, height = brush.rng.uniform(2, 62), brush.rng.uniform(20, 30) - 5 * layer
            base, half = horizon + 8, height * brush.rng.uniform(0.75, 1.0)
            rocks = brush.vary(((134, 146, 176), (98, 108, 138))[layer], 6)
            peak = (x, base - height)
            brush.polygon([(x - half, base), (x + half, base), peak], mix(rocks, (255, 255, 255), 0.12))
            brush.polygon([(x + half * 0.15, base), (x + half, base), peak], mix(rocks, (40, 44, 80), 0.35))
            cap = [
                (x - half * 0.42, base - height * 0.58),
                (x - half * 0.2, base - height * 0.64),
                (x - half * 0.06, base - height * 0.5),
            ]
            cap += [(x + half * 0.14, base - height * 0.64), (x + half * 0.4, base - height * 0.6), peak]
            brush.polygon(cap, (248, 251, 255))
        brush.veil(0.45)
    top, bottom = _season_green(brush)
    edge = brush.hills(horizon + 9, 3, mix(top, (70, 130, 90), 0.35), bottom)
    for _ in range(brush.rng.randint(2, 5)):
        x = brush.rng.uniform(0, 64)
        pine(brush, x, edge(x) + 2.5, brush.rng.uniform(7, 12))


def volcano(brush: Brush, horizon: float) -> None:
    """A dark cone with glowing lava and smoke."""
    x, height = brush.rng.uniform(22, 42), brush.rng.uniform(27, 33)
    base, half = horizon + 10, brush.rng.uniform(24, 30)
    for i in range(6):
        grey = brush.vary((120, 112, 116), 10)
        brush.oval(
            x + brush.rng.uniform(-2, 2) + i * 1.2,
            base - height - 1.5 - i * 2.4,
            2.6 + i * 0.9,
            2.0 + i * 0.6,
            grey,
            0.8,
        )
    rocks = brush.vary((108, 74, 70), 6)
    crater = [(x - 4.5, base - height), (x + 4.5, base - height)]
    brush.polygon(
        [(x - half, base), *crater, (x + half, base)],
        brush.shade(mix(rocks, (60, 40, 50), 0.3), rocks, base - height, base),
    )
    brush.polygon(
        [(x + half * 0.25, base), (x + 1.5, base - height), crater[1], (x + half, base)], mix(rocks, (30, 20, 40), 0.4)
    )
    lava: tuple[Callable[[], None], ...] = tuple(
        (
            lambda dx=dx: brush.line(
                [
                    (x + dx * 0.4, base - height + 0.5),
                    (x + dx, base - height * 0.62),
                    (x + dx * 2.1, base - height * 0.25),
                ],
                (255, 96, 24),
                2.0,
            )
        )
        for dx in (-3.6, 0.6, 4.2)
    )
    brush.lights += [*lava, lambda: brush.oval(x, base - height, 4.6, 1.5, (255, 176, 48))]
    brush.veil(0.3)
    brush.hills(horizon + 10, 2.5, brush.vary((132, 122, 88)), (78, 70, 58), 1.3)


def flower_field(brush: Brush, horizon: float) -> None:
    """Rows of flowers in bands of colour that run to the horizon."""
    brush.hills(horizon + 1, 3, (132, 180, 150), (120, 170, 120))
    brush.veil(0.5)
    brush.rect(-1, horizon + 3, 66, 64, (92, 160, 70))
    colours = brush.rng.sample(FLOWERS, 4)
    vanish = brush.rng.uniform(22, 42)
    for i in range(-7, 8):
        colour = colours[i % 4]
        near, far = 32 + i * 13.0, vanish + i * 2.6
        brush.polygon(
            [(far - 0.9, horizon + 3), (far + 0.9, horizon + 3), (near + 5, 66), (near - 5, 66)], brush.vary(colour, 6)
        )
    for _ in range(70):
        depth = brush.rng.random() ** 0.6
        y, colour = horizon + 4 + depth * (60 - horizon), brush.rng.choice(colours)
        size = 0.3 + depth * 0.9
        brush.oval(
            brush.rng.uniform(0, 64), y, size, size * 0.8, mix(colour, (255, 255, 255), brush.rng.choice((0.0, 0.4)))
        )
