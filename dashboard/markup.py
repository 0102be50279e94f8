"""HTML for what Streamlit has no element for. Pure; every text that comes from the cache is escaped here."""

import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import urlencode

import pandas as pd

from dashboard import theme
from dashboard.formats import NONE, cut, duration, duration_range, ratio, ratio_range, whole
from dashboard.studies import LaneView

_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
STYLE = f"<style>:root {{ --lab-accent: {theme.ACCENT}; }}\n{_CSS}</style>"

SMALL_PIXELS = 256


def title(name: str, facts: Sequence[str], description: str) -> str:
    """The head of a page: the study and what its cells share."""
    lines = [f'<h1 class="lab-title">{escape(name)}</h1>']
    lines += [f'<p class="lab-soft">{escape(text)}</p>' for text in (cut(description, 300), " · ".join(facts)) if text]
    return f'<div class="lab">{"".join(lines)}</div>'


def heading(text: str, note: str = "") -> str:
    """A section's heading with one line of explanation."""
    extra = f'<p class="lab-soft">{_with_code(note)}</p>' if note else ""
    return f'<div class="lab"><h2 class="lab-head">{escape(text)}</h2>{extra}</div>'


def note(head: str, text: str) -> str:
    """A message that takes the place of what cannot be shown; `code` in backquotes is set as code."""
    return f'<div class="lab lab-note" role="status"><h2>{escape(head)}</h2><p>{_with_code(text)}</p></div>'


def soft(text: str) -> str:
    """A small line."""
    return f'<p class="lab lab-soft">{_with_code(text)}</p>'


def footer(parts: Iterable[str]) -> str:
    """What stands under every figure: n, interval, environment, when."""
    return f'<p class="lab lab-foot">{escape(" · ".join(part for part in parts if part))}</p>'


def legend(text: str) -> str:
    """What the marks of a chart mean."""
    return f'<p class="lab lab-legend">{escape(text)}</p>'


def stage_legend() -> str:
    """The colours of the stage chart."""
    items = "".join(
        f'<span><span style="color:{colour}" aria-hidden="true">■</span> {stage}</span> '
        for stage, colour in theme.STAGE_COLOURS.items()
    )
    return f'<p class="lab lab-legend">{items}</p>'


def figures(items: Iterable[tuple[str, str, str]]) -> str:
    """Large figures with a name above and a note below."""
    cells = "".join(
        f'<div><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(below)}</div></div>'
        for name, value, below in items
    )
    return f'<div class="lab lab-figures">{cells}</div>'


def lane_name(label: str, scheduler: str, *, is_baseline: bool = False) -> str:
    """A lane's label behind its scheduler's mark."""
    look = theme.look(scheduler)
    tag = '<span class="tag">baseline</span>' if is_baseline else ""
    return f'<span style="color:{look.colour}" aria-hidden="true">{look.glyph}</span> {escape(label)}{tag}'


def timing_table(table: pd.DataFrame) -> str:
    """Timing summaries (`StudyView.timings`), one row a lane."""
    rows = []
    for _, row in table.iterrows():
        name = lane_name(row["label"], row["scheduler"], is_baseline=row["is_baseline"])
        cells = (
            whole(row["steps"]), whole(row["nfe"]), f"<b>{duration(row['median_ms'])}</b>",
            duration_range(row["low_ms"], row["high_ms"]), whole(row["n"]), f"<b>{ratio(row['speedup'])}</b>",
            ratio_range(row["speedup_low"], row["speedup_high"]), escape(str(row["settled"])),
        )  # fmt: skip
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    return _table([*_LANE_COLUMNS, "Median", "95 % interval", "n", "Speed-up", "95 % interval", "Samples"], rows)


def lane_table(lanes: Iterable[LaneView], counts: pd.DataFrame, baseline: str) -> str:
    """What was run: cells of each lane by outcome; `counts` has columns done, failed, missing by lane key."""
    rows = [
        f'<tr><th scope="row">{lane_name(lane.label, lane.scheduler, is_baseline=lane.key == baseline)}</th>'
        f"<td>{lane.steps}</td><td>{whole(lane.nfe)}</td>"
        + "".join(f"<td>{whole(counts.at[lane.key, state])}</td>" for state in ("done", "failed", "missing"))
        + "</tr>"
        for lane in lanes
    ]
    return _table([*_LANE_COLUMNS, "Done", "Failed", "Missing"], rows, "lab-narrow")


def failure_table(failures: Iterable[tuple[str, str, int, str]]) -> str:
    """Failed cells: lane, prompt, seed, error."""
    rows = [
        f'<tr><td class="text">{escape(lane)}</td><td class="text wrap">{escape(cut(prompt, 120))}</td>'
        f'<td>{seed}</td><td class="text wrap">{escape(cut(error, 600))}</td></tr>'
        for lane, prompt, seed, error in failures
    ]
    return _table(["Lane", "Prompt", "Seed", "Error"], rows, text={"Prompt", "Error"})


_LANE_COLUMNS = ("Lane", "Steps", "Denoiser calls (NFE)")


def _table(columns: Sequence[str], rows: Iterable[str], classes: str = "", text: Collection[str] = ()) -> str:
    head = "".join(f'<th scope="col"{" class=text" if name in text else ""}>{escape(name)}</th>' for name in columns)
    return (
        f'<div class="lab lab-scroll {classes}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def picture(source: str, alt: str, width: int, query: dict[str, str]) -> str:
    """A picture that leads to the Compare page."""
    small = ' class="small"' if width < SMALL_PIXELS else ""
    link = escape("compare?" + urlencode(query))
    return f'<a href="{link}"><img src="{escape(source)}" alt="{escape(alt)}"{small}></a>'


def gap(text: str) -> str:
    """What stands where a picture is missing."""
    return f'<div class="lab-gap">{escape(cut(text, 90))}</div>'


def picture_grid(lanes: Sequence[LaneView], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Final pictures: a column a lane, a row a prompt; cells are HTML from `picture` and `gap`."""
    head = "".join(f'<th scope="col">{lane_name(lane.label, lane.scheduler)}</th>' for lane in lanes)
    body = "".join(
        f'<tr><th scope="row">{escape(cut(prompt, 120))}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for prompt, cells in rows
    )
    return (
        '<div class="lab lab-scroll lab-pictures"><table><thead><tr><th scope="col"></th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _with_code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def interval_note(n: float, interval: str, settled: str) -> str:
    """E.g. "95 % interval 2.31 – 2.60, n = 10"; says so if there are too few samples, or they have not settled."""
    if interval == NONE:
        return f"too few samples, n = {n:.0f}"
    return f"95 % interval {interval}, n = {n:.0f}" + ("" if settled == "settled" else f", {settled}")
