"""The sections of the Runs page."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import access, components
from dashboard.access import Access
from dashboard.cache_access import Answer, Problem, Question, ask
from dashboard.jobs import events, starting
from dashboard.jobs.events import Log
from dashboard.jobs.form import Request
from dashboard.jobs.queue import ENDED, Job, Queue, log_lines
from dashboard.options import Options
from dashboard.runs.controls import ask_for_study
from engine.cache import lint_tables
from engine.cache.connection import Connection
from engine.display import html
from engine.display.formats import NONE, count, cut, duration, when
from engine.display.schedule_charts import schedule_chart
from engine.display.schedule_tables import level_table, setting_table, summary_table
from engine.display.tables import FilledColumn, ResultTable, environment_table, table_of, text, wrap
from engine.errors import LabError
from engine.results import Results
from engine.study.tuned import register_tuned

Levels = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]
FAST_SECONDS, SLOW_SECONDS = 1.0, 5.0
SHOWN_RUNS = 20
SHOWN_LOGS = 5
SHOWN_FAILURES = 50
LAST_LINES = 40

STATES = {
    "queued": "waiting",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "refused": "refused",
    "cancelled": "cancelled",
    "lost": "lost",
}
ERROR_CHARACTERS = 4000
_COUNTED = (
    ("done", "cells made"),
    ("made", "cells made"),
    ("prompts", "prompts examined"),
    ("cached", "were cached"),
    ("timed", "timing samples"),
    ("references", "of the reference"),
    ("scored", "scores"),
    ("failed", "failed"),
    ("untimed", "lanes not timed"),
)
_KEEPS = "A run continues if this page or the server is closed. Cancelling keeps finished cells."
_SCHEDULES_NOTE = (
    "Read from the scheduler that was built, not from the request. Sigma: noise over signal of the latents at that "
    "call; if the timestep stands for another noise level, both are shown."
)
_NO_SCHEDULES = (
    "Not recorded in this cache. A run inspects the lanes of its study; running an older study again adds this without "
    "making its pictures again."
)


def head(rights: Access) -> None:
    """The title, the signed-in user, and why runs can't be started, if so."""
    left, right = st.columns([4, 1.4], vertical_alignment="bottom")
    with left:
        st.html(html.title("Runs", [], "Studies started from this page, and what each lane of a study really ran."))
        if rights.reason:
            st.html(html.soft(rights.reason))
    with right:
        if rights.can_sign_in:
            st.button("Sign in", on_click=st.login, key="sign_in")
        elif rights.who:
            st.button(f"Sign out {rights.who}", on_click=st.logout, key="sign_out")


def queue(chosen: Options, rights: Access) -> None:
    """Active and waiting runs, kept up to date."""
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
    """The page is redrawn when this changes."""
    return [(job.number, job.state, job.cancelling) for job in jobs]


def _active(chosen: Options, rights: Access, jobs: list[Job]) -> None:
    for job in reversed(jobs):
        left, right = st.columns([5, 1], vertical_alignment="center")
        with left:
            if job.state == "running":
                log = events.read(log_lines(job.folder / "log.jsonl"))
                words = f"Run {int(job.number)}, {job.study}: {_progress_text(job, log)}"
                st.progress(min(log.done / log.total, 1.0) if log.total else 0.0, text=_plain(words))
            else:
                st.html(html.soft(f"Run {int(job.number)}, {job.study}: waiting since {when(job.asked_at)}."))
        with right:
            if rights.may_run and not job.cancelling:
                st.button("Cancel", key=f"cancel_{job.number}", on_click=_cancel, args=(chosen, job.number))
    if refused := st.session_state.pop("run_refused", None):
        st.html(html.note("That is not possible", refused))
    queued = [job for job in jobs if job.state == "queued"]
    if jobs:
        st.html(html.soft(_KEEPS + (f" {_waiting(queued)}" if queued else "")))


def _waiting(jobs: list[Job]) -> str:
    """E.g. "2 runs waiting; only one runs at a time."."""
    return f"{count(len(jobs), 'run')} waiting; only one runs at a time."


def _plain(words: str) -> str:
    """Escapes a text for an element that reads Markdown; of its special characters, study names may have only "_"."""
    return words.replace("_", "\\_")


