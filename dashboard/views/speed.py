"""Speed and quality: the cost of each lane, the quality of its images, and how fast it converges."""

import streamlit as st

from dashboard import components, page, state
from dashboard.speed import controls, sections

chosen, study = page.open_study()
study = components.pick_times(study)
table = study.standings
labels = {str(key): study.metric_label(str(key)) for key in table["metric"].dropna().unique()}
metric = ""
left, right, _ = st.columns([1.7, 1.5, 2.1], vertical_alignment="bottom")
with left:
    cost = controls.choose_axis(timed=not study.times.empty)
if labels:
    with right:
        metric = controls.choose_metric(labels, study.deciding)
sections.trade_off(study, table, cost, metric)
sections.best_under_each_latency(study)
sections.figures(study, table, metric)
sections.converging(study)
sections.whole_sets(study)
state.keep_in_address(study=study.id, axis=cost, metric=metric)
