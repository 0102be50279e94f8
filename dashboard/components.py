"""What several pages show: the choice of environment and batch size, and the lines under figures."""

import pandas as pd
import streamlit as st

from dashboard import markup, state
from dashboard.studies import StudyView
from engine.analysis.timing import MAX_DRIFT, MAX_SPREAD
from engine.display.formats import when

NOT_TIMED = "Nothing has been timed yet; `python -m engine run` times the lanes after the images."
UNSETTLED_NOTE = (
    f"Settled: the halves of the samples differ by less than {MAX_DRIFT:.0%} and the middle half of them spans less "
    f"than {MAX_SPREAD:.0%} of the median. Otherwise time again on a quiet machine, with more repeats."
)


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


def image_places(study: StudyView) -> list[str]:
    """Where and when the images were made."""
    names = list(dict.fromkeys(study.data.environments["device_name"].astype(str)))
    made = study.data.cells["created_at"]
    return [", ".join(names), when(made.max()) if len(made) else ""]