def _cancel(chosen: Options, number: str) -> None:
    try:
        starting.cancel(chosen, number)
    except LabError as error:
        st.session_state["run_refused"] = str(error)


def _progress_text(job: Job, log: Log) -> str:
    """The progress of a run, in one line."""
    if job.cancelling:
        return "Stopping; finished cells are being saved."
    if not log.what:
        return "Starting: loading the model."
    left = NONE if log.seconds_left is None else f"about {duration(1000 * log.seconds_left)} left in this pass"
    done = f"{log.done:,} of {log.total:,}" if log.total else f"{log.done:,}"
    return f"{log.what}: {done} {log.unit}" + (f", {left}" if left != NONE else "")


def new_study(chosen: Options, rights: Access) -> None:
    """The form, the engine's plan for it, and the buttons that start it; nothing for readers."""
    if not rights.may_run:
        return
    if reason := starting.engine_lacks():
        st.html(html.note("Runs cannot be started here", reason))
        return
    with st.expander("Start a study", key="new_study", expanded=not Queue(chosen.cache).jobs()):
        register_tuned(chosen.cache)
        request = ask_for_study()
        st.button("Check and plan", key="check", on_click=_plan, args=(chosen, request))
        error, planned = st.session_state.get("plan_error"), st.session_state.get("plan")
        if error is not None and error[0] == request:
            st.html(html.note("This study cannot be run", error[1]))
        if planned is None or planned[0] != request:
            return
        st.html(html.preformatted(planned[1].text, "lab-plan"))
        ahead = len(Queue(chosen.cache).active())
        behind = f", behind {count(ahead, 'other')}" if ahead else ""
        left, middle, right, _ = st.columns([1.6, 1.6, 1, 2], vertical_alignment="bottom")
        with left:
            st.button(
                f"Start this run{behind}", key="start", type="primary", on_click=_start, args=(chosen, planned[1])
            )
        with right:
            minutes = st.number_input("Minutes, at most", 1, 10_000, 12, key="decide_minutes", persist_state="session")
        with middle:
            st.button(
                f"Decide which lane to take{behind}",
                key="decide",
                on_click=_start,
                args=(chosen, planned[1], f"{int(minutes)}m"),
                help="Adds prompts until the cheapest lane as good as the baseline is known, or the time is up.",
            )


def _plan(chosen: Options, request: Request) -> None:
    st.session_state["plan"] = st.session_state["plan_error"] = None
    try:
        st.session_state["plan"] = (request, starting.plan(chosen, request))
    except LabError as error:
        st.session_state["plan_error"] = (request, str(error))


def _start(chosen: Options, planned: starting.Plan, budget: str = "") -> None:
    try:
        starting.start(chosen, planned, budget)
    except LabError as error:
        st.session_state["run_refused"] = str(error)
    else:
        st.session_state["plan"] = None


def history(chosen: Options) -> None:
    """Ended runs, newest first, with the last output of failed ones."""
    ended = [job for job in Queue(chosen.cache).jobs() if job.state in ENDED]
    if not ended:
        return
    shown = ended[:SHOWN_RUNS]
    note = "" if len(shown) == len(ended) else f"The last {SHOWN_RUNS} of {len(ended)}."
    st.html(html.heading("Runs started here", note))
    st.html(html.table(_history(shown)))
    for job in [job for job in shown if job.state in {"failed", "refused", "lost"}][:SHOWN_LOGS]:
        notes = events.read(log_lines(job.folder / "log.jsonl")).notes[-LAST_LINES:]
        said = [*notes, *log_lines(job.folder / "errors.log")[-LAST_LINES:]]
        words = "\n".join(said)[-ERROR_CHARACTERS:] or "No output."
        st.html(
            html.folded(f"Run {int(job.number)}, {job.study}, {STATES[job.state]}: its last output", words, "lab-log")
        )


def _history(jobs: Iterable[Job]) -> ResultTable:
    """The table of ended runs."""
    columns: list[FilledColumn] = [
        ("Run", lambda job: str(int(job.number))),
        (text("Study"), lambda job: job.study),
        (text("Requested"), lambda job: when(job.asked_at)),
        (text("By"), lambda job: cut(job.by, 60) or NONE),
        (wrap("Environment"), lambda job: _environment(job.outcome.get("facts") or {})),
        ("Duration", lambda job: duration(None if job.seconds is None else 1000 * job.seconds)),
        (wrap("Outcome"), _outcome),
    ]
    return table_of("Runs started here", jobs, columns)


