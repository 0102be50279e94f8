"""The section of the Phases page about changes of prompt: from which point on the picture is decided."""

import streamlit as st

from dashboard import components
from dashboard.options import Options
from dashboard.page import require
from dashboard.phases import loading
from dashboard.phases.choices import Choice
from dashboard.phases.loading import Pictures
from dashboard.studies import LaneView, StudyView
from engine.analysis.commitment import Commitment
from engine.display import html
from engine.display.formats import count, cut, when
from engine.display.phase_charts import commitment_chart
from engine.display.phase_tables import commitment_table, swap_table
from engine.display.tables import name_of

NONE_YET = (
    "Not measured in this study. `python -m engine run commitment` exchanges the prompt at several points of the run; "
    "any study does with a `[commitment]` table."
)


def commitment(chosen: Options, study: StudyView, choice: Choice) -> None:
    """When a run is committed to its prompt."""
    st.html(
        html.heading(
            "When the picture is decided",
            "A run begins with one prompt and goes on with another. "
            "As long as the picture shows the second, nothing was decided yet.",
        )
    )
    answer = require(lambda: loading.changes(chosen.cache, study.id))
    found, pictures = answer.value.found, answer.value.pictures
    if found is None:
        st.html(html.soft(NONE_YET))
        return
    lanes = [lane for lane in study.lanes if lane.key in choice.lanes and lane.key in set(found.curve["lane"])]
    if not lanes:
        st.html(html.soft("Measured, but not of these lanes."))
        return
    measured = found.curve[found.curve["lane"].isin([lane.key for lane in lanes])]
    curve = components.with_names(measured, lanes)
    left, right = st.columns([1, 1.15], gap="large")
    with left:
        st.html(html.legend(marks=map(name_of, lanes)))
        title = f"Runs that keep to their first prompt (by {found.by})"
        components.chart(commitment_chart, curve, title, alt=f"{title}, over the log-SNR at which the prompt changed")
        st.html(_footer(found, "95 % intervals over pairs"))
    with right:
        st.html(html.table(commitment_table(lanes, found)))
        st.html(
            _footer(
                found,
                "middle between the changes of prompt on either side; means over pairs, 95 % bootstrap "
                "intervals; left out: runs that follow the first or the second prompt throughout",
            )
        )
    _example(found, lanes, pictures, choice)


def _example(found: Commitment, lanes: list[LaneView], pictures: Pictures, choice: Choice) -> None:
    """The final pictures of one pair of prompts: that of the chosen prompt and seed, if there is one."""
    pairs = list(dict.fromkeys((first, second, seed) for _, first, second, seed, _ in pictures))
    if not pairs:
        return
    asked = min(pairs, key=lambda pair: (choice.prompt not in pair[:2], choice.seed != pair[2]))
    shown = {(lane, share): source for (lane, *pair, share), source in pictures.items() if tuple(pair) == asked}
    first, second = (cut(prompt, 60) for prompt in asked[:2])
    st.html(html.soft(f"“{first}” for a share of the calls, then “{second}”; seed {asked[2]}:"))
    shares = sorted({share for _, share in shown})
    st.html(html.table(swap_table(lanes, shares, shown, (first, second))))
    st.html(_footer(found, "one pair as an example"))


def _footer(found: Commitment, interval: str) -> str:
    pairs, runs = int(found.curve["pairs"].max()), int(found.curve["runs"].max())
    failed = f"{count(found.failed, 'run')} failed" if found.failed else ""
    extent = f"n = {count(pairs, 'pair')} of prompts, {count(runs, 'run')} at each point"
    return html.footer([extent, failed, interval, ", ".join(found.places), when(found.made)])
