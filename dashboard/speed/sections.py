"""The sections of the page on speed and quality."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from dashboard import components
from dashboard.speed.data import column_formats, csv_of, wide_table
from engine.analysis.recommendation import undecided
from engine.analysis.sets import feature_lines, refusal_lines
from engine.display import html
from engine.display.formats import batch_of, count, labelled, number, when
from engine.display.headline import NOT_SCORED
from engine.display.speed_charts import COSTS, convergence_chart, trade_off_chart
from engine.display.tables import lane_name, order_table, set_table
from engine.display.use_cases import guard_table, use_case_table
from engine.results import Results

_READING = "Next to the marks: {name}. Filled: as good by all guards. Band: the metric's margin."
_FRONT = " Stepped line: lanes that no other lane beats, by the centres of the intervals."
_DIRECTIONS = {
    "higher": f" Up is better.{_FRONT}",
    "lower": f" Lower is better, so the axis is reversed and up is better.{_FRONT}",
}
_USES = (
    "Only lanes that every guard of the decision has accepted; among several, the one with the fewest other pictures, "
    "then the cheapest. Times are shares of the baseline's, paired by repeat."
)
_GUARDS = "Value, and in brackets what the evidence has not rejected at the lane's level."
_CONVERGE = "Distance to the solution that the same noise reaches with ever more steps; lower is better."
_ORDER = (
    "Observed order p: ten times the calls give 10^p times less error. A solver of order k approaches k where its "
    "error is small but still above the floor."
)
_SETS = "How similar two lanes are as whole sets of pictures. Needs many; warnings say if there are too few."
_NO_ERRORS = (
    "No error relative to a converged solution is known: the study needs a `[reference]`, or has not been scored. "
    "`python -m engine run` with the same study continues."
)


def trade_off(study: Results, table: pd.DataFrame, cost: str, metric: str) -> None:
    """The chart of quality over cost, or why there is none."""
    shown = table[table["metric"] == metric] if metric else table.head(0)
    if shown.dropna(subset=["difference", COSTS[cost][0]]).empty:
        st.html(html.note("No quality to show yet", why_not(study)))
        return
    plain = not shown.duplicated(["scheduler", "steps"]).any()
    st.html(_schedulers(components.scheduler_names(study)))
    batch = shown["batch_size"].max()
    components.chart(
        trade_off_chart,
        shown,
        cost,
        batch_of(batch),
        alt="Difference in quality from the baseline over cost for each lane, as in the table below",
    )
    direction = _DIRECTIONS.get(shown["direction"].iloc[0], " Neither side is better.")
    st.html(html.soft(_READING.format(name="steps" if plain else "the lane") + direction))
    st.html(html.footer(_footer(shown, cost)))


def _schedulers(names: Mapping[str, str]) -> str:
    """The legend of schedulers: key -> name."""
    return html.legend(marks=[lane_name(name, key) for key, name in names.items()])


def why_not(study: Results) -> str:
    """Why no lane can be drawn."""
    if len(study.lanes) < 2:
        return "The study has one lane; there is nothing to compare it with."
    if not study.comparisons:
        reasons = [reason for reason in study.metrics["unavailable"] if isinstance(reason, str)]
        return reasons[0] if reasons else NOT_SCORED
    return "No lane has both a score and this cost; another cost or metric can be chosen above."


def _footer(shown: pd.DataFrame, cost: str) -> list[str]:
    compared = shown[~shown["is_baseline"]].dropna(subset=["prompts"])
    pairs = int(compared["pairs"].max())
    margin = shown["margin"].iloc[0]
    parts = [
        f"{components.extent(compared['prompts'])} prompts, {pairs} pairs",
        "95 % bootstrap intervals",
        f"margin {number(margin)}, {shown['margin_from'].iloc[0]}" if pd.notna(margin) else "margin not known",
    ]
    timed = shown.dropna(subset=["median_ms"])
    if cost == "ms" and len(timed):
        parts += [
            f"times: n = {int(timed['n'].min())} per lane",
            str(timed["device_name"].iloc[0]),
            when(timed["last_at"].max()),
        ]
    return parts


def best_under_each_latency(study: Results) -> None:
    """The lane to use for each latency, by the decision."""
    st.html(html.heading("Which lane for which use", _USES))
    st.html(html.table(use_case_table(study)))
    rests = study.decision.sentence if study.decision else undecided(study.baseline)
    st.html(html.soft(labelled(rests, study.lane_labels)))
    if len((shown := guard_table(study)).rows):
        with st.expander("What each lane has shown by each guard"):
            st.html(html.table(shown))
            st.html(html.soft(_GUARDS))
    if study.terms:
        st.html(html.soft(" ".join(study.terms.lines)))


def converging(study: Results) -> None:
    """Errors relative to the converged solution over denoiser calls, and the observed order of each scheduler."""
    found = study.convergence
    st.html(html.heading("How fast they converge", _CONVERGE))
    if found.errors[found.errors["error"] > 0].empty:
        st.html(html.soft(_NO_ERRORS))
        return
    left, right = st.columns([1.5, 1], gap="large")
    with left:
        names = dict(zip(found.errors["scheduler"], found.errors["label"].astype(str), strict=True))
        st.html(_schedulers(names))
        components.chart(
            convergence_chart, found.errors, found.floor, alt="Median error of each lane over its denoiser calls"
        )
        floor = f"dashed: errors below {number(found.floor)} are not meaningful" if found.floor > 0 else ""
        components.footer(
            f"{components.extent(found.errors['n'])} prompts", "median over prompts with 95 % interval", floor
        )
        if study.reference_line:
            st.html(html.soft(study.reference_line))
    with right:
        st.html(html.soft(_ORDER))
        st.html(html.table(order_table(found.orders)))
        components.footer("fitted to the filled marks of each scheduler", "95 % intervals over prompts")


def figures(study: Results, table: pd.DataFrame, metric: str) -> None:
    """All figures of all lanes, sortable, and all metrics as a file."""
    st.html(html.heading("All figures", "Click a column's name to sort. The file has one row per lane and metric."))
    shown = wide_table(table, metric)
    st.dataframe(shown, hide_index=True, column_config=column_formats(shown), width="stretch")
    timed = table.dropna(subset=["median_ms"])
    places = [str(timed["device_name"].iloc[0]), when(timed["last_at"].max())] if len(timed) else []
    st.html(html.footer(["n is given in each row", "95 % bootstrap intervals", *places]))
    st.download_button(
        "Download as CSV", csv_of(table, study.id), f"{study.id}-speed-quality.csv", "text/csv", on_click="ignore"
    )


def whole_sets(study: Results) -> None:
    """Metrics of whole sets of pictures, with warnings; nothing if the study has none."""
    missing = [
        f"{row['label']}: {row['unavailable']}"
        for _, row in study.set_metrics.iterrows()
        if isinstance(row["unavailable"], str)
    ]
    if study.sets.empty and not missing:
        return
    known = study.sets.dropna(subset=["value"])
    lanes = {lane.key: (lane.label, lane.scheduler) for lane in study.lanes}
    with st.expander(f"Metrics of whole sets of pictures ({count(len(known), 'value')})"):
        st.html(html.soft(_SETS))
        if len(known):
            st.html(html.table(set_table(known, lanes)))
            components.footer("n is given in each row", "95 % bootstrap intervals over prompts")
        st.html(html.method([*refusal_lines(study.sets), *missing, *feature_lines(study.sets)]))
