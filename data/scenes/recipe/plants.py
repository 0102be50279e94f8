"""Trees, flowers and buildings that several places share."""

from __future__ import annotations

from data.scenes.recipe.brush import Brush, Rgb, box, mix

LEAVES: dict[str | None, tuple[Rgb, ...]] = {
    None: ((64, 142, 62), (84, 160, 70), (50, 124, 66)),
    "blossom": ((250, 168, 200), (255, 190, 214), (242, 146, 184)),
    "autumn": ((226, 110, 34), (238, 150, 40), (204, 66, 36)),
    "winter": ((238, 244, 250), (226, 236, 246), (246, 250, 254)),
}
FLOWERS: tuple[Rgb, ...] = ((236, 62, 70), (250, 206, 50), (244, 130, 190), (150, 90, 210), (252, 250, 245))


def tree(brush: Brush, x: float, y: float, height: float) -> None:
    """Draw a round tree that stands at (x, y), in the leaves of the season."""
    rng, colours = brush.rng, LEAVES[brush.scene.season]
    trunk = (96, 62, 44) if brush.scene.season != "winter" else (92, 76, 70)
    crown = height * 0.36
    lean = rng.uniform(-0.08, 0.08) * height
    top = (x + lean, y - height * 0.62)
    brush.line([(x, y), (x + lean * 0.4, y - height * 0.35), top], trunk, max(0.8, height * 0.09))
    brush.line(
        [(x + lean * 0.3, y - height * 0.3), (x + crown * 0.6, y - height * 0.6)], trunk, max(0.5, height * 0.05)
    )
    for i in range(7):
        dx, dy = rng.uniform(-0.8, 0.8) * crown, rng.uniform(-0.55, 0.5) * crown
        radius = crown * rng.uniform(0.42, 0.62)
        colour = brush.vary(colours[i % 3], 8)
        if not brush.flat:
            brush.oval(top[0] + dx, top[1] + dy + radius * 0.25, radius, radius, mix(colour, (40, 30, 60), 0.3))
        brush.oval(top[0] + dx, top[1] + dy, radius, radius * 0.9, colour)
    if not brush.flat:
        for _ in range(6):
            dx, dy = rng.uniform(-0.9, 0.6) * crown, rng.uniform(-0.9, 0.2) * crown
            brush.oval(
                top[0] + dx, top[1] + dy, crown * 0.14, crown * 0.12, mix(colours[1], (255, 255, 255), 0.35), 0.8
            )


def pine(brush: Brush, x: float, y: float, height: float, snow: bool = False, colour: Rgb = (36, 96, 68)) -> None:
    """Draw a conifer that stands at (x, y)."""
    brush.rect(x - height * 0.04, y - height * 0.15, height * 0.08, height * 0.15, (86, 58, 44))
    colour = brush.vary(colour, 8)
    for i in range(3):
        low, half = y - height * (0.12 + 0.26 * i), height * (0.3 - 0.07 * i)
        tip = low - height * 0.42
        brush.polygon(
            [(x - half, low), (x + half, low), (x, tip)],
            brush.shade(mix(colour, (120, 190, 130), 0.25), colour, tip, low),
        )
        if snow:
            brush.polygon(
                [(x - half * 0.55, tip + (low - tip) * 0.55), (x + half * 0.45, tip + (low - tip) * 0.45), (x, tip)],
                (244, 248, 252),
            )


def palm(brush: Brush, x: float, y: float, height: float, lean: float) -> None:
    """Draw a palm that stands at (x, y) and leans by `lean` of its height."""
    top = (x + lean * height, y - height)
    middle = (x + lean * height * 0.3, y - height * 0.55)
    brush.line([(x, y), middle, top], (142, 98, 58), max(1.0, height * 0.08))
    for dx, dy in ((-0.5, 0.12), (-0.42, -0.14), (-0.15, -0.3), (0.2, -0.28), (0.45, -0.1), (0.48, 0.16), (-0.3, 0.26)):
        tip = (top[0] + dx * height * 0.95, top[1] + dy * height * 0.9)
        bend = ((top[0] + tip[0]) / 2, min(top[1], tip[1]) - 0.04 * height)
        brush.line([top, bend, tip], brush.vary((46, 140, 64), 14), max(1.0, height * 0.07))


def flowers(brush: Brush, top: float, bottom: float, count: int, colours: tuple[Rgb, ...] = FLOWERS) -> None:
    """Scatter flowers between two heights, larger towards the viewer."""
    for _ in range(count):
        depth = brush.rng.random() ** 0.7
        y = top + depth * (bottom - top)
        brush.oval(brush.rng.uniform(0, 64), y, 0.4 + depth * 0.8, 0.35 + depth * 0.7, brush.rng.choice(colours))


def house(brush: Brush, x: float, y: float, width: float) -> None:
    """Draw a small house with a coloured roof whose ground line is centred on (x, y)."""
    rng = brush.rng
    wall = brush.vary(rng.choice(((244, 232, 208), (236, 208, 178), (226, 230, 236), (250, 240, 226))), 6)
    roof = brush.vary(rng.choice(((190, 66, 50), (168, 84, 58), (84, 100, 148), (120, 70, 60))), 8)
    height = width * rng.uniform(0.6, 0.8)
    brush.canvas.drawRect(
        box(x - width / 2, y - height, width, height), brush.shade(wall, mix(wall, (90, 70, 90), 0.25), y - height, y)
    )
    peak = y - height - width * rng.uniform(0.45, 0.6)
    brush.polygon([(x - width * 0.62, y - height), (x + width * 0.62, y - height), (x, peak)], roof)
    if brush.scene.season == "winter":
        brush.polygon(
            [(x - width * 0.5, y - height - width * 0.1), (x + width * 0.5, y - height - width * 0.1), (x, peak - 0.3)],
            (246, 249, 252),
        )
    brush.rect(x - width * 0.1, y - height * 0.55, width * 0.2, height * 0.55, (112, 72, 50))
    for side in (-0.36, 0.18):
        brush.lit_rect(x + side * width, y - height * 0.75, width * 0.18, height * 0.3, (128, 170, 200))