def _environment(facts: dict[str, Any]) -> str:
    """The environment of a run, in a few words."""
    parts = [str(facts.get("device_name") or ""), str(facts.get("dtype") or "")]
    parts += [f"{name} {facts[name]}" for name in ("torch", "diffusers") if facts.get(name)]
    return cut(", ".join(part for part in parts if part), 200) or NONE


def _outcome(job: Job) -> str:
    """How a run ended: its state and counts."""
    summary = job.outcome.get("summary")
    words = STATES[job.state]
    if job.state == "lost":
        return f"{words}: its process is gone; a new run continues from the saved cells"
    if not isinstance(summary, dict):
        code = job.outcome.get("exit_code")
        return words + (f" (exit code {code})" if isinstance(code, int) and job.state == "failed" else "")
    made = [f"{summary.get(key, 0):,} {text}" for key, text in _COUNTED if isinstance(summary.get(key), int)]
    counted = ", ".join(text for text in made if not text.startswith("0 "))
    if isinstance(summary.get("sentence"), str):
        return f"{'answered' if job.state == 'done' else words}: {cut(summary['sentence'], 300)} ({counted})"
    return f"{words}: {counted}"


def environments(study: Results) -> None:
    """The machines that made the cells of the study."""
    st.html(html.heading("Where it ran", "Machines that made the images of this study."))
    made = study.environments
    if made.empty:
        st.html(html.soft("No cell of this study has run yet."))
        return
    st.html(html.table(environment_table(made)))
    components.footer(f"n = {int(made['cells'].sum()):,} cells")


def failures(study: Results) -> None:
    """Failed cells with their errors."""
    if study.failures.empty:
        st.html(html.heading("Failures"))
        st.html(html.soft("No cell of this study has failed."))
    components.failed_cells(study, SHOWN_FAILURES)


def show(chosen: Options) -> None:
    """The sections that need no cache."""
    rights = access.of_session(chosen)
    head(rights)
    queue(chosen, rights)
    new_study(chosen, rights)
    history(chosen)


def _schedules(db: Connection, study_id: str) -> Levels:
    """Noise levels, findings and settings of a study's lanes (`engine.cache.lint_tables`)."""
    return lint_tables.schedules(db, study_id), lint_tables.findings(db, study_id), lint_tables.settings(db, study_id)


def schedules_run(chosen: Options, study: Results) -> None:
    """Noise levels, settings and findings of the study's lanes."""
    st.html(html.heading("What each lane really ran", _SCHEDULES_NOTE))
    answer: Answer[Levels] | Problem = ask(chosen.cache, Question(_schedules, (study.id,)))
    if not isinstance(answer, Answer):
        st.html(html.note(answer.title, answer.detail))
        return
    levels, findings, settings = answer.value
    lanes = {lane.key: lane for lane in study.lanes}
    levels = levels[levels["lane"].isin(list(lanes))]
    if levels.empty and findings.empty:
        st.html(html.soft(_NO_SCHEDULES))
        return
    st.html(html.table(summary_table(study.lanes, levels, findings, study.baseline)))
    st.html(html.footer([f"{levels['lane'].nunique()} of {count(len(lanes), 'lane')} inspected"]))
    if levels.empty:
        return
    shown = components.with_names(levels, study.lanes)
    components.chart(schedule_chart, shown, alt="Log-SNR of each lane over its denoiser calls, as in the tables below")
    st.html(
        html.footer([f"n = {len(shown)} denoiser calls of {count(shown['lane'].nunique(), 'lane')}", *study.facts[:1]])
    )
    known = [key for key in lanes if key in set(shown["lane"])]
    with st.expander("Call by call, and every setting", key="lint_detail"):
        key = st.selectbox(
            "Lane", known, format_func=lambda key: lanes[key].label, key="lint_lane", bind="query-params"
        )
        left, right = st.columns([2, 3], gap="large")
        with left:
            st.html(html.table(level_table(levels[levels["lane"] == key])))
        with right:
            st.html(html.table(setting_table(settings[settings["lane"] == key])))
