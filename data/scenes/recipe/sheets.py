"""Contact sheets: numbered pictures for people to judge blind, with the prompts in a file beside."""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageDraw

LINE = 12


def sheet(pictures: torch.Tensor, labels: list[str], columns: int, zoom: int = 2) -> Image.Image:
    """Return pictures (n, 3, h, w) in -1 to 1 in rows, each enlarged `zoom` times without smoothing, over its label."""
    side = pictures.shape[-1] * zoom
    rows = math.ceil(len(labels) / columns)
    page = Image.new("RGB", (columns * (side + 4), rows * (side + LINE + 4)), "white")
    pen = ImageDraw.Draw(page)
    arrays = pictures.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for number, (array, label) in enumerate(zip(arrays, labels, strict=True)):
        x, y = number % columns * (side + 4), number // columns * (side + LINE + 4)
        page.paste(Image.fromarray(array).resize((side, side), Image.Resampling.NEAREST), (x, y))
        pen.text((x + 2, y + side), label, fill="black", font_size=10)
    return page
