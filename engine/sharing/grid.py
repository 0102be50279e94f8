"""Draws grids of pictures, one row per lane, with a label and details in the margin."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from engine.picture_files import decoded
from engine.sharing.lettering import Font, fitted, wrapped

MARGIN = 28
LABEL_WIDTH = 250
HEADING_HEIGHT = 34
GAP = 6
INK, PALE, LINE = (24, 28, 36), (104, 112, 126), (224, 228, 234)
MISSING = (244, 245, 247)
LABEL_LINES = 3


@dataclass(frozen=True)
class GridRow:
    """One lane of a grid.

    Attributes:
        label: Name of the lane.
        details: Short lines below the label, such as calls and time.
        pictures: One encoded picture per column; None if missing.
        note: Text shown instead of the pictures if all are missing.
        gap: Text in place of a missing picture, e.g. "no step yet"; not shown if there is a note.
    """

    label: str
    details: tuple[str, ...]
    pictures: tuple[bytes | None, ...]
    note: str = ""
    gap: str = ""


def draw_grid(title: str, subtitle: str, columns: Sequence[str], rows: Sequence[GridRow], footer: str) -> Image.Image:
    """Draws the grid.

    Args:
        title: Large line at the top; truncated if too long.
        subtitle: Small line below it.
        columns: Headings of the columns.
        rows: Lanes, each with one picture per column.
        footer: Small line at the bottom: n, environment, date.
    """
    cell = _cell_size(rows)
    big, small, bold = _font(26), _font(14), _font(17)
    width = 2 * MARGIN + LABEL_WIDTH + len(columns) * (cell + GAP) - GAP
    top = MARGIN + 66
    height = top + HEADING_HEIGHT + len(rows) * (cell + GAP) + 22 + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), fitted(draw, title, big, width - 2 * MARGIN), INK, big)
    draw.text((MARGIN, MARGIN + 32), fitted(draw, subtitle, small, width - 2 * MARGIN), PALE, small)
    left = MARGIN + LABEL_WIDTH
    for place, heading in enumerate(columns):
        x = left + place * (cell + GAP) + cell / 2
        draw.text((x, top + HEADING_HEIGHT - 10), fitted(draw, heading, small, cell), PALE, small, anchor="ms")
    for number, row in enumerate(rows):
        y = top + HEADING_HEIGHT + number * (cell + GAP)
        draw.line((MARGIN, y - GAP / 2, width - MARGIN, y - GAP / 2), LINE)
        _draw_label(draw, row, y, cell, bold, small)
        _draw_pictures(sheet, draw, row, left, y, cell, small)
    draw.text((MARGIN, height - MARGIN - 8), fitted(draw, footer, small, width - 2 * MARGIN), PALE, small)
    return sheet


def _draw_label(draw: ImageDraw.ImageDraw, row: GridRow, y: float, cell: int, bold: Font, small: Font) -> None:
    name = wrapped(draw, row.label, bold, LABEL_WIDTH - 12, LABEL_LINES)
    block = 22 * len(name) + 2 + 19 * len(row.details)
    start = y + max(0, (cell - block) / 2)
    for number, line in enumerate(name):
        draw.text((MARGIN, start + 22 * number), line, INK, bold)
    start += 22 * len(name) + 4
    for number, line in enumerate(row.details):
        draw.text((MARGIN, start + 19 * number), fitted(draw, line, small, LABEL_WIDTH - 12), PALE, small)


def _draw_pictures(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, row: GridRow, left: int, y: int, cell: int, small: Font
) -> None:
    for place, data in enumerate(row.pictures):
        x = left + place * (cell + GAP)
        picture = None if data is None else decoded(data)
        if picture is None:
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), MISSING)
            if row.gap and not row.note:
                draw.text((x + cell / 2, y + cell / 2), fitted(draw, row.gap, small, cell - 8), PALE, small, "mm")
            continue
        scale = cell / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        sheet.paste(picture.resize(size, resample), (x + (cell - size[0]) // 2, y + (cell - size[1]) // 2))
    if row.note:
        room = len(row.pictures) * (cell + GAP) - 24
        draw.text((left + 12, y + cell / 2), fitted(draw, row.note, small, room), PALE, small, anchor="lm")


def _cell_size(rows: Sequence[GridRow]) -> int:
    """Side of a picture: twice its size if it is small, and at most 256 pixels."""
    every = (decoded(data) for row in rows for data in row.pictures if data is not None)
    first = next((picture for picture in every if picture is not None), None)
    return 128 if first is None else min(256, max(128, 2 * max(first.size)))


def _font(size: int) -> Font:
    return ImageFont.load_default(size)
