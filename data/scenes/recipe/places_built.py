"""Places that people made: street, room, table, garden, castle and village."""

from __future__ import annotations

import math

import skia

from data.scenes.recipe.brush import SIDE, Brush, Rgb, box, mix
from data.scenes.recipe.places_wild import GREENS, water
from data.scenes.recipe.plants import LEAVES, house, tree
from data.scenes.recipe.sky import SKIES


def city_street(brush: Brush, horizon: float) -> None:
    """Tall houses on both sides of a road."""
    walls: tuple[Rgb, ...] = ((178, 96, 82), (120, 134, 158), (206, 178, 140), (96, 108, 132), (160, 128, 140))
    for x in range(-2, 64, 8):
        far = mix(brush.rng.choice(walls), (190, 204, 220), 0.6)
        top = horizon - brush.rng.uniform(6, 20)
        brush.rect(x, top, 7.4, horizon + 6 - top, brush.vary(far, 8))
    brush.veil(0.6)
    road = brush.vary((104, 106, 114), 6)
    brush.rect(-1, horizon + 4, 66, 64, (176, 172, 168))
    brush.polygon(
        [(25, horizon + 4), (39, horizon + 4), (70, 66), (-6, 66)],
        brush.shade(mix(road, (160, 160, 170), 0.4), road, horizon, SIDE),
    )
    for i in range(4):
        y = horizon + 6 + i * i * 2.2
        brush.polygon(
            [(31.7 - i * 0.2, y), (32.3 + i * 0.2, y), (32.6 + i * 0.3, y + 1.6 + i), (31.4 - i * 0.3, y + 1.6 + i)],
            (246, 240, 210),
        )
    for side in (-1, 1):
        for step, (near, far) in enumerate(((17, 10), (27, 17))):
            left = 32 + side * near if side > 0 else 32 - near - (12 + step * 3)
            top = horizon - brush.rng.uniform(16, 24) - step * 6
            wall = brush.vary(brush.rng.choice(walls), 10)
            width = 12 + step * 8
            brush.canvas.drawRect(
                box(left, top, width, horizon + 7 + step * 3 - top),
                brush.shade(wall, mix(wall, (50, 50, 80), 0.3), top, horizon),
            )
            for row in range(6):
                for column in range(3):
                    wx, wy = left + 1.5 + column * 3.6, top + 2 + row * 4.6
                    if wy < horizon + far * 0.1 and brush.rng.random() < 0.85:
                        brush.lit_rect(wx, wy, 2, 2.6, mix(wall, (200, 225, 245), 0.6))
    for x in (brush.rng.uniform(12, 16), brush.rng.uniform(48, 52)):
        brush.line([(x, horizon + 10), (x, horizon - 5)], (60, 62, 70), 0.9)
        brush.oval(x, horizon - 5.5, 1.3, 1.3, (252, 240, 190))
        brush.glow(x, horizon - 5.5, 4)


def _window(brush: Brush, x: float, y: float, width: float, height: float) -> None:
    """Draw a window through which the time of day is seen."""
    colours = brush.rng.choice(SKIES[brush.scene.time])

    def pane() -> None:
        brush.rect(x - 1.2, y - 1.2, width + 2.4, height + 2.4, (250, 246, 238))
        brush.canvas.drawRect(box(x, y, width, height), brush.shade(colours[0], colours[2], y, y + height))
        if brush.scene.time == "night":
            for dx, dy in ((0.2, 0.6), (0.35, 0.25), (0.8, 0.8), (0.15, 0.15)):
                brush.oval(x + dx * width, y + dy * height, 0.45, 0.45, (255, 252, 226))
            brush.oval(x + width * 0.68, y + height * 0.32, 2.1, 2.1, (252, 246, 206))
        elif brush.scene.time == "day":
            brush.oval(x + width * 0.7, y + height * 0.3, 2.2, 2.2, (255, 226, 84))
            brush.oval(x + width * 0.3, y + height * 0.62, 3, 1.6, (252, 253, 255))
        elif brush.scene.time == "sunset":
            brush.oval(x + width * 0.5, y + height * 0.72, 3, 3, (255, 236, 150))
        brush.rect(x + width / 2 - 0.4, y, 0.8, height, (250, 246, 238))
        brush.rect(x, y + height / 2 - 0.4, width, 0.8, (250, 246, 238))

    brush.lights.append(pane)


