"""Tune: schedules that were tuned for a model, what they are worth, and the lines that use them."""

import streamlit as st

from dashboard import page
from dashboard.tune import sections
from dashboard.tune.data import tuned_beside
from engine.display import html

chosen = page.options()
st.html(html.title("Tuned schedules", [], "Noise levels that make few calls as good as many, found for one model."))
found, problems = tuned_beside(chosen.cache)
if not found:
    sections.nothing(problems)
else:
    names = [tuned.name for tuned in found]
    name = st.selectbox("Schedule", names, key="tuned", bind="query-params") if len(names) > 1 else names[0]
    tuned = found[names.index(name)]
    sections.worth(tuned)
    sections.placement(tuned)
    sections.paste(tuned)
    sections.broken(problems)
sections.start(chosen, expanded=not found)
with st.expander("How it is found"):
    st.html(html.method(sections.METHOD))
