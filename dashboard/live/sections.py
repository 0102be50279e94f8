"""The run that goes on: tiles, figures and what may be said so far, kept up to date without drawing the page."""

import time
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from dashboard import access
from dashboard.jobs import starting
from dashboard.jobs.queue import Job, Queue
from dashboard.live.data import payload
from dashboard.options import Options
from engine.cache.live_state import LiveState, read_live
from engine.display import html
from engine.errors import LabError

# Between two looks: until there is a first picture, after it, at what is not running, and while times are taken. A look
# takes 0.03 s of the server's CPU time (`dashboard.bench --watching`).
FIRST_SECONDS, LIVE_SECONDS, IDLE_SECONDS, TIMING_SECONDS = 1.0, 3.0, 5.0, 10.0
# The rest of the page is drawn anew when there is news of the decision, but not more often than this.
NEWS_SECONDS = 10.0
_HERE = Path(__file__).parent

_tiles = st.components.v2.component(
    "lab_live",
    html='<div class="live"></div>',
    css=(_HERE / "live.css").read_text(encoding="utf-8"),
    js=(_HERE / "live.js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class Now:
    """What goes on at a cache.

    Attributes:
        state: What the engine shows of itself; None while it is coming up, or if none runs.
        job: The run of the queue that goes on or waits, if there is one.
    """

    state: LiveState | None
    job: Job | None

    @property
    def runs(self) -> bool:
        """Whether something goes on, or is about to."""
        return self.state is not None or self.job is not None

    @property
    def every(self) -> float:
        """Seconds between two looks."""
        if not self.runs:
            return IDLE_SECONDS
        if self.state is not None and self.state.is_timing:
            return TIMING_SECONDS
        return LIVE_SECONDS if self.state is not None and self.state.tiles else FIRST_SECONDS

    @property
    def news(self) -> tuple[object, ...]:
        """What the rest of the page is drawn anew for."""
        return () if self.state is None else (self.state.what, self.state.sentence)


def look(chosen: Options) -> Now:
    """What goes on at the cache now."""
    state, jobs = read_live(chosen.cache), Queue(chosen.cache).active()
    return Now(state, jobs[-1] if jobs else None)


def show(chosen: Options) -> Now:
    """The run that goes on, if one does; the page is drawn anew when one begins or ends."""
    known, drawn = look(chosen), time.monotonic()
    first = True

    @st.fragment(run_every=known.every)
    def body() -> None:
        nonlocal first
        now = known if first else look(chosen)
        first = False
        old = time.monotonic() - drawn > NEWS_SECONDS
        if (now.runs, now.every) != (known.runs, known.every) or (old and now.news != known.news):
            st.rerun()
        if now.runs:
            _draw(chosen, now)

    body()
    return known


def wait(chosen: Options) -> None:
    """Draws the page anew once a run begins or ends."""
    drawn, known = False, look(chosen).runs

    @st.fragment(run_every=IDLE_SECONDS)
    def body() -> None:
        nonlocal drawn
        if drawn and look(chosen).runs != known:
            st.rerun()
        drawn = True

    body()


def _draw(chosen: Options, now: Now) -> None:
    job, rights = now.job, access.of_session(chosen)
    study = now.state.study if now.state else job.study if job else ""
    left, right = st.columns([5, 1], vertical_alignment="bottom")
    with left:
        st.html(html.heading(f"Running: {study}"))
    with right:
        if job is not None and job.cancelling:
            st.html(html.soft("Stopping; what is finished is being saved."))
        elif job is not None and rights.may_run:
            label = "Stop" if job.study == study else f"Stop {job.study}"  # another engine shows its run here
            st.button(label, key="stop_live", on_click=_stop, args=(chosen, job.number), width="stretch")
    if refused := st.session_state.pop("stop_refused", None):
        st.html(html.note("That is not possible", refused))
    state = now.state or LiveState(study)
    _tiles(key="live", data=payload(state, time.time()))


def _stop(chosen: Options, number: str) -> None:
    try:
        starting.cancel(chosen, number)
    except LabError as error:
        st.session_state["stop_refused"] = str(error)