WALLS: tuple[Rgb, ...] = (
    (240, 220, 190),
    (200, 222, 214),
    (226, 206, 222),
    (208, 220, 236),
    (246, 226, 170),
    (222, 196, 178),
)


def _lamp(brush: Brush, x: float, top: float) -> None:
    brush.line([(x, -1), (x, top)], (90, 80, 76), 0.6)
    brush.polygon([(x - 1.6, top), (x + 1.6, top), (x + 4, top + 4), (x - 4, top + 4)], (246, 196, 92))
    brush.glow(x, top + 5, 8, alpha=0.45)


def room(brush: Brush, horizon: float) -> None:
    """A wall with a window and a picture, a floor of boards, a rug, a lamp."""
    wall, floor = brush.vary(brush.rng.choice(WALLS), 8), brush.vary((190, 132, 84), 10)
    base = horizon + 8
    brush.canvas.drawRect(box(-1, -1, 66, base + 1), brush.shade(wall, mix(wall, (150, 120, 110), 0.2), 0, base))
    if brush.rng.random() < 0.5:
        for x in range(2, 66, 8):
            brush.rect(x, -1, 2.4, base + 1, mix(wall, (255, 255, 255), 0.3))
    brush.canvas.drawRect(box(-1, base, 66, 64), brush.shade(floor, mix(floor, (90, 50, 30), 0.35), base, SIDE))
    for i in range(-6, 7):
        brush.line([(32 + i * 7, base), (32 + i * 15, 66)], mix(floor, (90, 50, 30), 0.45), 0.5)
    brush.rect(-1, base - 1.6, 66, 1.6, (250, 246, 238))
    left = brush.rng.random() < 0.5
    _window(brush, 6 if left else 40, brush.rng.uniform(6, 9), 18, brush.rng.uniform(16, 19))
    x = 44 if left else 8
    brush.rect(x - 1, 9, 13, 10.5, (120, 84, 54))
    brush.rect(x, 10, 11, 8.5, brush.vary(brush.rng.choice(((120, 180, 200), (240, 200, 120), (200, 120, 120))), 10))
    brush.polygon([(x, 18.5), (x + 4, 13), (x + 7, 16), (x + 9, 14), (x + 11, 18.5)], (90, 140, 90))
    rug = brush.vary(brush.rng.choice(((190, 70, 70), (80, 110, 170), (90, 140, 110), (170, 110, 160))), 8)
    brush.oval(32, 56, 23, 6.5, rug)
    brush.oval(32, 56, 18, 4.8, mix(rug, (255, 240, 220), 0.35))
    brush.oval(32, 56, 15, 3.8, rug)
    _lamp(brush, brush.rng.uniform(28, 36), brush.rng.uniform(3, 6))


def table(brush: Brush, horizon: float) -> None:
    """A wooden table from the front, a wall and a window behind it."""
    wall, wood = (
        brush.vary(brush.rng.choice(WALLS), 8),
        brush.vary(brush.rng.choice(((196, 132, 76), (168, 104, 62), (214, 160, 100))), 6),
    )
    brush.canvas.drawRect(box(-1, -1, 66, 66), brush.shade(wall, mix(wall, (120, 100, 110), 0.25), 0, SIDE))
    _window(brush, brush.rng.choice((5, 42)), 5, 16, 17)
    back, front = horizon + 8, 58
    brush.rect(-1, 52, 66, 14, mix(wall, (70, 50, 60), 0.5))
    for x in (6, 53):
        brush.rect(x, front, 5, 10, mix(wood, (50, 20, 10), 0.45))
    brush.polygon(
        [(9, back), (55, back), (63, front), (1, front)],
        brush.shade(mix(wood, (255, 230, 190), 0.3), wood, back, front),
    )
    for i in range(3):
        y = back + 3 + i * (front - back) / 3.2
        brush.line([(8 - i * 2, y), (56 + i * 2, y)], mix(wood, (90, 50, 30), 0.3), 0.5, 0.7)
    brush.rect(1, front, 62, 3.4, mix(wood, (70, 36, 20), 0.4))


