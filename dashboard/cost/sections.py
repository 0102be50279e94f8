"""The sections of the Cost page."""

import pandas as pd
import streamlit as st

from dashboard import components, markup
from dashboard.cost import choices
from dashboard.cost.equality import Equality
from dashboard.cost.markup import basis, cost_cards, cost_table
from engine.analysis.cost import MONTH_SECONDS, Preset, Pricing, Rate, Workload, price_lanes
from engine.display.cost_charts import cost_chart

_OTHER_GPU = (
    "The times were measured on {device}; what they would be on the {gpu} is not known. Enter the seconds per image of "
    "{name} on that GPU above: the other lanes are then scaled by the measured ratio. Or choose 'My own price' to "
    "price {device}."
)
_NO_RATIO = "Without its time there is no ratio to scale by. Empty the field of its seconds, or time the baseline too."


def choose_pricing(table: pd.DataFrame, presets: list[Preset], equal: Equality, only_equal: bool) -> Pricing:
    """All that the Cost page asks of the reader, in one place but for the choice of equal quality."""
    keys = {preset.key: preset for preset in presets}
    names = {key: f"{p.gpu}, {p.provider} {p.product}: ${p.usd_per_hour:.2f} ({p.as_of})" for key, p in keys.items()}
    names = {choices.OWN: "My own price", **names}
    device = table["device_name"].iloc[0]
    measured = choices.preset_of(device, presets)
    others = table[~table["is_baseline"]]
    others = others[others["lane"].map(equal.as_good)] if only_equal else others
    left, middle, right, end = st.columns([1.5, 2.6, 1.5, 1.5], vertical_alignment="bottom")
    with left:
        lane = choices.choose_lane(dict(zip(others["lane"], others["label"], strict=True)), equal.cheapest)
    with middle:
        preset = keys.get(choices.choose_preset(names, measured.key if measured else choices.OWN))
    choices.forget_seconds_of_another_gpu(preset.gpu if preset else "")
    with right:
        placeholder = "as measured" if preset is None or preset.device == device else "needed"
        first = choices.choose_number(choices.PRICE if preset is None else choices.SECONDS, placeholder)
    with end:
        images = choices.choose_number(choices.IMAGES)
    more = [choices.BUSY, choices.PEAK, choices.WAIT, *([choices.SECONDS] if preset is None else [])]
    numbers = []
    with st.expander("Utilisation, peak and waiting time", key="load"):
        for column, field in zip(st.columns(len(more)), more, strict=True):
            with column:
                numbers.append(choices.choose_number(field, placeholder))
        st.html(markup.soft(f"The month's average is {images / MONTH_SECONDS:.3g} images per second."))
    busy, peak, wait, *stated = numbers
    seconds = first if preset else stated[0]
    rate = Rate(preset.usd_per_hour, preset.sold_in) if preset else Rate(first)
    return Pricing(preset, rate, Workload(images, busy / 100, peak, wait), seconds, lane)


def costs(table: pd.DataFrame, choice: Pricing, equal: Equality, worth: str) -> None:
    """What the lanes cost: cards, what the saving is worth, charts and table; or why the times cannot be priced."""
    baseline = table[table["is_baseline"]]
    name, device = "the baseline" if baseline.empty else baseline["label"].iloc[0], str(table["device_name"].iloc[0])
    if not choice.fits(device):
        gpu = choice.preset.gpu if choice.preset else "GPU"
        st.html(
            markup.note(
                f"How long does an image take on the {gpu}?", _OTHER_GPU.format(device=device, gpu=gpu, name=name)
            )
        )
        return
    if choice.seconds is not None and baseline.empty:
        st.html(markup.note("The baseline has not been timed here", _NO_RATIO))
        return
    priced = price_lanes(table, choice.rate, choice.work, choice.seconds)
    st.html(markup.soft(basis(choice, device, name)))
    st.html(markup.figures(cost_cards(priced, choice, equal)))
    st.html(markup.soft(worth))
    titles = ("Paid by use (US dollars a month)", "Whole GPUs (US dollars a month)")
    parts = zip(st.columns(2, gap="large"), ("usd_month", "fleet_usd"), titles, strict=True)
    for column, figure, title in parts:
        with column:
            st.html(
                markup.legend("Mark: at the median time. Thick bar: at the ends of its interval. Dashed: baseline.")
            )
            components.chart(cost_chart, priced, figure, title, alt=f"{title} of each lane, as in the table below")
    st.html(cost_table(priced, equal.words))
    st.html(components.timing_footer(priced, "ranges from the 95 % bootstrap intervals of the times"))
    if (table["settled"] != "settled").any():
        st.html(markup.soft(components.UNSETTLED_NOTE))
