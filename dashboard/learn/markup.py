"""Texts, rows of pictures and tables of the Learn page, as HTML; every text from the cache is escaped."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import pandas as pd

from dashboard import markup
from engine.analysis.outcomes import StudyLane
from engine.display.formats import NONE, duration, known, whole


@dataclass(frozen=True)
class Shot:
    """A picture with a line below it."""

    source: str
    alt: str
    caption: str
    small: bool = False


def prose(*paragraphs: str) -> str:
    """Paragraphs to read; `code` in backquotes is set as code."""
    return f'<div class="lab lab-prose">{"".join(f"<p>{markup.with_code(text)}</p>" for text in paragraphs)}</div>'


def shots(pictures: Iterable[Shot]) -> str:
    """A row of pictures."""
    cells = "".join(
        f'<figure><img src="{escape(shot.source)}" alt="{escape(shot.alt)}"{" class=small" if shot.small else ""}>'
        f"<figcaption>{escape(shot.caption)}</figcaption></figure>"
        for shot in pictures
    )
    return f'<div class="lab lab-shots">{cells}</div>'


def nothing(text: str) -> str:
    """What stands where the cache has nothing to show."""
    return markup.soft(f"The cache has nothing for this yet: {text}")


def calls_table(lanes: Iterable[StudyLane], timings: pd.DataFrame, baseline: str) -> str:
    """Steps, denoiser calls and time of each lane, and the time of one call."""
    times = timings.drop_duplicates("lane").set_index("lane")["median_ms"]
    rows = []
    for lane in lanes:
        median = float(times[lane.key]) if lane.key in times.index else float("nan")
        each = median / lane.nfe if lane.nfe and known(median) else float("nan")
        ratio = f"{lane.nfe / lane.steps:.2f}" if lane.nfe and lane.steps else NONE
        name = markup.lane_name(lane.label, lane.scheduler, is_baseline=lane.key == baseline)
        cells = (whole(lane.steps), whole(lane.nfe), ratio, duration(median), duration(each))
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    columns = [*markup.LANE_COLUMNS, "Calls per step", "Median time", "Time per call"]
    return markup.table(columns, rows, "lab-narrow")