def bridge(brush: Brush, x: float, y: float, width: float) -> None:
    """Draw an arched red bridge whose ends stand at height y."""
    red = (206, 48, 40)

    def arc(lift: float) -> list[tuple[float, float]]:
        return [
            (x - width / 2 + width * i / 12, y - lift - width * 0.2 * math.sin(math.pi * i / 12)) for i in range(13)
        ]

    brush.line(arc(0), (150, 34, 34), 2.2)
    brush.line(arc(3.6), red, 1.1)
    for (ax, ay), (_, by) in zip(arc(0)[::3], arc(4.4)[::3], strict=True):
        brush.line([(ax, ay), (ax, by)], red, 1.0)


def torii(brush: Brush, x: float, y: float, height: float) -> None:
    """Draw a red shrine gate that stands at (x, y)."""
    red, half = (214, 54, 38), height * 0.42
    for side in (-1, 1):
        brush.line([(x + side * half * 0.8, y), (x + side * half * 0.7, y - height)], red, height * 0.1)
    brush.line([(x - half * 0.9, y - height * 0.7), (x + half * 0.9, y - height * 0.7)], red, height * 0.08)
    brush.line(
        [(x - half * 1.25, y - height * 1.02), (x, y - height * 0.97), (x + half * 1.25, y - height * 1.02)],
        (66, 40, 44),
        height * 0.12,
    )


def lantern(brush: Brush, x: float, y: float, height: float) -> None:
    """Draw a stone lantern that stands at (x, y)."""
    stone = (158, 160, 158)
    brush.rect(x - height * 0.2, y - height * 0.1, height * 0.4, height * 0.1, stone)
    brush.rect(x - height * 0.08, y - height * 0.5, height * 0.16, height * 0.45, mix(stone, (90, 90, 100), 0.25))
    brush.rect(x - height * 0.2, y - height * 0.75, height * 0.4, height * 0.27, stone)
    brush.lit_rect(x - height * 0.1, y - height * 0.7, height * 0.2, height * 0.17, (252, 216, 130))
    brush.polygon(
        [(x - height * 0.34, y - height * 0.73), (x + height * 0.34, y - height * 0.73), (x, y - height)],
        mix(stone, (80, 84, 96), 0.35),
    )
    brush.glow(x, y - height * 0.6, height * 0.5)


def pagoda(brush: Brush, x: float, y: float, height: float) -> None:
    """Draw a tower of four curved roofs that stands at (x, y)."""
    for i in range(4):
        low, half = y - height * 0.22 * i, height * (0.26 - 0.04 * i)
        brush.rect(x - half * 0.62, low - height * 0.13, half * 1.24, height * 0.13, (198, 74, 56))
        brush.lit_rect(x - half * 0.2, low - height * 0.1, half * 0.4, height * 0.08, (240, 214, 170))
        roof = [
            (x - half * 1.15, low - height * 0.14),
            (x - half * 0.5, low - height * 0.22),
            (x + half * 0.5, low - height * 0.22),
            (x + half * 1.15, low - height * 0.14),
        ]
        brush.polygon([*roof, (x, low - height * 0.12)], (62, 66, 82))
    brush.line([(x, y - height * 0.86), (x, y - height)], (150, 120, 70), 0.7)


def japanese_garden(brush: Brush, horizon: float) -> None:
    """A pond in moss between trees, with what the scene's details name."""
    rng, details = brush.rng, brush.scene.details
    top, bottom = rng.choice(GREENS)
    brush.hills(horizon, 3, mix(top, (130, 180, 190), 0.5), bottom)
    brush.veil(0.55)
    brush.hills(horizon + 4, 1.2, mix(top, (90, 160, 90), 0.4), mix(bottom, (60, 120, 70), 0.4))
    mirror = rng.choice((-1, 1))

    def place(x: float) -> float:
        return 32 + mirror * x

    if "pagoda" in details:
        pagoda(brush, place(rng.uniform(6, 12)), horizon + 5, rng.uniform(26, 31))
    for x in (rng.uniform(17, 23), rng.uniform(-26, -18), rng.uniform(25, 30)):
        tree(brush, place(x), horizon + rng.uniform(4, 8), rng.uniform(22, 30))
    if "torii" in details:
        torii(brush, place(rng.uniform(-12, -5)), horizon + 9, rng.uniform(14, 17))
    brush.veil(0.25)
    pond = horizon + rng.uniform(16, 18)
    brush.oval(32, pond + 0.8, 29, 7.6, (172, 168, 156))
    brush.canvas.save()
    clip = skia.Path()
    clip.addOval(skia.Rect.MakeLTRB(4, pond - 7, 60, pond + 7))
    brush.canvas.clipPath(clip, True)
    water(brush, pond - 8, pond + 8, (140, 206, 220), (58, 132, 170))
    if brush.scene.season:
        for _ in range(12):
            brush.oval(
                rng.uniform(6, 58), rng.uniform(pond - 6, pond + 6), 0.9, 0.5, rng.choice(LEAVES[brush.scene.season])
            )
    brush.canvas.restore()
    if "bridge" in details:
        bridge(brush, place(rng.uniform(-4, 4)), pond + 1.5, rng.uniform(34, 42))
    if "lantern" in details:
        lantern(brush, place(rng.uniform(20, 26)), pond + rng.uniform(3, 6), rng.uniform(12, 15))
    brush.hills(60.5, 1.2, mix(top, (90, 150, 80), 0.3), bottom, 1.0)
    if brush.scene.season:
        for _ in range(16):
            brush.oval(rng.uniform(0, 64), rng.uniform(4, 62), 0.7, 0.5, rng.choice(LEAVES[brush.scene.season]))


