"""The report as an image of 1600 x 900 pixels for a slide: headline, figures, a chart and pictures."""

import io
import re

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from engine.analysis.standings import frontier
from engine.display import theme
from engine.display.formats import batch_of, cut
from engine.display.speed_charts import trade_off_chart
from engine.display.timing_charts import time_chart
from engine.sharing import lettering
from engine.sharing.lettering import Font, wrapped
from engine.sharing.pictures import fitted
from engine.sharing.report import report_charts as charts
from engine.sharing.report.contents import Report

WIDTH, HEIGHT, MARGIN = 1600, 900, 64
INK, SOFT, LINE = (23, 34, 43), (74, 88, 98), (217, 224, 228)
SIDE, GAP = 120, 10
LANES, PROMPTS = 3, 4
CHART_WIDTH, CHART_HEIGHT = 640, 290
CHART_LANES = 10  # with more, labels and marks overlap
HEADLINES = ((42, 2, 52), (34, 3, 41))  # font size, lines, line height
CARD_LINES, NOTE_LINES = 6, 4

# Characters that Pillow's built-in font lacks.
_TYPED = str.maketrans({"–": "-", "−": "-", "…": "...", "×": "x"})


def render_png(report: Report) -> bytes:
    """Renders the image as PNG."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 40), _typed(report.results.id, 90), SOFT, _font(22))
    _headline(draw, _typed(report.headline.sentence))
    _figures(draw, report, 196)
    _chart(sheet, draw, report, 430)
    _pictures(sheet, draw, report, 430)
    foot = "; ".join(report.results.environment_lines)
    draw.text((MARGIN, HEIGHT - 46), _typed(f"{foot}. Intervals: 95 %.", 190), SOFT, _font(16))
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _headline(draw: ImageDraw.ImageDraw, sentence: str) -> None:
    """Draws the headline in the largest font that fits; truncates it in the smallest."""
    room = WIDTH - 2 * MARGIN
    tried = [(size, step, wrapped(draw, sentence, _font(size), room, most)) for size, most, step in HEADLINES]
    whole = (each for each in tried if " ".join(each[2]) == " ".join(sentence.split()))
    size, step, lines = next(whole, tried[-1])
    for place, line in enumerate(lines):
        draw.text((MARGIN, 72 + step * place), line, INK, _font(size))


def _figures(draw: ImageDraw.ImageDraw, report: Report, top: int) -> None:
    items = report.headline.figures
    width = (WIDTH - 2 * MARGIN - 36 * (len(items) - 1)) // len(items)
    for place, item in enumerate(items):
        left = MARGIN + place * (width + 36)
        draw.line((left, top, left + width, top), _rgb(theme.ACCENT) if place == 0 else LINE, 4)
        draw.text((left, top + 14), lettering.fitted(draw, _typed(item.name), _font(18), width), SOFT, _font(18))
        value = _typed(item.value)
        font = _font_for(draw, value, width, 38)
        draw.text((left, top + 38), lettering.fitted(draw, value, font, width), INK, font)
        note = wrapped(draw, _typed(item.note), _font(17), width, NOTE_LINES)
        small = wrapped(draw, _typed(item.small), _font(17), width, CARD_LINES - len(note))
        lines = [*((line, INK) for line in note), *((line, SOFT) for line in small)]
        for number, (line, colour) in enumerate(lines):
            draw.text((left, top + 90 + 22 * number), line, colour, _font(17))


def _chart(sheet: Image.Image, draw: ImageDraw.ImageDraw, report: Report, top: int) -> None:
    """Draws the chart of speed against quality, or else of times, with the name of every lane."""
    rows = chart_rows(report)
    if rows.empty:
        return
    drawn = charts.ReportChart("poster", chart_of(rows), "")
    with Image.open(io.BytesIO(charts.png(drawn, CHART_WIDTH))) as image:
        sheet.paste(fitted(image.convert("RGB"), 780, HEIGHT - top - 92), (MARGIN, top))
    lanes = len(report.results.lane_table)
    if len(rows) < lanes:
        text = f"{len(rows)} of {lanes} lanes: baseline, recommended lane, Pareto front, fastest lanes."
        draw.text((MARGIN, HEIGHT - 84), text, SOFT, _font(16))


def chart_of(rows: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """The chart of the rows from `chart_rows`."""
    if "difference" not in rows:
        return time_chart(rows)
    # The chart labels its marks with `steps`.
    named = rows.assign(steps=rows["label"])
    chart = trade_off_chart(named, "ms", batch_of(float(rows["batch_size"].max())))
    return chart.properties(height=CHART_HEIGHT)


def chart_rows(report: Report) -> pd.DataFrame:
    """Rows of at most `CHART_LANES` lanes for the chart; with a column "difference" if quality can be compared."""
    results = report.results
    rows = results.standings
    rows = rows[rows["metric"] == results.deciding].dropna(subset=["difference", "median_ms"])
    if len(rows):
        sign = {"higher": 1.0, "lower": -1.0}.get(str(rows["direction"].iloc[0]), float("nan"))
        beaten = ~frontier(rows["median_ms"], sign * rows["difference"])
    else:
        rows = results.times
        beaten = np.ones(len(rows), dtype=bool)
    named = rows["lane"].isin([results.baseline, report.headline.lane]) if len(rows) else beaten
    ranked = rows.assign(rank=np.where(named, 0, 1 + beaten)).sort_values(["rank", "median_ms"])
    return rows.loc[rows.index.isin(ranked.index[:CHART_LANES])]


def _pictures(sheet: Image.Image, draw: ImageDraw.ImageDraw, report: Report, top: int) -> None:
    """Draws final pictures of the baseline, the recommended lane and one more."""
    results = report.results
    order = [results.baseline, report.headline.lane, *results.lane_table["lane"]]
    # A report has pictures of only some lanes.
    lanes = [lane for lane in dict.fromkeys(order) if any(lane == key for key, _ in report.cells)][:LANES]
    left = WIDTH - MARGIN - PROMPTS * (SIDE + GAP) + GAP
    for row, lane in enumerate(lanes):
        y = top + row * (SIDE + GAP)
        for line, text in enumerate(wrapped(draw, _typed(results.lane_label(lane)), _font(17), 124, 4)):
            draw.text((left - 132, y + 8 + 22 * line), text, INK, _font(17))
        for column, prompt in enumerate(report.prompts[:PROMPTS]):
            mine = report.pictures.get(report.cells.get((lane, prompt), ""))
            if mine is not None and mine.final is not None:
                image = fitted(mine.final, SIDE, SIDE)
                sheet.paste(image, (left + column * (SIDE + GAP), y))


def _font_for(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> Font:
    """The largest font, between half the given size and that size, in which the text fits."""
    sizes = range(size, size // 2, -2)
    return next((_font(each) for each in sizes if draw.textlength(text, _font(each)) <= width), _font(size // 2))


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _typed(text: str, length: int = 400) -> str:
    return re.sub(r"(?<=[\d%]) – (?=[−$\d])", " to ", cut(text, length)).translate(_TYPED)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
