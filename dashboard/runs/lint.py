"""What each lane of a study really ran: noise levels call by call, settings with their origin, what is remarkable."""

import json
from collections.abc import Mapping
from html import escape

import pandas as pd
import streamlit as st

from dashboard import components, markup
from dashboard.cache_access import Answer, Problem, Question, ask
from dashboard.options import Options
from engine.analysis.outcomes import StudyLane
from engine.cache import lint_tables
from engine.cache.connection import Connection
from engine.display.formats import NONE, count, cut
from engine.display.schedule_charts import schedule_chart
from engine.results import Results

ORIGINS = {
    "lane": "this lane",
    "table": "the table of schedulers",
    "lab": "the lab",
    "model": "inherited from the model",
    "default": "the class's default",
    "ignored": "given, but the class does not take it",
}
_NOTE = (
    "Read from the scheduler as it was built, not from what was asked for. Sigma: noise over signal of the latents at "
    "that call; where the timestep names another noise level to the denoiser, both are shown."
)
_NONE = (
    "Not recorded for this cache. Running a study looks at its lanes; a study that was run before is looked at when it "
    "is run again, without computing its pictures anew."
)
TOLD_TOLERANCE = 0.02


Levels = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


def read(db: Connection, study_id: str) -> Levels:
    """Noise levels, findings and settings of a study's lanes (`engine.cache.lint_tables`)."""
    return lint_tables.schedules(db, study_id), lint_tables.findings(db, study_id), lint_tables.settings(db, study_id)


def lint(chosen: Options, study: Results) -> None:
    """The section."""
    st.html(markup.heading("What each lane really ran", _NOTE))
    answer: Answer[Levels] | Problem = ask(chosen.cache, Question(read, (study.id,)))
    if not isinstance(answer, Answer):
        st.html(markup.note(answer.title, answer.detail))
        return
    levels, findings, settings = answer.value
    lanes = {lane.key: lane for lane in study.lanes}
    levels = levels[levels["lane"].isin(list(lanes))]
    if levels.empty and findings.empty:
        st.html(markup.soft(_NONE))
        return
    st.html(summary_table(lanes, levels, findings, study.baseline))
    st.html(markup.footer([f"{levels['lane'].nunique()} of {count(len(lanes), 'lane')} looked at"]))
    if levels.empty:
        return
    shown = levels.assign(
        label=levels["lane"].map({key: lane.label for key, lane in lanes.items()}),
        scheduler=levels["lane"].map({key: lane.scheduler for key, lane in lanes.items()}),
    )
    components.chart(schedule_chart, shown, alt="Log-SNR of each lane over its denoiser calls, as in the tables below")
    st.html(
        markup.footer(
            [f"n = {len(shown)} denoiser calls of {count(shown['lane'].nunique(), 'lane')}", *study.facts[:1]]
        )
    )
    known = [key for key in lanes if key in set(shown["lane"])]
    with st.expander("Call by call, and every setting", key="lint_detail"):
        key = st.selectbox(
            "Lane", known, format_func=lambda key: lanes[key].label, key="lint_lane", bind="query-params"
        )
        left, right = st.columns([2, 3], gap="large")
        with left:
            st.html(level_table(levels[levels["lane"] == key]))
        with right:
            st.html(setting_table(settings[settings["lane"] == key]))


def summary_table(lanes: Mapping[str, StudyLane], levels: pd.DataFrame, findings: pd.DataFrame, baseline: str) -> str:
    """One row a lane: calls, first and last noise level, what is left at the end, and the findings."""
    rows = []
    for key, lane in lanes.items():
        own = levels[levels["lane"] == key]
        said = findings[findings["lane"] == key]
        cells = ["not looked at", NONE, NONE, NONE, NONE] if own.empty and said.empty else [NONE] * 5
        if not own.empty:
            first, last = own.iloc[0], own.iloc[-1]
            cells = [
                f"{len(own)}",
                f"{first['timestep']:g} → {last['timestep']:g}",
                f"{first['sigma']:.4g}",
                f"{last['sigma']:.3g}",
                f"{last['final_sigma']:.3g}",
            ]
        name = markup.lane_name(lane.label, lane.scheduler, is_baseline=key == baseline)
        rows.append(
            f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}'
            f'<td class="text wrap">{remarks(said)}</td></tr>'
        )
    columns = ["Lane", "Calls", "Timesteps", "First sigma", "Last sigma", "Left at the end", "Remarkable"]
    return markup.table(columns, rows, text={"Remarkable"})


def remarks(findings: pd.DataFrame) -> str:
    """The findings about a lane: warnings to see, mere information to unfold."""
    lines = [(str(row.severity), escape(cut(str(row.message), 300))) for row in findings.itertuples()]
    loud = [f'<span class="tag">{escape(severity)}</span> {text}' for severity, text in lines if severity != "info"]
    quiet = [text for severity, text in lines if severity == "info"]
    folded = f"<summary>{count(len(quiet), 'remark')}</summary>{'<br>'.join(quiet)}"
    return "<br>".join(loud) + (f"<details>{folded}</details>" if quiet else "") or NONE


def level_table(levels: pd.DataFrame) -> str:
    """The noise levels of one lane."""
    rows = []
    for row in levels.itertuples():
        differs = abs(row.told_sigma / row.sigma - 1) > TOLD_TOLERANCE if row.sigma > 0 else row.told_sigma > 0
        told = f"<b>{row.told_sigma:.4g}</b>" if differs else f"{row.told_sigma:.4g}"
        cells = f"<td>{row.timestep:.5g}</td><td>{row.sigma:.4g}</td><td>{told}</td><td>{row.log_snr:.2f}</td>"
        rows.append(f'<tr><th scope="row">{int(row.call_index) + 1}</th>{cells}</tr>')
    return markup.table(["Call", "Timestep", "Sigma", "Sigma told", "Log-SNR"], rows)


def setting_table(settings: pd.DataFrame) -> str:
    """The settings of one lane: those that somebody set first, the defaults of the class last."""
    order = {origin: place for place, origin in enumerate(ORIGINS)}
    ordered = settings.assign(place=settings["origin"].map(order).fillna(len(order)))
    rows = []
    for row in ordered.sort_values(["place", "setting"]).itertuples():
        replaced = (
            "" if pd.isna(row.replaced) else f' <span class="soft">for {_value(row.replaced)} of the model</span>'
        )
        rows.append(
            f'<tr><th scope="row">{escape(str(row.setting))}</th>'
            f'<td class="text wrap">{_value(row.value)}{replaced}</td>'
            f'<td class="text">{escape(ORIGINS.get(row.origin, str(row.origin)))}</td></tr>'
        )
    return markup.table(["Setting", "Value", "From"], rows, text={"Value", "From"})


def _value(text: object) -> str:
    try:
        value = json.loads(str(text))
    except ValueError:
        value = text
    return escape(cut(value if isinstance(value, str) else json.dumps(value, default=str), 120))
