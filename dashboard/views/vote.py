"""Vote: which of two final pictures is better, without knowing which scheduler made it."""

import streamlit as st

from dashboard import page, state
from dashboard.vote import sections
from engine.display import html

chosen, study = page.open_study(watch_finished=False)
contest = sections.choose_contest(study)
address = {}
if contest is not None:
    if chosen.read_only:
        st.html(html.note("No votes here", "This dashboard was started with `--read-only`: it only shows results."))
    else:
        sections.ballot(chosen, study, contest.one, contest.two)
    sections.results(chosen, study, contest)
    address = sections.address(contest)
state.keep_in_address(study=study.id, **address)
