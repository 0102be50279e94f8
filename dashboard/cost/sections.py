"""The sections of the Cost page."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from dashboard import components
from dashboard.cost import controls
from dashboard.cost.data import Equality
from engine.analysis.cost import MONTH_SECONDS, Clip, Preset, Pricing, Rate, Workload, price_lanes
from engine.analysis.energy_use import energy_per_image
from engine.analysis.recommendation import WORDS
from engine.display import html
from engine.display.cost_charts import MARKS, cost_chart
from engine.display.energy_tables import energy_table
from engine.display.formats import NONE, interval_note, known, money, money_range, number, percent, percent_range
from engine.display.headline import Figure
from engine.display.tables import cost_table
from engine.results import Results

_OTHER_GPU = (
    "The times were measured on {device}; times on the {gpu} are unknown. Enter the seconds per image of {name} on "
    "that GPU above, and the other lanes are scaled by the measured ratio. Or choose 'My own price' to price {device}."
)
_BILLING = {
    "serverless": " Billed by the second: the figures by use apply.",
    "spot": " Can be interrupted at any time.",
}
_NO_RATIO = "Without its time there is no ratio to scale by. Clear the seconds per image, or time the baseline too."


def choose_pricing(table: pd.DataFrame, presets: list[Preset], cheapest: str, frames: int) -> Pricing:
    """The inputs of the Cost page, except the switch for equal quality.

    Args:
        table: The times of the lanes that can be chosen, and of the baseline.
        presets: Known prices.
        cheapest: The recommended lane; "" if there is none.
        frames: Frames per clip; 1 for pictures, which need no frames per second.
    """
    keys = {preset.key: preset for preset in presets}
    names = {key: f"{p.gpu}, {p.provider} {p.product}: ${p.usd_per_hour:.2f} ({p.as_of})" for key, p in keys.items()}
    names = {controls.OWN: "My own price", **names}
    device = table["device_name"].iloc[0]
    measured = controls.preset_of(device, presets)
    others = table[~table["is_baseline"]]
    left, middle, right, end = st.columns([1.5, 2.6, 1.5, 1.5], vertical_alignment="bottom")
    with left:
        lane = controls.choose_lane(dict(zip(others["lane"], others["label"], strict=True)), cheapest)
    with middle:
        preset = keys.get(controls.choose_preset(names, measured.key if measured else controls.OWN))
    controls.forget_seconds_of_another_gpu(preset.gpu if preset else "")
    with right:
        placeholder = "as measured" if preset is None or preset.device == device else "needed"
        first = controls.choose_number(controls.PRICE if preset is None else controls.SECONDS, placeholder)
    with end:
        images = controls.choose_number(controls.IMAGES)
    more = [controls.BUSY, controls.PEAK, controls.WAIT, *([controls.SECONDS] if preset is None else [])]
    more += [controls.FPS] if frames > 1 else []
    numbers = []
    with st.expander("Utilisation, peak and waiting time", key="load"):
        for column, field in zip(st.columns(len(more)), more, strict=True):
            with column:
                numbers.append(controls.choose_number(field, placeholder))
        st.html(html.soft(f"The month's average is {images / MONTH_SECONDS:.3g} images per second."))
    busy, peak, wait, *others_asked = numbers
    clip = Clip(frames, others_asked.pop()) if frames > 1 else None
    seconds = first if preset else others_asked[0]
    rate = Rate(preset.usd_per_hour, preset.sold_in) if preset else Rate(first)
    return Pricing(preset, rate, Workload(images, busy / 100, peak, wait), seconds, lane, clip)


def costs(table: pd.DataFrame, choice: Pricing, equal: Equality, worth: str) -> None:
    """The costs: cards, quality of the saving, charts and table; or why the times can't be priced."""
    baseline = table[table["is_baseline"]]
    name, device = "the baseline" if baseline.empty else baseline["label"].iloc[0], str(table["device_name"].iloc[0])
    if not choice.fits(device):
        gpu = choice.preset.gpu if choice.preset else "GPU"
        st.html(
            html.note(
                f"How long does an image take on the {gpu}?", _OTHER_GPU.format(device=device, gpu=gpu, name=name)
            )
        )
        return
    if choice.seconds is not None and baseline.empty:
        st.html(html.note("The baseline has not been timed here", _NO_RATIO))
        return
    priced = price_lanes(table, choice.rate, choice.work, choice.seconds, choice.clip)
    st.html(html.soft(_basis(choice, device, name)))
    st.html(html.figures(_cards(priced, choice, equal)))
    st.html(html.soft(worth))
    titles = ("Paid by use (US dollars a month)", "Whole GPUs (US dollars a month)")
    parts = zip(st.columns(2, gap="large"), ("usd_month", "fleet_usd"), titles, strict=True)
    for column, figure, title in parts:
        with column:
            st.html(html.legend(MARKS))
            components.chart(cost_chart, priced, figure, title, alt=f"{title} of each lane, as in the table below")
    st.html(html.table(cost_table(priced, equal.words)))
    components.timing_footer(priced, "ranges from the 95 % bootstrap intervals of the times")
    if (table["settled"] != "settled").any():
        st.html(html.soft(components.UNSETTLED_NOTE))


