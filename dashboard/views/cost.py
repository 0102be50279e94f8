"""Cost: what each lane costs on a rented GPU, and what it saves compared with the baseline."""

import streamlit as st

from dashboard import components, loaders, page, state
from dashboard.cost import controls, sections
from dashboard.cost.data import clip_length, equality, explained
from engine.display import html
from engine.display.tables import price_table

METHOD = (
    "Seconds per image: the measured time of a batch, all stages, divided by the images in it.",
    "Seconds of video, for clips: frames ÷ frames per second. Per busy hour: 3,600 × seconds of video ÷ seconds per "
    "clip. Per dollar: that × utilisation ÷ price per hour. Elsewhere a clip counts as an image.",
    "By use: price per hour × seconds per image ÷ 3,600 ÷ utilisation. A month has 730 hours.",
    "Whole GPUs: the fewest with which 95 % of the images at peak wait no longer than the given time (Erlang C: random "
    "arrivals, one queue for all GPUs). It also treats the time per image as random, which overestimates waiting. Paid "
    "for all 730 hours, in the packs the GPU is sold in. Without a peak: the month's busy hours ÷ utilisation ÷ 730, "
    "rounded up. Spares for failures and the time to fill a batch are not counted.",
    "Equal quality: every guard of the decision has shown that the lane is as good as the baseline, with bounds fixed "
    "in advance; see Speed and quality.",
    "Saved: baseline minus lane. The range covers the ends of the 95 % intervals of the baseline's time and of the "
    "ratio of the times.",
    "If the baseline's seconds are entered, each lane takes those seconds ÷ its measured speed-up. That ratio is an "
    "assumption on any machine other than the measured one.",
    "Not counted: disk, traffic, tax, staff, start-up times, discounts. The price of a rented GPU includes energy.",
    "Energy: joules that the device counted during the timed calls, idle power included, divided by the images: the "
    "mean over the samples. On a GPU it is the GPU's alone; on a CPU that of all processors and their memory, whoever "
    "used them. Cooling and power supply losses are extra. NVML's counter is updated about ten times a second, so it "
    "takes many samples to resolve calls below a second.",
    "Prices are per GPU and hour, as read on the given day; check them before relying on them. Confidence: A from the "
    "provider's price API, B transcribed from the provider's page, C from an article.",
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
    shown = timings[timings["is_baseline"] | timings["lane"].map(equal.as_good)] if only_equal else timings
    choice = sections.choose_pricing(shown, presets, equal.cheapest, frames)
    sections.costs(shown, choice, equal, explained(equal, study, choice.lane))
    electricity = sections.energy(study, timings)
    with st.expander("How these figures are computed, and where the prices are from"):
        st.html(html.method(METHOD))
        st.html(html.table(price_table(presets)))
    address = controls.price_choices(choice) | {"equal": str(int(only_equal)) if asked else ""}
    address["kwh"] = "" if electricity is None else f"{electricity:.10g}"
state.keep_in_address(study=study.id, **address)
