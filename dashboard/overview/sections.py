"""The sections of the Overview."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from dashboard import components, loaders, markup, state
from dashboard.loaders import Picture
from dashboard.options import Options
from dashboard.overview.markup import failure_table, lane_table, picture_grid, stage_legend, timing_table
from dashboard.page import require
from dashboard.studies import LaneView, StudyView
from engine.display.formats import count, cut, duration, duration_range, known, ratio, ratio_range
from engine.display.timing_charts import stage_chart, time_chart

PICTURE_PROMPTS = 4
SHOWN_FAILURES = 20
_TIME_NOTE = "Each lane by itself, fastest first. How good the images are: python -m engine claims."


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


def times(study: StudyView, table: pd.DataFrame) -> None:
    """Measured times: chart, stage split and table."""
    st.html(markup.heading("Time per lane", _TIME_NOTE))
    if table.empty:
        st.html(markup.soft(components.NOT_TIMED))
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.html(markup.legend("Mark: median. Thick bar: 95 % interval. Dashed: baseline."))
        st.altair_chart(time_chart(table), alt="Median time of each lane, as in the table below")
        st.html(components.timing_footer(table, "95 % bootstrap interval of the median"))
    with right:
        st.html(stage_legend())
        st.altair_chart(stage_chart(table), alt="Median time of each stage, stacked for each lane")
        st.html(components.timing_footer(table, "medians of each stage by itself"))
    st.html(timing_table(table))
    st.html(components.timing_footer(table, "95 % bootstrap intervals of the median and of the ratio of medians"))
    if (table["settled"] != "settled").any():
        st.html(markup.soft(components.UNSETTLED_NOTE))


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
    st.html(picture_grid(study.lanes, rows))
    extent = f"{len(prompts)} of {count(len(study.prompts), 'prompt')}"
    st.html(markup.footer([extent, f"seed {seed}", *components.image_places(study)]))


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
        st.html(lane_table(study.lanes, study.counts, study.baseline))
        st.html(markup.footer([f"n = {study.total} cells", *components.image_places(study)]))


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
        failure_table(
            (labels.get(row.study_lane, row.study_lane), row.prompt, int(row.seed), str(row.error or ""))
            for row in shown.itertuples()
        )
    )
    st.html(markup.footer([f"n = {study.total} cells", *components.image_places(study)]))
