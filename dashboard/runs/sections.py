"""The sections of the Runs page."""

import streamlit as st

from dashboard import access, components, markup
from dashboard.access import Access
from dashboard.options import Options
from dashboard.overview.markup import failure_table
from dashboard.runs import events, starting
from dashboard.runs.choices import ask_for_study
from dashboard.runs.form import Request
from dashboard.runs.markup import environment_table, history_table, last_words, plan_text, progress_text, waiting
from dashboard.runs.queue import ENDED, Job, Queue, log_lines
from engine.display.formats import count, when
from engine.errors import LabError
from engine.results import Results

FAST_SECONDS, SLOW_SECONDS = 1.0, 5.0
SHOWN_RUNS = 20
SHOWN_LOGS = 5
SHOWN_FAILURES = 50
LAST_LINES = 40

_KEEPS = "A run goes on when this page or the server is closed. Cancelling keeps what is finished."


def head(rights: Access) -> None:
    """The title, who is signed in, and why nothing can be started here if that is so."""
    left, right = st.columns([4, 1.4], vertical_alignment="bottom")
    with left:
        st.html(markup.title("Runs", [], "Studies started from this page, and what each lane of a study really ran."))
        if rights.reason:
            st.html(markup.soft(rights.reason))
    with right:
        if rights.can_sign_in:
            st.button("Sign in", on_click=st.login, key="sign_in")
        elif rights.who:
            st.button(f"Sign out {rights.who}", on_click=st.logout, key="sign_out")


def queue(chosen: Options, rights: Access) -> None:
    """What goes on and what waits, kept up to date by itself."""
    runs = Queue(chosen.cache)
    active = runs.active()
    shown = _signature(active)
    drawn = False

    @st.fragment(run_every=FAST_SECONDS if active else SLOW_SECONDS)
    def body() -> None:
        nonlocal drawn
        if rights.may_run:
            starting.keep_going(chosen)
        jobs = runs.active()
        if drawn and _signature(jobs) != shown:
            st.rerun()
        drawn = True
        _active(chosen, rights, jobs)

    body()


def _signature(jobs: list[Job]) -> list[tuple[str, str, bool]]:
    """What the page is drawn anew for."""
    return [(job.number, job.state, job.cancelling) for job in jobs]


def _active(chosen: Options, rights: Access, jobs: list[Job]) -> None:
    for job in reversed(jobs):
        left, right = st.columns([5, 1], vertical_alignment="center")
        with left:
            if job.state == "running":
                log = events.read(log_lines(job.folder / "log.jsonl"))
                text = f"Run {int(job.number)}, {job.study}: {progress_text(job, log)}"
                st.progress(min(log.done / log.total, 1.0) if log.total else 0.0, text=_plain(text))
            else:
                st.html(markup.soft(f"Run {int(job.number)}, {job.study}: waiting since {when(job.asked_at)}."))
        with right:
            if rights.may_run and not job.cancelling:
                st.button("Cancel", key=f"cancel_{job.number}", on_click=_cancel, args=(chosen, job.number))
    if refused := st.session_state.pop("run_refused", None):
        st.html(markup.note("That is not possible", refused))
    queued = [job for job in jobs if job.state == "queued"]
    if jobs:
        st.html(markup.soft(_KEEPS + (f" {waiting(queued)}" if queued else "")))


def _plain(text: str) -> str:
    """A text for an element that reads Markdown, as text: a study's name may hold no more than "._-"."""
    return text.replace("_", "\\_")


def _cancel(chosen: Options, number: str) -> None:
    try:
        starting.cancel(chosen, number)
    except LabError as error:
        st.session_state["run_refused"] = str(error)


def new_study(chosen: Options, rights: Access) -> None:
    """The form, the engine's plan for what it asks, and the button that starts it; nothing for readers."""
    if not rights.may_run:
        return
    if reason := starting.engine_lacks():
        st.html(markup.note("No run can be started here", reason))
        return
    with st.expander("Start a study", key="new_study", expanded=not Queue(chosen.cache).jobs()):
        request = ask_for_study()
        st.button("Check and plan", key="check", on_click=_plan, args=(chosen, request))
        error, planned = st.session_state.get("plan_error"), st.session_state.get("plan")
        if error is not None and error[0] == request:
            st.html(markup.note("This study cannot be run as it is", error[1]))
        if planned is None or planned[0] != request:
            return
        st.html(plan_text(planned[1].text))
        ahead = len(Queue(chosen.cache).active())
        label = f"Queue this run behind {count(ahead, 'other')}" if ahead else "Start this run"
        st.button(label, key="start", type="primary", on_click=_start, args=(chosen, planned[1]))


def _plan(chosen: Options, request: Request) -> None:
    st.session_state["plan"] = st.session_state["plan_error"] = None
    try:
        st.session_state["plan"] = (request, starting.plan(chosen, request))
    except LabError as error:
        st.session_state["plan_error"] = (request, str(error))


def _start(chosen: Options, planned: starting.Plan) -> None:
    try:
        starting.start(chosen, planned)
    except LabError as error:
        st.session_state["run_refused"] = str(error)
    else:
        st.session_state["plan"] = None


def history(chosen: Options) -> None:
    """Runs that have ended, the newest first, and what those said last that did not end well."""
    ended = [job for job in Queue(chosen.cache).jobs() if job.state in ENDED]
    if not ended:
        return
    shown = ended[:SHOWN_RUNS]
    note = "" if len(shown) == len(ended) else f"The last {SHOWN_RUNS} of {len(ended)}."
    st.html(markup.heading("Runs started here", note))
    st.html(history_table(shown))
    for job in [job for job in shown if job.state in {"failed", "refused", "lost"}][:SHOWN_LOGS]:
        notes = events.read(log_lines(job.folder / "log.jsonl")).notes[-LAST_LINES:]
        st.html(last_words(job, log_lines(job.folder / "errors.log")[-LAST_LINES:], notes))


def environments(study: Results) -> None:
    """Where the cells of the study were made."""
    st.html(markup.heading("Where it ran", "Machines that made the cells of this study, for the image pass."))
    table = study.environments
    if table.empty:
        st.html(markup.soft("No cell of this study has run yet."))
        return
    st.html(environment_table(table))
    st.html(markup.footer([f"n = {study.total} cells", *components.image_places(study)[1:]]))


def failures(study: Results) -> None:
    """Failed cells with their errors."""
    failed = study.failures
    st.html(markup.heading("Failures"))
    if failed.empty:
        st.html(markup.soft("No cell of this study has failed."))
        return
    labels = {lane.key: lane.label for lane in study.lanes}
    rows = failed.head(SHOWN_FAILURES).itertuples()
    st.html(failure_table((labels.get(r.study_lane, r.study_lane), r.prompt, int(r.seed), str(r.error)) for r in rows))
    shown = min(SHOWN_FAILURES, len(failed))
    st.html(markup.footer([f"{shown} of {count(len(failed), 'failed cell')}", *components.image_places(study)]))


def show(chosen: Options) -> None:
    """All of the page that needs no cache."""
    rights = access.of_session(chosen)
    head(rights)
    queue(chosen, rights)
    new_study(chosen, rights)
    history(chosen)
