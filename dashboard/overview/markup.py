"""Tables and picture grid of the Overview, as HTML; every text from the cache is escaped."""

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from dashboard import markup
from engine.analysis.outcomes import StudyLane
from engine.display import theme
from engine.display.formats import cut, duration, duration_range, ratio, ratio_range, whole
from engine.display.headline import Figure


def stage_legend() -> str:
    """The colours of the stage chart."""
    items = "".join(
        f'<span><span style="color:{colour}" aria-hidden="true">■</span> {stage}</span> '
        for stage, colour in theme.STAGE_COLOURS.items()
    )
    return f'<p class="lab lab-legend">{items}</p>'


def timing_table(table: pd.DataFrame) -> str:
    """Timing summaries (`Results.timings`), one row a lane."""
    rows = []
    for _, row in table.iterrows():
        name = markup.lane_name(row["label"], row["scheduler"], is_baseline=row["is_baseline"])
        cells = (
            whole(row["steps"]),
            whole(row["nfe"]),
            f"<b>{duration(row['median_ms'])}</b>",
            duration_range(row["low_ms"], row["high_ms"]),
            whole(row["n"]),
            f"<b>{ratio(row['speedup'])}</b>",
            ratio_range(row["speedup_low"], row["speedup_high"]),
            escape(str(row["settled"])),
        )
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    return markup.table(
        [*markup.LANE_COLUMNS, "Median", "95 % interval", "n", "Speed-up", "95 % interval", "Samples"], rows
    )


def lane_table(lanes: Iterable[StudyLane], counts: pd.DataFrame, baseline: str) -> str:
    """What was run: cells of each lane by outcome; `counts` has columns done, failed, missing by lane key."""
    rows = [
        f'<tr><th scope="row">{markup.lane_name(lane.label, lane.scheduler, is_baseline=lane.key == baseline)}</th>'
        f"<td>{lane.steps}</td><td>{whole(lane.nfe)}</td>"
        + "".join(f"<td>{whole(counts.at[lane.key, state])}</td>" for state in ("done", "failed", "missing"))
        + "</tr>"
        for lane in lanes
    ]
    return markup.table([*markup.LANE_COLUMNS, "Done", "Failed", "Missing"], rows, "lab-narrow")


def failure_table(failures: Iterable[tuple[str, str, int, str]]) -> str:
    """Failed cells: lane, prompt, seed, error."""
    rows = [
        f'<tr><td class="text">{escape(lane)}</td><td class="text wrap">{escape(cut(prompt, 120))}</td>'
        f'<td>{seed}</td><td class="text wrap">{escape(cut(error, 600))}</td></tr>'
        for lane, prompt, seed, error in failures
    ]
    return markup.table(["Lane", "Prompt", "Seed", "Error"], rows, text={"Prompt", "Error"})


def cards(items: Sequence[Figure], link: tuple[str, str]) -> str:
    """The headline; the last figure's note ends with a link (text, address)."""
    found = [*(_card(item) for item in items[:-1]), *(_card(item, link) for item in items[-1:])]
    return f'<div class="lab lab-cards">{"".join(found)}</div>'


def _card(card: Figure, to: tuple[str, str] | None = None) -> str:
    look = theme.look(card.scheduler) if card.scheduler else None
    mark = f'<span style="color:{look.colour}" aria-hidden="true">{look.glyph}</span> ' if look else ""
    link = f' <a href="{escape(to[1])}">{escape(to[0])}</a>' if to else ""
    small = f'<p class="small">{markup.with_code(card.small)}</p>' if card.small else ""
    return (
        f'<div><div class="name">{escape(card.name)}</div><div class="value">{mark}{escape(card.value)}</div>'
        f"<p>{markup.with_code(card.note)}{link}</p>{small}</div>"
    )


def picture_grid(prompts: Sequence[str], rows: Iterable[tuple[StudyLane, Sequence[str]]], baseline: str) -> str:
    """Final pictures: a row a lane, a column a prompt; cells are HTML from `picture` and `gap`."""
    head = "".join(f'<th scope="col">{escape(cut(prompt, 60))}</th>' for prompt in prompts)
    body = "".join(
        f'<tr><th scope="row">{markup.lane_name(lane.label, lane.scheduler, is_baseline=lane.key == baseline)}</th>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for lane, cells in rows
    )
    return (
        '<div class="lab lab-scroll lab-pictures"><table><thead><tr><th scope="col"></th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
