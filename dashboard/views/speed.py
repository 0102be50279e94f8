"""Speed and quality: what each lane takes, how good its images are, and how fast it converges."""

import streamlit as st

from dashboard import components, page, state, verdicts
from dashboard.speed import choices, sections

chosen, study = page.open_study()
timings = components.pick_timings(study)
scores = page.require(lambda: verdicts.verdicts(chosen.cache, study.id)).value
table = sections.every_figure(study, timings, scores)
labels = {str(key): scores.label(str(key)) for key in table["metric"].dropna().unique()}
metric = ""
left, right, _ = st.columns([1.3, 1.5, 2.5], vertical_alignment="bottom")
with left:
    cost = choices.choose_axis(timed=not timings.empty)
if labels:
    with right:
        metric = choices.choose_metric(labels, scores.deciding)
sections.trade_off(study, table, scores, cost, metric)
sections.figures(study, table, metric)
sections.converging(study, page.require(lambda: verdicts.converging(chosen.cache, study.id)).value, scores)
sections.whole_sets(study, scores)
state.keep_in_address(study=study.id, axis=cost, metric=metric)
