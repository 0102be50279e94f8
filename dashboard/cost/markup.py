"""Tables and cards of the Cost page, as HTML or text; every text from the cache is escaped."""

from collections.abc import Callable, Iterable, Mapping
from html import escape

import pandas as pd

from dashboard import markup
from dashboard.cost.equality import Equality
from engine.analysis.cost import Preset, Pricing
from engine.analysis.recommendation import AS_GOOD
from engine.display.formats import NONE, interval_note, known, money, money_range, percent, percent_range, whole

_BILLING = {"serverless": " Billed by the second: the figures by use apply.", "spot": " Can be taken away at any time."}


def cost_table(table: pd.DataFrame, words: Mapping[str, str]) -> str:
    """Costs and savings (`price_lanes`), one row a lane; ranges stand behind their figures.

    `words` are the verdicts on the lanes' quality; a lane without one was not scored.
    """
    rows = []
    for _, row in table.iterrows():
        base = row["is_baseline"]
        name = markup.lane_name(row["label"], row["scheduler"], is_baseline=base)
        word = "" if base else words.get(row["lane"], "not scored")
        cells = (
            escape(word if word in AS_GOOD or base else f"({word})"),
            f"{row['seconds']:.3g}" if known(row["seconds"]) else NONE,
            money(row["usd_1k"]),
            _ranged(row, "usd_month", money, money_range),
            NONE if base else _ranged(row, "saving_usd", money, money_range),
            NONE if base else _ranged(row, "saving_share", percent, percent_range),
            whole(row["gpus"]),
            percent(row["fleet_busy"]),
            f"<b>{money(row['fleet_usd'])}</b>",
            NONE if base else _ranged(row, "fleet_saving_usd", money, money_range),
        )
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    by_use = ("Seconds per image", "By use: 1,000 images", "By use: a month", "Saved", "Saved (%)")
    return markup.table(["Lane", "Quality", *by_use, "Whole GPUs", "Busy", "Whole GPUs: a month", "Saved"], rows)


def _ranged(row: pd.Series, name: str, one: Callable[[float], str], both: Callable[[float, float], str]) -> str:
    return f"<b>{one(row[name])}</b>" + _spread(row, name, both, '<br><span class="soft">{}</span>')


def price_table(presets: Iterable[Preset]) -> str:
    """Prices of GPUs with their dates and sources."""
    rows = [
        f'<tr><th scope="row">{escape(p.gpu)}</th><td class="text">{escape(p.provider)}</td><td class="text">'
        f'{escape(p.product)}</td><td>${p.usd_per_hour:.3f}</td><td class="text">{p.billing}</td><td>{p.sold_in}</td>'
        f'<td>{p.as_of}</td><td>{p.confidence}</td><td class="text wrap">{escape(p.source)}</td></tr>'
        for p in presets
    ]
    columns = ["GPU", "Provider", "Product", "Per hour", "Billing", "Sold in", "As of", "Confidence", "Source"]
    return markup.table(columns, rows, text={"Provider", "Product", "Billing", "Source"})


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


def cost_cards(table: pd.DataFrame, choice: Pricing, equal: Equality) -> list[tuple[str, str, str]]:
    """The baseline's cost, the chosen lane's, and what that saves and at what quality; what there is of it."""
    chosen = table[table["is_baseline"] | (table["lane"] == choice.lane)].sort_values("is_baseline", ascending=False)
    cards = [_cost_card(row, choice) for _, row in chosen.iterrows()]
    row = chosen.iloc[-1]
    if row["is_baseline"] or not known(row["saving_usd"]):
        return cards
    note = percent(row["saving_share"]) + _spread(row, "saving_share", percent_range)
    note += _spread(row, "saving_usd", money_range)
    saved = f"Saved a month{_quality(equal, choice.lane)}"
    cards.append((f"{saved}, by use ({choice.work.utilisation:.0%} busy)", money(row["saving_usd"]), note))
    before, after = int(chosen.iloc[0]["gpus"]), int(row["gpus"])
    note = f"{before} → {after} GPUs" + (", once given back" if after < before else "")
    note += _spread(row, "fleet_saving_usd", money_range)
    return [*cards, (f"{saved}, whole GPUs ({row['fleet_busy']:.0%} busy)", money(row["fleet_saving_usd"]), note)]


def _quality(equal: Equality, lane: str) -> str:
    if equal.as_good(lane):
        return " at equal quality"
    return " at worse quality" if equal.words.get(lane) == "worse" else ", quality not known"


def _spread(row: pd.Series, name: str, both: Callable[[float, float], str], form: str = "; range {}") -> str:
    ends = both(row[f"{name}_low"], row[f"{name}_high"])
    return "" if ends == NONE else form.format(ends)


def _cost_card(row: pd.Series, choice: Pricing) -> tuple[str, str, str]:
    stated = row["is_baseline"] and choice.seconds is not None
    interval = money_range(row["usd_month_low"], row["usd_month_high"])
    note = "at the seconds entered" if stated else interval_note(row["n"], interval, row["settled"])
    name = f"{'Baseline, ' if row['is_baseline'] else ''}{row['label']}, a month"
    return name, money(row["usd_month"]), f"{note}; {money(row['usd_1k'])} per 1,000 images"
