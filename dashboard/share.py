"""The report to download, and the import of a colleague's cache."""

import re
import tempfile
from pathlib import Path

import streamlit as st

from dashboard import access
from dashboard.access import Access
from dashboard.cache_access import Problem, Question, ask
from dashboard.options import Options
from engine.cache.exchange import import_cache
from engine.display import html
from engine.errors import LabError
from engine.results import Results
from engine.sharing.import_summary import import_lines
from engine.sharing.report import read_report, render

_NOTE = "One file that opens offline: recommendation, verdicts, pictures, charts, cost, methods, and the study file."


def report(chosen: Options, study: Results) -> None:
    """A button that makes and downloads the report of a study."""
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
    """A study's name as a file name that every system accepts."""
    return re.sub(r"[^\w-]+", "-", study_id)[:80].strip("-") or "study"


def _page(chosen: Options, study: Results) -> str:
    answer = ask(chosen.cache, Question(read_report, (study.id,), render))
    if isinstance(answer, Problem):
        return f"<!doctype html><title>{answer.title}</title>{html.note(answer.title, answer.detail)}"
    return answer.value


def import_file(chosen: Options, rights: Access) -> None:
    """The form that imports a cache; nothing for those who may not run studies."""
    if not rights.may_run:
        return
    with st.expander("Import a colleague's results"):
        st.html(
            html.soft(
                "A file written by `python -m engine export`, or a cache. It is checked first, and never changed."
            )
        )
        with st.form("import", clear_on_submit=True, border=False):
            file = st.file_uploader("Cache file (.duckdb)", type=["duckdb"])
            asked = st.form_submit_button("Import")
        if asked and file is not None:
            _import(chosen, file.name, file.getbuffer())


def _import(chosen: Options, name: str, data: memoryview) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "received.duckdb"
        try:
            access.require_run(chosen)  # again: a form can be sent without its button
            path.write_bytes(data)
            merged = import_cache(path, chosen.cache)
        except LabError as error:
            st.html(html.note("Nothing was imported", str(error).replace(str(path), name)))
            return
    st.html(html.note("Imported", " ".join(import_lines(merged, Path(name)))))
