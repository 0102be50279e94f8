"""The sections of the Tune page."""

from collections.abc import Sequence

import streamlit as st

from dashboard import access, components
from dashboard.jobs import starting
from dashboard.jobs.form import TuneDraft
from dashboard.jobs.queue import Queue
from dashboard.options import Options
from dashboard.tune.data import curves, placed
from engine.display import html
from engine.display.tuned_charts import placement_chart
from engine.display.tuned_words import class_table, sentences, tuned_table
from engine.errors import LabError
from engine.sharing.snippet import snippet
from engine.study.custom_schedules import takes_coefficients
from engine.study.schedulers import SCHEDULERS
from engine.study.tunable import tunable_schedulers
from engine.study.tuned import TunedSchedule

COMMAND = "python -m engine tune --model bundled --scheduler dpmpp_2m --steps 10"
MODEL = (
    "`--model` is `bundled`, `gaussian`, a folder in diffusers format or a hub id; `--scheduler` any solver that takes "
    "lists of timesteps or sigmas; `--guidance` the scale of your pictures. A search takes minutes on the small models "
    "and a GPU for large ones, and goes on where it was if it is interrupted."
)
METHOD = (
    "Recorded: converged trajectories of the prompts of the search. A step of the solver from one recorded level to "
    "another takes no call; its distance to the record is the local error. What is left of an error at the end, the "
    "gain, is measured by runs from recorded states with an error on top.",
    "Searched: the path with the smallest sum of local errors times gains, and known schedules, are raced; the best "
    "two are refined for two rounds, then the better one alone, by moving one level after another; a move stays only "
    "if real runs confirm it.",
    "Chosen by other prompts, and tested on others again, which the search has not seen.",
    "It holds for this model, guidance, negative prompt, picture size, solver and number of steps.",
)


def nothing(problems: Sequence[str]) -> None:
    """Says that there is none yet."""
    st.html(html.note("No schedule has been tuned yet", "A search finds one for a model, and tests it."))
    broken(problems)


def start(chosen: Options, *, expanded: bool) -> None:
    """The form that starts a search where runs are allowed, and the command everywhere."""
    with st.expander("Tune a schedule", expanded=expanded, key="new_tuning"):
        if access.of_session(chosen).may_run and not starting.engine_lacks():
            st.button("Start the search", key="tune_start", type="primary", on_click=_start, args=(chosen, _draft()))
            if refused := st.session_state.pop("tune_refused", None):
                st.html(html.note("This search cannot be run", refused))
            st.html(html.soft("Or on the command line, with more options:"))
        st.code(COMMAND, language="bash")
        st.html(html.prose(MODEL))
    for job in reversed(Queue(chosen.cache).active()):
        if job.tune:
            st.html(html.soft(f"Run {int(job.number)}, {job.study}: {job.state}. The Runs page shows how far it is."))


def _draft() -> TuneDraft:
    """The search as the form has it."""
    columns = st.columns([2, 2, 1, 1, 1], vertical_alignment="bottom")
    with columns[0]:
        model = str(st.text_input("Model", "bundled", key="tune_model", help="bundled, gaussian, a folder or a hub id"))
    with columns[1]:
        names = tunable_schedulers()
        place = names.index("dpmpp_2m")
        label = {key: SCHEDULERS[key].label for key in names}
        solver = st.selectbox("Scheduler", names, place, format_func=label.__getitem__, key="tune_scheduler")
    with columns[2]:
        steps = st.number_input("Steps", 2, 100, 10, key="tune_steps")
    with columns[3]:
        guidance = st.number_input("Guidance", 0.0, 100.0, 2.0, step=0.5, key="tune_guidance")
    with columns[4]:
        tip = "The most that the test on unseen prompts may take, after the search."
        minutes = st.number_input("Test, minutes", 1, 10_000, 30, key="tune_minutes", help=tip)
    can_fit = takes_coefficients(SCHEDULERS[solver].target, SCHEDULERS[solver].overrides)
    columns = st.columns([4, 3], vertical_alignment="bottom")
    with columns[0]:
        negative = str(st.text_input("Negative prompt", key="tune_negative", placeholder="none"))
    with columns[1]:
        tip = "Fits coefficients that correct each step, and keeps them only if they help on other prompts."
        coefficients = st.checkbox("Fit coefficients", key="tune_coefficients", help=tip, disabled=not can_fit)
    return TuneDraft(
        model, str(solver), int(steps), float(guidance), int(minutes), negative, bool(coefficients) and can_fit
    )


def _start(chosen: Options, draft: TuneDraft) -> None:
    try:
        starting.tune(chosen, draft)
    except LabError as error:
        st.session_state["tune_refused"] = str(error)


def broken(problems: Sequence[str]) -> None:
    """Files that are left out."""
    for problem in problems:
        st.html(html.soft(problem))


def worth(tuned: TunedSchedule) -> None:
    """For what it holds, and what it is worth."""
    facts = [tuned.model, tuned.conditions, f"lane {tuned.lane}"]
    st.html(html.heading(tuned.name, " · ".join(facts)))
    st.html(html.prose(*sentences(tuned)))
    st.html(html.table(tuned_table(tuned)))
    if (classes := class_table(tuned)) is not None:
        st.html(html.table(classes))


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
