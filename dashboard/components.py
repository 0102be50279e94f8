"""What several pages show: charts, the choice of environment and batch size, failed cells, lines under figures."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import state
from engine.analysis.timing_summary import MAX_DRIFT, MAX_SPREAD
from engine.display import html
from engine.display.formats import batch_of, count, when
from engine.display.tables import ShownLane, failure_table
from engine.results import Results

NOT_TIMED = "Nothing has been timed yet; `python -m engine run` times the lanes after the images."
UNSETTLED_NOTE = (
    f"Settled: the halves of the samples differ by less than {MAX_DRIFT:.0%} and the middle half of them spans less "
    f"than {MAX_SPREAD:.0%} of the median. Otherwise time again on a quiet machine, with more repeats."
)


def chart(draw: Callable[..., Any], *arguments: Any, alt: str) -> None:
    """A chart, built only for new data: building and checking one takes longer than the rest of a page.

    Args:
        draw: A function of a module that makes an Altair chart of the arguments.
        arguments: Tables and plain values.
        alt: What the chart shows, for screen readers.
    """
    st.vega_lite_chart(spec=_drawn(f"{draw.__module__}.{draw.__qualname__}", arguments, draw), alt=alt)


@st.cache_data(show_spinner=False, max_entries=128, max_size=16 * 2**20)
def _drawn(name: str, arguments: tuple[Any, ...], _draw: Callable[..., Any]) -> dict[str, Any]:
    spec: dict[str, Any] = _draw(*arguments).to_dict()
    return spec


def pick_times(study: Results) -> Results:
    """The study, seen with the times of one environment and batch size; pickers appear where there are several."""
    table = study.timings
    if table.empty:
        return study
    names = study.timed_environments
    sizes = sorted(int(size) for size in table["batch_size"].unique())
    if len(names) == 1 and len(sizes) == 1:
        return study.timed_at(next(iter(names)), sizes[0])
    left, right, _ = st.columns([2, 1, 3])
    with left:
        environment_id = state.choose_environment(names)
    here = table[table["environment_id"] == environment_id]
    with right:
        batch_size = state.choose_batch_size(sorted(map(int, here["batch_size"].unique())))
    return study.timed_at(environment_id, batch_size)


def extent(counts: pd.Series) -> str:
    """E.g. "n = 5", "n = 3 to 5"."""
    low, high = int(counts.min()), int(counts.max())
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def timing_footer(table: pd.DataFrame, interval: str) -> None:
    """The line under each timing figure."""
    batch, device = batch_of(table["batch_size"].iloc[0]), str(table["device_name"].iloc[0])
    st.html(html.footer([f"{extent(table['n'])} per lane", interval, batch, device, when(table["last_at"].max())]))


def scheduler_names(study: Results) -> dict[str, str]:
    """The schedulers of a study's lanes: key -> name, in the lanes' order."""
    cells = study.cells.drop_duplicates("scheduler")
    known = dict(zip(cells["scheduler"], cells["scheduler_label"].astype(str), strict=True))
    return {lane.scheduler: known.get(lane.scheduler, lane.scheduler) for lane in study.lanes}


def footer(*parts: str) -> None:
    """The line under a figure made of images: n and interval; where and when they were made stands above the page."""
    st.html(html.footer(parts))


def image_places(study: Results) -> list[str]:
    """Where and when the images were made."""
    names = list(dict.fromkeys(study.environments["device_name"].astype(str)))
    made = study.cells["created_at"]
    return [", ".join(names), when(made.max()) if len(made) else ""]


def with_names(table: pd.DataFrame, lanes: Iterable[ShownLane]) -> pd.DataFrame:
    """Adds label and scheduler of each row's lane."""
    names = {lane.key: lane for lane in lanes}
    return table.assign(
        label=[names[key].label for key in table["lane"]], scheduler=[names[key].scheduler for key in table["lane"]]
    )


def failed_cells(study: Results, most: int) -> None:
    """Failed cells with their errors; nothing if there are none."""
    failed = study.failures
    if failed.empty:
        return
    shown = failed.head(most)
    first = "" if len(shown) == len(failed) else f"The first {most} of {len(failed)}."
    st.html(html.heading(count(len(failed), "failed cell"), first))
    st.html(html.table(failure_table(shown, study.lane_labels)))
    footer(f"n = {study.total} cells")
