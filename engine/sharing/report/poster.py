"""The report as one picture of 1600 x 900 pixels: the headline, its figures, a chart and pictures, for a slide."""

import io
import textwrap

from PIL import Image, ImageDraw, ImageFont

from engine.display import theme
from engine.display.formats import cut
from engine.sharing.pictures import fitted
from engine.sharing.report import charts
from engine.sharing.report.material import Report

WIDTH, HEIGHT, MARGIN = 1600, 900, 64
INK, SOFT, LINE = (23, 34, 43), (74, 88, 98), (217, 224, 228)
SIDE, GAP = 120, 10
LANES, PROMPTS = 3, 4

# What the font that comes with Pillow has no letters for.
_TYPED = str.maketrans({"–": "-", "−": "-", "…": ".", "×": "x"})

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def render_png(report: Report) -> bytes:
    """The picture as PNG."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 40), _typed(report.summary.findings.study_id, 90), SOFT, _font(22))
    lines = textwrap.wrap(_typed(report.headline.sentence), 66)[:2]
    for place, line in enumerate(lines):
        draw.text((MARGIN, 72 + 52 * place), line, INK, _font(42))
    _figures(draw, report, 196)
    _chart(sheet, report, 430)
    _pictures(sheet, draw, report, 430)
    foot = "; ".join(report.summary.findings.environment_lines())
    draw.text((MARGIN, HEIGHT - 46), _typed(f"{foot}. Intervals: 95 %.", 190), SOFT, _font(16))
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _figures(draw: ImageDraw.ImageDraw, report: Report, top: int) -> None:
    items = report.headline.figures
    width = (WIDTH - 2 * MARGIN - 36 * (len(items) - 1)) // len(items)
    for place, item in enumerate(items):
        left = MARGIN + place * (width + 36)
        draw.line((left, top, left + width, top), _rgb(theme.ACCENT) if place == 0 else LINE, 4)
        draw.text((left, top + 14), _typed(item.name), SOFT, _font(18))
        value = _typed(item.value)
        draw.text((left, top + 38), _fit(draw, value, width, 38), INK, _font_for(draw, value, width, 38))
        y = top + 90
        for text, colour in ((item.note, INK), (item.small, SOFT)):
            for line in textwrap.wrap(_typed(text), max(20, width // 9))[:3]:
                draw.text((left, y), line, colour, _font(17))
                y += 22


def _chart(sheet: Image.Image, report: Report, top: int) -> None:
    """Speed against quality if there is such a chart, or else the times."""
    drawn = {picture.key: picture for picture in charts.charts(report)}
    picture = drawn.get("trade") or drawn.get("time")
    if picture is None:
        return
    with Image.open(io.BytesIO(charts.png(picture, 620))) as image:
        sheet.paste(fitted(image.convert("RGB"), 780, HEIGHT - top - 70), (MARGIN, top))


def _pictures(sheet: Image.Image, draw: ImageDraw.ImageDraw, report: Report, top: int) -> None:
    """Final pictures of the baseline, the recommended lane and one more."""
    summary = report.summary
    order = [summary.findings.baseline, report.headline.lane, *summary.lanes["lane"]]
    lanes = [lane for lane in dict.fromkeys(order) if lane in set(summary.lanes["lane"])][:LANES]
    left = WIDTH - MARGIN - PROMPTS * (SIDE + GAP) + GAP
    for row, lane in enumerate(lanes):
        y = top + row * (SIDE + GAP)
        for line, text in enumerate(textwrap.wrap(_typed(summary.label(lane), 40), 14)[:3]):
            draw.text((left - 132, y + 8 + 22 * line), text, INK, _font(17))
        for column, prompt in enumerate(report.prompts[:PROMPTS]):
            mine = report.pictures.get(report.cells.get((lane, prompt), ""))
            if mine is not None and mine.final is not None:
                image = fitted(mine.final, SIDE, SIDE)
                sheet.paste(image, (left + column * (SIDE + GAP), y))


def _fit(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    font = _font_for(draw, text, width, size)
    line = text
    while line and draw.textlength(line, font) > width:
        line = line[:-1]
    return line if line == text else line[:-2] + "..."


def _font_for(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> Font:
    """The largest font, down to half the size asked for, in which a text fits."""
    sizes = range(size, size // 2, -2)
    return next((_font(each) for each in sizes if draw.textlength(text, _font(each)) <= width), _font(size // 2))


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _typed(text: str, length: int = 400) -> str:
    return cut(text, length).translate(_TYPED)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
