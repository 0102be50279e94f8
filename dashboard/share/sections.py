"""The report to download, and the place to drop a colleague's cache."""

import re
import tempfile
from pathlib import Path

import streamlit as st

from dashboard import access
from dashboard.access import Access
from dashboard.asking import Problem, work_out
from dashboard.options import Options
from dashboard.studies import StudyView
from engine.cache.exchange import import_cache
from engine.display import html
from engine.errors import LabError
from engine.sharing.report import read_report, render
from engine.sharing.words import import_lines

_NOTE = "One file that opens offline: recommendation, verdicts, pictures, charts, cost, methods, and the study file."


def report(chosen: Options, study: StudyView) -> None:
    """A button that makes the report of a study, once somebody asks for it, and downloads it."""
    st.html(html.heading("Share", f"{_NOTE} Or copy the address of a page: it shows the same view."))
    st.download_button(
        "Download the report",
        data=lambda: _page(chosen, study),
        file_name=f"{file_name(study.id)}.html",
        mime="text/html",
        on_click="ignore",
        key="report",
    )


def file_name(study_id: str) -> str:
    """A study's name as the name of a file, in every folder and on every system."""
    return re.sub(r"[^\w-]+", "-", study_id)[:80].strip("-") or "study"


def _page(chosen: Options, study: StudyView) -> str:
    answer = work_out(chosen.cache, read_report, render, study.id)
    if isinstance(answer, Problem):
        return f"<!doctype html><title>{answer.title}</title>{html.note(answer.title, answer.detail)}"
    return answer.value


def take_over(chosen: Options, rights: Access) -> None:
    """Where a cache can be dropped to take over what it holds; nothing for who may not."""
    if not rights.may_run:
        return
    with st.expander("Take over a colleague's results"):
        st.html(html.soft("A file of `python -m engine export` or a cache. It is looked at first, and only read."))
        with st.form("take_over", clear_on_submit=True, border=False):
            file = st.file_uploader("Cache file (.duckdb)", type=["duckdb"])
            asked = st.form_submit_button("Take over")
        if asked and file is not None:
            _import(chosen, file.name, file.getbuffer())


def _import(chosen: Options, name: str, data: memoryview) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "received.duckdb"
        try:
            access.require_run(chosen)  # here again: whoever can send a form can send it without the button
            path.write_bytes(data)
            merged = import_cache(path, chosen.cache)
        except LabError as error:
            st.html(html.note("Nothing was taken over", str(error).replace(str(path), name)))
            return
    st.html(html.note("Taken over", " ".join(import_lines(merged, Path(name)))))
