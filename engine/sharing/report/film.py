"""The grid of pictures: final ones that everybody sees, and strips of steps behind them for the scrubber."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from PIL import Image

from engine.display import theme
from engine.display.formats import cut
from engine.sharing.pictures import CellPictures, encoded, fitted
from engine.sharing.report.material import Report

BUDGET = 3_100_000  # bytes of pictures in the page, as base64
# (pixels of a final picture, pixels of a step, steps a cell): the first that fits the budget is taken.
LEVELS = ((192, 192, 12), (192, 128, 12), (192, 128, 8), (160, 96, 8), (128, 96, 6), (128, 64, 4), (96, 0, 0))


@dataclass(frozen=True)
class Film:
    """A cell's pictures as data addresses.

    Attributes:
        final: The final picture; None if there is none.
        strip: All steps beside each other; None if there are none.
        progress: Of each step in the strip.
        width: Of one picture in pixels; the strip has as many times that.
        height: Likewise.
    """

    final: str | None
    strip: str | None
    progress: tuple[float, ...]
    width: int
    height: int


def films(pictures: Mapping[str, CellPictures]) -> dict[str, Film]:
    """Every cell's pictures, as large and as many as the size of the page allows."""
    for level in LEVELS:
        found = {key: _film(mine, *level) for key, mine in pictures.items()}
        if sum(len(film.final or "") + len(film.strip or "") for film in found.values()) <= BUDGET:
            break
    return found


def film_grid(report: Report) -> str:
    """The grid as HTML: a row a lane, a column a prompt."""
    found = films(report.pictures)
    head = "".join(f'<th scope="col">{escape(cut(prompt, 60)) or "(empty prompt)"}</th>' for prompt in report.prompts)
    rows = []
    for lane in report.shown_lanes.itertuples():
        look = theme.look(str(lane.scheduler))
        name = f'<span class="mark" style="color:{look.colour}" aria-hidden="true">{look.glyph}</span> '
        cells = "".join(
            f"<td>{_cell(found.get(report.cells.get((str(lane.lane), prompt), '')), str(lane.label), prompt)}</td>"
            for prompt in report.prompts
        )
        rows.append(f'<tr><th scope="row">{name}{escape(str(lane.label))}</th>{cells}</tr>')
    return (
        '<div class="scroll" role="region" aria-label="Pictures, lanes by prompts" tabindex="0">'
        f'<table class="films"><thead><tr><th scope="col">Lane</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(film: Film | None, lane: str, prompt: str) -> str:
    if film is None or (film.final is None and film.strip is None):
        return '<div class="gap">no picture</div>'
    name = escape(f"{cut(prompt, 80) or 'empty prompt'}, by {lane}")
    small = " small" if film.width < 128 else ""
    final = f'<img class="final" src="{film.final}" alt="{name}" width="{film.width}" height="{film.height}">'
    strip = ""
    if film.strip:
        steps = ",".join(f"{progress:.4f}" for progress in film.progress)
        strip = f'<img class="strip" src="{film.strip}" alt="" data-at="{steps}" hidden>'
    return f'<div class="film{small}">{final if film.final else ""}{strip}</div>'


def _film(mine: CellPictures, final_side: int, step_side: int, steps: int) -> Film:
    chosen = [] if not steps else [mine.steps[place] for place in _places(len(mine.steps), steps)]
    first = mine.final or (mine.steps[0][1] if mine.steps else None)
    if first is None:
        return Film(None, None, (), 0, 0)
    final = fitted(first, min(final_side, first.width), min(final_side, first.height))
    strip = None
    if chosen:
        sized = [fitted(image, min(step_side, image.width), min(step_side, image.height)) for _, image in chosen]
        sheet = Image.new("RGB", (sized[0].width * len(sized), sized[0].height))
        for place, image in enumerate(sized):
            sheet.paste(image.resize(sized[0].size), (place * sized[0].width, 0))
        strip = data_uri(encoded(sheet, 72 if sized[0].width >= 128 else 90))
    return Film(
        data_uri(encoded(final, 86)) if mine.final else None,
        strip,
        tuple(progress for progress, _ in chosen),
        final.width,
        final.height,
    )


def _places(have: int, want: int) -> list[int]:
    if have <= want:
        return list(range(have))
    return sorted({round(place * (have - 1) / max(want - 1, 1)) for place in range(want)})


def data_uri(webp: bytes) -> str:
    """A WebP picture as an address that needs no network."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode('ascii')}"
