"""Tables of the Runs page, as HTML; every text from the queue or the cache is escaped."""

from collections.abc import Iterable
from html import escape
from typing import Any

import pandas as pd

from dashboard import markup
from dashboard.runs.events import Log
from dashboard.runs.queue import Job
from engine.display.formats import NONE, count, cut, duration, when

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


def progress_text(job: Job, log: Log) -> str:
    """How far a run is, in one line."""
    if job.cancelling:
        return "Stopping; what is finished is being saved."
    if not log.what:
        return "Starting: the model is being loaded."
    left = NONE if log.seconds_left is None else f"about {duration(1000 * log.seconds_left)} left in this pass"
    return f"{log.what}: {log.done:,} of {log.total:,} {log.unit}" + (f", {left}" if left != NONE else "")


def history_table(jobs: Iterable[Job]) -> str:
    """Runs that have ended: what, when, by whom, where, how long, and how they ended."""
    rows = []
    for job in jobs:
        cells = (
            when(job.asked_at),
            escape(cut(job.by, 60)) or NONE,
            escape(environment(job.outcome.get("facts") or {})),
            duration(None if job.seconds is None else 1000 * job.seconds),
            escape(outcome(job)),
        )
        rows.append(
            f'<tr><th scope="row">{int(job.number)}</th><td class="text">{escape(job.study)}</td>'
            f'<td class="text">{cells[0]}</td><td class="text">{cells[1]}</td><td class="text wrap">{cells[2]}</td>'
            f'<td>{cells[3]}</td><td class="text wrap">{cells[4]}</td></tr>'
        )
    columns = ("Run", "Study", "Asked for", "By", "Environment", "Duration", "Outcome")
    return markup.table(columns, rows, text={"Study", "Asked for", "By", "Environment", "Outcome"})


def environment(facts: dict[str, Any]) -> str:
    """Where a run was made, in a few words."""
    parts = [str(facts.get("device_name") or ""), str(facts.get("dtype") or "")]
    parts += [f"{name} {facts[name]}" for name in ("torch", "diffusers") if facts.get(name)]
    return cut(", ".join(part for part in parts if part), 200) or NONE


def outcome(job: Job) -> str:
    """How a run ended: the word, and what it counted."""
    summary = job.outcome.get("summary")
    words = STATES[job.state]
    if job.state == "lost":
        return f"{words}: its process ended without a word; a new run goes on from what is saved"
    if not isinstance(summary, dict):
        code = job.outcome.get("exit_code")
        return words + (f" (exit code {code})" if isinstance(code, int) and job.state == "failed" else "")
    made = [f"{summary.get(key, 0):,} {text}" for key, text in _COUNTED if isinstance(summary.get(key), int)]
    return f"{words}: " + ", ".join(text for text in made if not text.startswith("0 "))


_COUNTED = (
    ("done", "cells made"),
    ("cached", "were cached"),
    ("timed", "timing samples"),
    ("references", "of the reference"),
    ("scored", "scores"),
    ("failed", "failed"),
    ("untimed", "lanes not timed"),
)


def last_words(job: Job, lines: Iterable[str], notes: Iterable[str]) -> str:
    """What a run that did not end well said last, to unfold."""
    said = [*notes, *lines]
    text = "\n".join(said)[-ERROR_CHARACTERS:] or "It said nothing."
    return (
        f'<details class="lab lab-log"><summary>Run {int(job.number)}, {escape(job.study)}, {STATES[job.state]}: what '
        f"it said last</summary><pre>{escape(text)}</pre></details>"
    )


def environment_table(environments: pd.DataFrame) -> str:
    """Where the cells of a study were made (`queries.environments`)."""
    rows = [
        f'<tr><th scope="row">{escape(str(row.device_name))}</th><td class="text">{escape(str(row.device))}</td>'
        f'<td class="text">{escape(str(row.memory))}</td><td class="text">{escape(str(row.torch))}</td>'
        f'<td class="text">{escape(str(row.diffusers))}</td><td>{int(row.cells):,}</td></tr>'
        for row in environments.itertuples()
    ]
    columns = ["Machine", "Device", "Memory", "torch", "diffusers", "Cells"]
    return markup.table(columns, rows, text={"Device", "Memory", "torch", "diffusers"})


def plan_text(text: str) -> str:
    """What the engine says it would do."""
    return f'<pre class="lab lab-plan">{escape(text)}</pre>'


def waiting(jobs: list[Job]) -> str:
    """E.g. "2 runs wait"."""
    return f"{count(len(jobs), 'run')} {'waits' if len(jobs) == 1 else 'wait'} for its turn; one goes on at a time."
