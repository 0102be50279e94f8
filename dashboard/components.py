"""Sections that pages are put together from: the Streamlit edge round markup, charts and loaders."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from dashboard import charts, loaders, markup, state
from dashboard.formats import count, cut, duration, duration_range, known, ratio, ratio_range, when
from dashboard.loaders import Picture
from dashboard.options import Options
from dashboard.page import require
from dashboard.studies import LaneView, StudyView
from engine.analysis.cost import MONTH_SECONDS, Preset, Pricing, Rate, Workload, price_lanes
from engine.analysis.timing import MAX_DRIFT, MAX_SPREAD

PICTURE_PROMPTS = 4
SHOWN_FAILURES = 20


def key_figures(study: StudyView, table: pd.DataFrame) -> None:
    """The figures to see first: what was run, the baseline's time, the fastest other lane's and its speed-up."""
    items = [("Cells done", f"{study.progress.done} of {study.total}", _extent(study))]
    items += [_time_figure("Baseline", row) for _, row in table[table["is_baseline"]].iterrows()]
    for _, row in table[~table["is_baseline"]].head(1).iterrows():
        items.append(_time_figure("Fastest other" if table.iloc[0]["is_baseline"] else "Fastest", row))
        if known(row["speedup"]):
            low, high = row["speedup_low"], row["speedup_high"]
            note = markup.interval_note(row["n"], ratio_range(low, high), row["settled"])
            items.append(("Its speed-up against the baseline", ratio(row["speedup"]), note))
    st.html(markup.figures(items))


def _extent(study: StudyView) -> str:
    parts = (count(len(study.lanes), "lane"), count(len(study.prompts), "prompt"), count(len(study.seeds), "seed"))
    failed, missing = study.progress.failed, study.progress.missing
    notes = [" × ".join(parts), f"{failed} failed" if failed else "", f"{missing} not run" if missing else ""]
    return ", ".join(note for note in notes if note)


def _time_figure(rank: str, row: pd.Series) -> tuple[str, str, str]:
    note = markup.interval_note(row["n"], duration_range(row["low_ms"], row["high_ms"]), row["settled"])
    return f"{rank}, {row['label']}", duration(row["median_ms"]), note


def pick_timings(study: StudyView) -> pd.DataFrame:
    """Timing summaries of one environment and batch size; pickers appear where there are several."""
    table = study.timings
    if table.empty:
        return table
    names = study.environments_timed()
    sizes = sorted(int(size) for size in table["batch_size"].unique())
    if len(names) == 1 and len(sizes) == 1:
        return table
    left, right, _ = st.columns([2, 1, 3])
    with left:
        table = table[table["environment_id"] == state.choose_environment(names)]
    with right:
        table = table[table["batch_size"] == state.choose_batch_size(sorted(map(int, table["batch_size"].unique())))]
    return table


def times(study: StudyView, table: pd.DataFrame) -> None:
    """Measured times: chart, stage split and table."""
    st.html(markup.heading("Time per lane", _TIME_NOTE))
    if table.empty:
        st.html(markup.soft(NOT_TIMED))
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.html(markup.legend("Mark: median. Thick bar: 95 % interval. Dashed: baseline."))
        st.altair_chart(charts.time_chart(table), alt="Median time of each lane, as in the table below")
        st.html(timing_footer(table, "95 % bootstrap interval of the median"))
    with right:
        st.html(markup.stage_legend())
        st.altair_chart(charts.stage_chart(table), alt="Median time of each stage, stacked for each lane")
        st.html(timing_footer(table, "medians of each stage by itself"))
    st.html(markup.timing_table(table))
    st.html(timing_footer(table, "95 % bootstrap intervals of the median and of the ratio of medians"))
    if (table["settled"] != "settled").any():
        st.html(markup.soft(_UNSETTLED_NOTE))


NOT_TIMED = "Nothing has been timed yet; `python -m engine run` times the lanes after the images."
_TIME_NOTE = "Each lane by itself, fastest first. How good the images are: python -m engine claims."
_UNSETTLED_NOTE = (
    f"Settled: the halves of the samples differ by less than {MAX_DRIFT:.0%} and the middle half of them spans less "
    f"than {MAX_SPREAD:.0%} of the median. Otherwise time again on a quiet machine, with more repeats."
)


def timing_footer(table: pd.DataFrame, interval: str) -> str:
    """The line under each timing figure."""
    low, high = int(table["n"].min()), int(table["n"].max())
    batch = int(table["batch_size"].iloc[0])
    return markup.footer([
        f"n = {low} per lane" if low == high else f"n = {low} to {high} per lane",
        interval,
        f"batch of {batch}" if batch > 1 else "one image at a time",
        str(table["device_name"].iloc[0]),
        when(table["last_at"].max()),
    ])  # fmt: skip


def final_pictures(chosen: Options, study: StudyView) -> None:
    """A few final pictures of every lane at the first seed; each leads to the Compare page."""
    if not study.prompts or not study.seeds:
        return
    prompts, seed = study.prompts[:PICTURE_PROMPTS], study.seeds[0]
    cells = [study.cell(lane.key, prompt, seed) for prompt in prompts for lane in study.lanes]
    ids = [cell.trajectory_id for cell in cells if cell.state == "done"]
    answer = require(lambda: loaders.pictures(chosen.cache, ids, ["final"]))
    found = {picture.trajectory_id: picture for picture in answer.value}
    rows = [(prompt, [_final(study, lane, prompt, seed, found) for lane in study.lanes]) for prompt in prompts]
    st.html(
        markup.heading("Final images", "Each row has one prompt, seed and starting noise. A picture opens Compare.")
    )
    st.html(markup.picture_grid(study.lanes, rows))
    extent = f"{len(prompts)} of {count(len(study.prompts), 'prompt')}"
    st.html(markup.footer([extent, f"seed {seed}", *image_places(study)]))


def image_places(study: StudyView) -> list[str]:
    """Where and when the images were made."""
    names = list(dict.fromkeys(study.data.environments["device_name"].astype(str)))
    made = study.data.cells["created_at"]
    return [", ".join(names), when(made.max()) if len(made) else ""]


def _final(study: StudyView, lane: LaneView, prompt: str, seed: int, found: Mapping[str, Picture]) -> str:
    cell = study.cell(lane.key, prompt, seed)
    picture = found.get(cell.trajectory_id)
    if picture is None:
        return markup.gap(cell.reason)
    alt = f"{lane.label}, final image of '{cut(prompt, state.PROMPT_CHARACTERS)}', seed {seed}"
    return markup.picture(picture.source, alt, picture.width, state.compare_choices(study, prompt, seed))


def outcome(study: StudyView) -> None:
    """Cells of each lane by outcome, where not all are done."""
    if study.progress.failed or study.progress.missing:
        st.html(markup.heading("What was run", "Cells of each lane: every prompt with every seed."))
        st.html(markup.lane_table(study.lanes, study.counts, study.baseline))
        st.html(markup.footer([f"n = {study.total} cells", *image_places(study)]))


def failures(study: StudyView) -> None:
    """Failed cells with their errors; nothing if there are none."""
    failed = study.failures
    if failed.empty:
        return
    labels = {lane.key: lane.label for lane in study.lanes}
    shown = failed.head(SHOWN_FAILURES)
    note = "" if len(shown) == len(failed) else f"The first {SHOWN_FAILURES} of {len(failed)}."
    st.html(markup.heading(count(len(failed), "failed cell"), note))
    st.html(
        markup.failure_table(
            (labels.get(row.study_lane, row.study_lane), row.prompt, int(row.seed), str(row.error or ""))
            for row in shown.itertuples()
        )
    )
    st.html(markup.footer([f"n = {study.total} cells", *image_places(study)]))


def choose_pricing(table: pd.DataFrame, presets: list[Preset]) -> Pricing:
    """All that the Cost page asks of the reader, in one place."""
    keys = {preset.key: preset for preset in presets}
    names = {key: f"{p.gpu}, {p.provider} {p.product}: ${p.usd_per_hour:.2f} ({p.as_of})" for key, p in keys.items()}
    names = {state.OWN: "My own price", **names}
    device = table["device_name"].iloc[0]
    here = next((preset.key for preset in presets if preset.device == device), state.OWN)
    others = table[~table["is_baseline"]]
    left, middle, right, end = st.columns([1.5, 2.6, 1.5, 1.5], vertical_alignment="bottom")
    with left:
        lane = state.choose_lane(dict(zip(others["lane"], others["label"], strict=True))) if len(others) else ""
    with middle:
        preset = keys.get(state.choose_preset(names, here))
    state.forget_seconds_of_another_gpu(preset.gpu if preset else "")
    with right:
        placeholder = "as measured" if preset is None or preset.device == device else "needed"
        first = state.choose_number(state.PRICE if preset is None else state.SECONDS, placeholder)
    with end:
        images = state.choose_number(state.IMAGES)
    more = [state.BUSY, state.PEAK, state.WAIT, *([state.SECONDS] if preset is None else [])]
    numbers = []
    with st.expander("Utilisation, peak and waiting time", key="load"):
        for column, field in zip(st.columns(len(more)), more, strict=True):
            with column:
                numbers.append(state.choose_number(field, placeholder))
        st.html(markup.soft(f"The month's average is {images / MONTH_SECONDS:.3g} images per second."))
    busy, peak, wait, *stated = numbers
    seconds = first if preset else stated[0]
    rate = Rate(preset.usd_per_hour, preset.sold_in) if preset else Rate(first)
    return Pricing(preset, rate, Workload(images, busy / 100, peak, wait), seconds, lane)


def costs(table: pd.DataFrame, choice: Pricing) -> None:
    """What the lanes cost: cards, charts and table; or why the times cannot be priced."""
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
    st.html(markup.soft(markup.basis(choice, device, name)))
    st.html(markup.figures(markup.cost_cards(priced, choice)))
    st.html(markup.soft(_MONEY_ONLY))
    titles = ("Paid by use (US dollars a month)", "Whole GPUs, running all month (US dollars a month)")
    parts = zip(st.columns(2, gap="large"), ("usd_month", "fleet_usd"), titles, strict=True)
    for column, figure, title in parts:
        with column:
            st.html(
                markup.legend("Mark: at the median time. Thick bar: at the ends of its interval. Dashed: baseline.")
            )
            st.altair_chart(
                charts.cost_chart(priced, figure, title), alt=f"{title} of each lane, as in the table below"
            )
    st.html(markup.cost_table(priced))
    st.html(timing_footer(priced, "ranges from the 95 % bootstrap intervals of the times"))
    if (table["settled"] != "settled").any():
        st.html(markup.soft(_UNSETTLED_NOTE))


_OTHER_GPU = (
    "The times were measured on {device}; what they would be on the {gpu} is not known. Enter the seconds per image of "
    "{name} on that GPU above: the other lanes are then scaled by the measured ratio. Or choose 'My own price' to "
    "price {device}."
)
_NO_RATIO = "Without its time there is no ratio to scale by. Empty the field of its seconds, or time the baseline too."
_MONEY_ONLY = (
    "Money only: whether a lane's images are as good as the baseline's is not part of these figures. GPUs that run all "
    "the time cost the same until some are given back: then the figure in whole GPUs holds."
)
