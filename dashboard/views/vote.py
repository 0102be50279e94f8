"""Vote: which of two final pictures is better, without knowing which scheduler made it."""

import streamlit as st

from dashboard import markup, page, state
from dashboard.vote import ballot, sections

chosen, study = page.open_study(watch_finished=False)
contest = sections.choose_contest(study)
address = {}
if contest is not None:
    if chosen.read_only:
        st.html(
            markup.note(
                "No votes here", "This dashboard was started with `--read-only`: it shows results and takes no votes."
            )
        )
    else:
        ballot.show(chosen, study, contest.one, contest.two)
    sections.results(chosen, study, contest)
    address = sections.address(contest)
state.keep_in_address(study=study.id, **address)
