"""A cache without results: what the lab is, and three ways on."""

from pathlib import Path

import streamlit as st

from dashboard import access, share
from dashboard.cache_access import Problem
from dashboard.images import data_uri
from dashboard.jobs import starting
from dashboard.jobs.demo import BUDGET, STUDY
from dashboard.live import sections as live
from dashboard.options import Options
from engine.display import html
from engine.errors import LabError

LAB = (
    "A diffusion model starts from noise, and a scheduler decides in how many steps it becomes a picture.",
    "This lab runs the same prompts from the same noise through many of them, and says which is the cheapest one whose "
    "pictures are as good.",
)
_PICTURE = Path(__file__).with_name("steps.webp")
_ALT = (
    "From the same noise to a robot under four schedulers: DDIM 50 and DPM++ 2M Karras 20 end at one picture, "
    "UniPC 10 and DPM++ 2M 5 at another robot"
)


def show(chosen: Options, problem: Problem) -> None:
    """Two sentences, a picture, and three ways on; while a run goes on, where to watch it."""
    if live.look(chosen).runs:
        st.html(
            html.soft("The first results are being made, and appear here as they come. The Overview shows them live.")
        )
        live.wait(chosen)
        return
    st.html(html.title("Scheduler lab", [], f"{problem.title}."))
    st.html(html.prose(*LAB))
    picture = data_uri(_PICTURE.read_bytes())
    if picture is not None:
        st.html(html.shots([html.Shot(picture, _ALT)], "lab-welcome"))
    rights = access.of_session(chosen)
    first, second, third = st.columns(3, gap="large")
    with first:
        _measure(chosen, rights)
    with second:
        _open_file(chosen, rights)
    with third:
        st.html(html.heading("Point to a cache", "If results lie elsewhere, start the pages with them:"))
        st.code("python -m engine dashboard --cache PATH", language="bash", wrap_lines=True)
    st.html(html.soft(problem.detail))
    live.wait(chosen)


def _measure(chosen: Options, rights: access.Access) -> None:
    st.html(html.heading("Measure the demo", "13 lanes on the bundled model: pictures at once, a decision in minutes."))
    lacks = starting.engine_lacks()
    if rights.may_run and not lacks:
        st.button("Measure it here", type="primary", key="measure_demo", on_click=_start, args=(chosen,))
        if refused := st.session_state.pop("demo_refused", None):
            st.html(html.note("That is not possible", refused))
        return
    st.code(
        f"python -m engine decide {STUDY} --budget {BUDGET} --cache {chosen.cache}", language="bash", wrap_lines=True
    )
    if lacks:
        st.html(html.soft(lacks))
    elif rights.can_sign_in:
        st.button("Sign in to start it here", on_click=st.login, key="welcome_sign_in")
    elif access.can_be_granted(chosen):
        st.html(html.soft("Or open the link that stands in the server's terminal: it allows runs from this browser."))
    elif rights.reason:
        st.html(html.soft(rights.reason))


def _start(chosen: Options) -> None:
    try:
        starting.decide(chosen, STUDY, BUDGET)
    except LabError as error:
        st.session_state["demo_refused"] = str(error)


def _open_file(chosen: Options, rights: access.Access) -> None:
    st.html(html.heading("Open a colleague's file", "An export or a cache; it is checked first, and never changed."))
    if rights.may_run:
        share.import_file(chosen, rights)
    else:
        st.code(f"python -m engine import FILE --cache {chosen.cache}", language="bash", wrap_lines=True)
