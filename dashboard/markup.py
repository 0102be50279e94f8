"""HTML for what Streamlit has no element for. Pure; every text that comes from the cache is escaped here."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import urlencode

import pandas as pd

from dashboard import theme
from dashboard.charts import money, money_range, percent, percent_range
from dashboard.formats import NONE, cut, duration, duration_range, known, ratio, ratio_range, whole
from dashboard.studies import LaneView
from engine.analysis.cost import Preset, Pricing

_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
STYLE = f"<style>:root {{ --lab-accent: {theme.ACCENT}; }}\n{_CSS}</style>"

SMALL_PIXELS = 256
_BILLING = {"serverless": " Billed by the second: the figures by use apply.", "spot": " Can be taken away at any time."}


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


def cost_table(table: pd.DataFrame) -> str:
    """Costs and savings (`price_lanes`), one row a lane; ranges stand behind their figures."""
    rows = []
    for _, row in table.iterrows():
        base = row["is_baseline"]
        name = lane_name(row["label"], row["scheduler"], is_baseline=base)
        cells = (
            f"{row['seconds']:.3g}" if known(row["seconds"]) else NONE, money(row["usd_1k"]),
            _ranged(row, "usd_month", money, money_range),
            NONE if base else _ranged(row, "saving_usd", money, money_range),
            NONE if base else _ranged(row, "saving_share", percent, percent_range),
            whole(row["gpus"]), percent(row["fleet_busy"]), f"<b>{money(row['fleet_usd'])}</b>",
            NONE if base else _ranged(row, "fleet_saving_usd", money, money_range),
        )  # fmt: skip
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    by_use = ("Seconds per image", "By use: 1,000 images", "By use: a month", "Saved", "Saved (%)")
    return _table(["Lane", *by_use, "Whole GPUs", "Busy", "Whole GPUs: a month", "Saved"], rows)


def _ranged(row: pd.Series, name: str, one: Callable[[float], str], both: Callable[[float, float], str]) -> str:
    return f"<b>{one(row[name])}</b>" + _spread(row, name, both, '<br><span class="soft">{}</span>')


def method(texts: Iterable[str]) -> str:
    """A list of small paragraphs."""
    return f'<ul class="lab lab-soft">{"".join(f"<li>{_with_code(text)}</li>" for text in texts)}</ul>'


def price_table(presets: Iterable[Preset]) -> str:
    """Prices of GPUs with their dates and sources."""
    rows = [
        f'<tr><th scope="row">{escape(p.gpu)}</th><td class="text">{escape(p.provider)}</td><td class="text">'
        f'{escape(p.product)}</td><td>${p.usd_per_hour:.3f}</td><td class="text">{p.billing}</td><td>{p.sold_in}</td>'
        f'<td>{p.as_of}</td><td>{p.confidence}</td><td class="text wrap">{escape(p.source)}</td></tr>'
        for p in presets
    ]
    columns = ["GPU", "Provider", "Product", "Per hour", "Billing", "Sold in", "As of", "Confidence", "Source"]
    return _table(columns, rows, text={"Provider", "Product", "Billing", "Source"})


def basis(choice: Pricing, device: str, baseline: str) -> str:
    """Which machine's seconds are priced, and at what."""
    preset, price = choice.preset, f"{money(choice.rate.usd_per_hour)} per GPU hour"
    if preset is None:
        gpu, of, price = "the GPU you price", "the machine you price", price + "; set it to what you pay."
    else:
        gpu, of = f"the {preset.gpu}", "the GPU of the price"
        price = f"{price} at {preset.provider} ({preset.product}) on {preset.as_of}.{_BILLING.get(preset.billing, '')}"
        price += f" Rented {preset.sold_in} at a time." if preset.sold_in > 1 else ""
    times = f"Times measured on {device}, taken as {of}."
    if choice.seconds is not None:
        times = (
            f"{baseline} takes {choice.seconds:g} s per image on {gpu}, as you entered; the other lanes are scaled by "
            f"the ratio measured on {device}. That ratio is an assumption: it differs between machines."
        )
    return f"{times} {price}"


def cost_cards(table: pd.DataFrame, choice: Pricing) -> list[tuple[str, str, str]]:
    """The baseline's cost, the chosen lane's, and what that saves; what there is of it."""
    chosen = table[table["is_baseline"] | (table["lane"] == choice.lane)].sort_values("is_baseline", ascending=False)
    cards = [_cost_card(row, choice) for _, row in chosen.iterrows()]
    row = chosen.iloc[-1]
    if row["is_baseline"] or not known(row["saving_usd"]):
        return cards
    note = percent(row["saving_share"]) + _spread(row, "saving_share", percent_range)
    note += _spread(row, "saving_usd", money_range)
    cards.append((f"Saved a month, by use ({choice.work.utilisation:.0%} busy)", money(row["saving_usd"]), note))
    before, after = int(chosen.iloc[0]["gpus"]), int(row["gpus"])
    note = f"{before} → {after} GPUs" + (", once given back" if after < before else "")
    note += _spread(row, "fleet_saving_usd", money_range)
    return [*cards, (f"Saved a month, whole GPUs ({row['fleet_busy']:.0%} busy)", money(row["fleet_saving_usd"]), note)]


def _spread(row: pd.Series, name: str, both: Callable[[float, float], str], form: str = "; range {}") -> str:
    ends = both(row[f"{name}_low"], row[f"{name}_high"])
    return "" if ends == NONE else form.format(ends)


def _cost_card(row: pd.Series, choice: Pricing) -> tuple[str, str, str]:
    stated = row["is_baseline"] and choice.seconds is not None
    interval = money_range(row["usd_month_low"], row["usd_month_high"])
    note = "at the seconds entered" if stated else interval_note(row["n"], interval, row["settled"])
    name = f"{'Baseline, ' if row['is_baseline'] else ''}{row['label']}, a month"
    return name, money(row["usd_month"]), f"{note}; {money(row['usd_1k'])} per 1,000 images"
