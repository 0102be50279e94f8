"""Cost: what each lane costs on a rented GPU, and what it saves against the baseline."""

import streamlit as st

from dashboard import components, loaders, page, state
from dashboard.cost import controls, sections
from dashboard.cost.data import clip_length, equality, explained
from engine.display import html
from engine.display.tables import price_table

METHOD = (
    "Seconds per image: the measured time of a batch, all stages, divided by the images in it.",
    "Seconds of video, where a study makes clips: frames ÷ frames per second. Per busy hour: 3,600 × seconds of video "
    "÷ seconds per clip. Per dollar: those × utilisation ÷ price per hour. A clip counts as an image everywhere else.",
    "By use: price per hour × seconds per image ÷ 3,600 ÷ utilisation. A month has 730 hours.",
    "Whole GPUs: the fewest with which 95 % of the images at the peak wait no longer than asked (Erlang C: requests "
    "come at random, one queue for all GPUs). It takes the time of an image as random too, which overstates waiting. "
    "Paid for all 730 hours, in the packs the GPU is sold in. Without a peak: the month's busy hours ÷ utilisation ÷ "
    "730, rounded up. Spares for failures are not counted, nor is the time in which a batch fills up.",
    "Equal quality: every guard of the decision has shown that the lane is as good as the baseline, with the bounds "
    "fixed before; the Overview says how.",
    "Saved: baseline less lane. Its range is taken over the ends of the 95 % intervals of the baseline's time and of "
    "the ratio of the times.",
    "If the baseline's seconds are entered, each lane takes those seconds ÷ its measured speed-up. That ratio is an "
    "assumption on any machine but the one it was measured on.",
    "Not counted: disk, traffic, tax, staff, start-up times, discounts. The price of a rented GPU contains energy.",
    "Energy: joules that the device counted during the timed calls, idle power included, divided by the images: the "
    "mean over the samples. On a GPU it is the GPU's alone, on a CPU that of all processors and their memory, whoever "
    "used them; cooling and power supply come on top. NVML's counter moves about ten times a second, so that calls "
    "below a second are told only by many samples together.",
    "Prices are per GPU and hour, as read on the day given; look them up before relying on them. Confidence: A from "
    "the provider's price interface, B transcribed from the provider's page, C from an article.",
)

chosen, study = page.open_study()
study = components.pick_times(study)
timings = study.times
address = {}
if timings.empty:
    st.html(html.note("Nothing can be priced yet", components.NOT_TIMED))
else:
    presets = page.require(loaders.gpu_prices).value
    equal = equality(study)
    asked = bool(equal.cheapest)
    only_equal = asked and controls.choose_equal()
    frames = page.require_all(chosen.cache, clip_length(study.id))[0]
    choice = sections.choose_pricing(timings, presets, equal, only_equal, frames)
    sections.costs(timings, choice, equal, explained(equal, study, choice.lane))
    electricity = sections.energy(study, timings)
    with st.expander("How these figures come about, and where the prices are from"):
        st.html(html.method(METHOD))
        st.html(html.table(price_table(presets)))
    address = controls.price_choices(choice) | {"equal": str(int(only_equal)) if asked else ""}
    address["kwh"] = "" if electricity is None else f"{electricity:.10g}"
state.keep_in_address(study=study.id, **address)
