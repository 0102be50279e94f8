"""The grid of pictures: final ones, and strips of steps for the scrubber."""

from collections.abc import Mapping
from dataclasses import replace

from PIL import Image

from engine.display import html
from engine.display.formats import cut
from engine.display.html import Film
from engine.display.tables import Entry, ResultTable, lane_name, table, text
from engine.sharing.pictures import CellPictures, encoded, fitted
from engine.sharing.report.contents import Report
from engine.study.cells import evenly_spaced

BUDGET = 3_100_000  # bytes of pictures in the page, as base64
# (side of a final picture, side of a step, steps per cell): the first level that fits the budget is used.
LEVELS = ((192, 192, 12), (192, 128, 12), (192, 128, 8), (160, 96, 8), (128, 96, 6), (128, 64, 4), (96, 0, 0))


def films(pictures: Mapping[str, CellPictures]) -> dict[str, Film]:
    """The pictures of every cell, at the best level that fits the budget of the page."""
    for level in LEVELS:
        found = {key: _film(mine, *level) for key, mine in pictures.items()}
        if sum(len(film.final or "") + len(film.strip or "") for film in found.values()) <= BUDGET:
            break
    return found


def film_table(report: Report) -> ResultTable:
    """The grid of pictures: one row per lane, one column per prompt."""
    found = films(report.pictures)
    rows = []
    for lane in report.shown_lanes.itertuples():
        cells = [
            _cell(found.get(report.cells.get((str(lane.lane), prompt), "")), f"{_short(prompt, 80)}, by {lane.label}")
            for prompt in report.prompts
        ]
        rows.append((lane_name(lane.label, lane.scheduler), *cells))
    columns = [text("Lane"), *(text(_short(prompt, 60)) for prompt in report.prompts)]
    return table("Pictures, lanes by prompts", columns, rows, style="films")


def _short(prompt: str, length: int) -> str:
    return cut(prompt, length) or "(empty prompt)"


def _cell(film: Film | None, alt: str) -> Entry:
    if film is None or (film.final is None and film.strip is None):
        return html.gap("no picture, or more than a report can carry")
    return html.film(replace(film, alt=alt))


def _film(mine: CellPictures, final_side: int, step_side: int, steps: int) -> Film:
    chosen = [mine.steps[place] for place in evenly_spaced(len(mine.steps), steps)]
    first = mine.final or (mine.steps[0][1] if mine.steps else None)
    if first is None:
        return Film(None, None, (), 0, 0)
    final, *more = (
        fitted(image, min(final_side, first.width), min(final_side, first.height)) for image in mine.clip or (first,)
    )
    strip = None
    if chosen:
        sized = [fitted(image, min(step_side, image.width), min(step_side, image.height)) for _, image in chosen]
        sheet = Image.new("RGB", (sized[0].width * len(sized), sized[0].height))
        for place, image in enumerate(sized):
            sheet.paste(image.resize(sized[0].size), (place * sized[0].width, 0))
        strip = html.inline_image("webp", encoded(sheet, 72 if sized[0].width >= 128 else 90))
    return Film(
        html.inline_image("webp", encoded(final, 86, more)) if mine.final else None,
        strip,
        tuple(progress for progress, _ in chosen),
        final.width,
        final.height,
    )
