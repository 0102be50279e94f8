"""What each lane of a study really ran: noise levels call by call, settings with their origin, findings."""

import pandas as pd
import streamlit as st

from dashboard import components
from dashboard.asking import Answer, ask
from dashboard.options import Options
from dashboard.studies import StudyView
from engine.cache import schedules
from engine.cache.connection import Connection
from engine.display import html
from engine.display.formats import count
from engine.display.schedule_charts import schedule_chart
from engine.display.schedule_tables import level_table, setting_table, summary_table

_NOTE = (
    "Read from the scheduler as it was built, not from what was asked for. Sigma: noise over signal of the latents at "
    "that call; where the timestep names another noise level to the denoiser, both are shown."
)
_NONE = (
    "Not recorded in this cache. A run inspects the lanes of its study; a study from before is inspected when it "
    "is run again, without making its pictures again."
)


def read(db: Connection, study_id: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Noise levels, findings and settings of a study's lanes (`engine.cache.schedules`)."""
    return schedules.schedules(db, study_id), schedules.findings(db, study_id), schedules.settings(db, study_id)


def lint(chosen: Options, study: StudyView) -> None:
    """Noise levels, settings and findings of the study's lanes."""
    st.html(html.heading("What each lane really ran", _NOTE))
    answer = ask(chosen.cache, read, study.id)
    if not isinstance(answer, Answer):
        st.html(html.note(answer.title, answer.detail))
        return
    levels, findings, settings = answer.value
    lanes = {lane.key: lane for lane in study.lanes}
    levels = levels[levels["lane"].isin(list(lanes))]
    if levels.empty and findings.empty:
        st.html(html.soft(_NONE))
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
