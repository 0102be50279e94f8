"""The sections of the Tune page."""

from collections.abc import Sequence

import streamlit as st

from dashboard import components
from dashboard.tune.data import curves, placed
from engine.display import html
from engine.display.tuned_charts import placement_chart
from engine.display.tuned_words import sentences, tuned_table
from engine.sharing.snippet import snippet
from engine.study.tuned import TunedSchedule

COMMAND = "python -m engine tune --model M --scheduler dpmpp_2m --steps 10"
METHOD = (
    "Recorded: converged trajectories of the prompts of the search. A step of the solver from one recorded level to "
    "another takes no call; its distance to the record is the local error. What is left of an error at the end, the "
    "gain, is measured by runs from recorded states with an error on top.",
    "Searched: the path with the smallest sum of local errors times gains, and known schedules, are raced; the best "
    "two are refined by moving one level after another, and a move stays only if real runs confirm it.",
    "Chosen by other prompts, and tested on others again, which the search has not seen.",
    "It holds for this model, guidance, picture size, solver and number of steps.",
)


def nothing(problems: Sequence[str]) -> None:
    """What to do where there is none yet."""
    st.html(html.note("No schedule has been tuned yet", f"`{COMMAND}` finds one, and proves it."))
    broken(problems)


def broken(problems: Sequence[str]) -> None:
    """Files that are left out."""
    for problem in problems:
        st.html(html.soft(problem))


def worth(tuned: TunedSchedule) -> None:
    """For what it holds, and what it is worth."""
    size = f"{tuned.width} x {tuned.height} px"
    facts = [tuned.model, f"guidance {tuned.guidance_scale:g}", size, f"lane {tuned.lane}"]
    st.html(html.heading(tuned.name, " · ".join(facts)))
    st.html(html.prose(*sentences(tuned)))
    st.html(html.table(tuned_table(tuned)))


def placement(tuned: TunedSchedule) -> None:
    """Where the calls lie, and why."""
    levels = placed(tuned)
    if levels.empty:
        return
    st.html(html.heading("Where it puts its calls", "a mark a call; noise on the left, the picture on the right"))
    alt = "Noise levels of the calls of each schedule, over curves of local error and gain."
    components.chart(placement_chart, levels, curves(tuned), alt=alt)


def paste(tuned: TunedSchedule) -> None:
    """The lines for plain diffusers."""
    st.html(html.heading("For plain diffusers", "copy, and paste it anywhere"))
    st.code(snippet(tuned), language="python")