def castle(brush: Brush, horizon: float) -> None:
    """A castle with towers and flags on a hill."""
    rng = brush.rng
    top, bottom = ((206, 180, 88), (158, 126, 62)) if brush.scene.season == "autumn" else rng.choice(GREENS)
    wall, roof = (
        brush.vary(rng.choice(((206, 204, 212), (222, 206, 184), (188, 192, 206))), 6),
        brush.vary(rng.choice(((70, 92, 160), (184, 60, 56), (112, 74, 150))), 8),
    )
    dark, base, x = mix(wall, (70, 70, 100), 0.35), horizon + 7, rng.uniform(26, 38)
    brush.rect(x - 15, base - 13, 30, 14, wall)
    for i in range(6):
        brush.rect(x - 15 + i * 5.4, base - 15, 3, 2.4, wall)
    for dx, width, height in ((-15, 7, 24), (15, 7, 24), (-5.5, 6, 29), (6, 6.5, 33)):
        height *= rng.uniform(0.9, 1.08)
        brush.canvas.drawRect(
            box(x + dx - width / 2, base - height, width, height),
            brush.shade(wall, mix(wall, dark, 0.6), base - height, base),
        )
        brush.rect(x + dx + width * 0.2, base - height, width * 0.3, height, dark, 0.35)
        brush.polygon(
            [
                (x + dx - width * 0.7, base - height),
                (x + dx + width * 0.7, base - height),
                (x + dx, base - height - width * 1.15),
            ],
            roof,
        )
        brush.lit_rect(x + dx - 0.8, base - height * 0.8, 1.6, 2.6, (70, 76, 100))
    brush.oval(x, base, 3, 6, (84, 60, 50))
    brush.veil(0.4)
    edge = brush.hills(horizon + 9, 2.4, top, bottom, 1.1)
    for tx in (rng.uniform(2, 9), rng.uniform(55, 62)):
        tree(brush, tx, edge(tx) + 3, rng.uniform(12, 17))
    brush.polygon([(x - 2, horizon + 8), (x + 2, horizon + 8), (44, 66), (20, 66)], brush.paint((222, 196, 150), 0.9))


def village(brush: Brush, horizon: float) -> None:
    """A handful of small houses between trees."""
    rng, season = brush.rng, brush.scene.season
    top, bottom = {"autumn": ((206, 180, 88), (158, 126, 62)), "winter": ((248, 250, 254), (212, 226, 242))}.get(
        season or "", rng.choice(GREENS)
    )
    brush.hills(horizon + 1, 4, mix(top, (130, 170, 200), 0.5), bottom)
    brush.veil(0.5)
    brush.hills(horizon + 6, 1.5, top, bottom)
    for x in rng.sample((6, 21, 36, 50, 60), 3):
        house(brush, x + rng.uniform(-3, 3), horizon + rng.uniform(6, 9), rng.uniform(10, 13))
    brush.veil(0.3)
    for x in (rng.uniform(24, 40),):
        tree(brush, x, horizon + 8, rng.uniform(12, 16))
    for x in (rng.uniform(5, 12), rng.uniform(52, 60)):
        house(brush, x, horizon + rng.uniform(13, 16), rng.uniform(15, 18))
    path = (218, 190, 146) if season != "winter" else (222, 226, 236)
    brush.polygon([(31, horizon + 9), (34, horizon + 9), (46, 66), (20, 66)], brush.paint(path, 0.9))