def energy(study: Results, table: pd.DataFrame) -> float | None:
    """What the lanes take of energy where their times were taken, or why that is not known.

    Returns:
        The price of electricity, if there is one.
    """
    used = energy_per_image(study.samples, table)
    if used.watt_hours.empty:
        st.html(html.soft(f"Energy: {used.source}."))
        return None
    left, _ = st.columns([1.5, 5.6])
    with left:
        price: float | None = controls.choose_number(controls.KWH, "optional")
    st.html(html.table(energy_table(used.watt_hours, price)))
    st.html(html.soft(f"Energy counted by {used.source}, idle power included; mean with 95 % bootstrap interval."))
    return price


def _basis(choice: Pricing, device: str, baseline: str) -> str:
    """The machine whose times are priced, and the price."""
    preset, price = choice.preset, f"{money(choice.rate.usd_per_hour)} per GPU hour"
    if preset is None:
        gpu, of, price = "the priced GPU", "the priced machine", price + "; set it to what you pay."
    else:
        gpu, of = f"the {preset.gpu}", "the GPU of the price"
        price = f"{price} at {preset.provider} ({preset.product}) on {preset.as_of}.{_BILLING.get(preset.billing, '')}"
        price += f" Rented {preset.sold_in} at a time." if preset.sold_in > 1 else ""
    times = f"Times measured on {device}, assumed to be {of}."
    if choice.seconds is not None:
        times = (
            f"{baseline} takes {choice.seconds:g} s per image on {gpu}, as you entered; the other lanes are scaled by "
            f"the ratio measured on {device}. That ratio is an assumption: it differs between machines."
        )
    return f"{times} {price}"


def _cards(table: pd.DataFrame, choice: Pricing, equal: Equality) -> list[Figure]:
    """Cards with the cost of the baseline and the chosen lane, and the saving with its quality."""
    chosen = table[table["is_baseline"] | (table["lane"] == choice.lane)].sort_values("is_baseline", ascending=False)
    cards = [_cost_card(row, choice) for _, row in chosen.iterrows()]
    row = chosen.iloc[-1]
    if row["is_baseline"] or not known(row["saving_usd"]):
        return cards
    note = percent(row["saving_share"]) + _range(row, "saving_share", percent_range)
    note += _range(row, "saving_usd", money_range)
    saved = f"Saved a month{_quality(equal, choice.lane)}"
    cards.append(Figure(f"{saved}, by use ({choice.work.utilisation:.0%} busy)", money(row["saving_usd"]), note))
    before, after = int(chosen.iloc[0]["gpus"]), int(row["gpus"])
    note = f"{before} → {after} GPUs" + (", once released" if after < before else "")
    note += _range(row, "fleet_saving_usd", money_range)
    fleet = f"{saved}, whole GPUs ({row['fleet_busy']:.0%} busy)"
    return [*cards, Figure(fleet, money(row["fleet_saving_usd"]), note)]


def _quality(equal: Equality, lane: str) -> str:
    if equal.as_good(lane):
        return " at equal quality"
    return " at worse quality" if equal.words.get(lane) == WORDS["dropped"] else ", quality not known"


def _range(row: pd.Series, name: str, both: Callable[[float, float], str]) -> str:
    ends = both(row[f"{name}_low"], row[f"{name}_high"])
    return "" if ends == NONE else f"; range {ends}"


def _cost_card(row: pd.Series, choice: Pricing) -> Figure:
    stated = row["is_baseline"] and choice.seconds is not None
    interval = money_range(row["usd_month_low"], row["usd_month_high"])
    note = "at the seconds entered" if stated else interval_note(row["n"], interval, row["settled"])
    name = f"{'Baseline, ' if row['is_baseline'] else ''}{row['label']}, a month"
    each = f"{money(row['usd_1k'])} per 1,000 {'clips' if choice.clip else 'images'}"
    if choice.clip:
        each += f"; {number(row['video_usd'])} s of video per $, {number(row['video_hour'])} s per busy hour"
    return Figure(name, money(row["usd_month"]), f"{note}; {each}")
