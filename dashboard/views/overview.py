"""Overview: which lane to take, what it saves, what it does to the images, and how sure that is."""

import streamlit as st

from dashboard import components, page, share, state, verdicts
from dashboard.overview import sections

SHOWN_FAILURES = 20

chosen, study = page.open_study()
timings = components.pick_timings(study)
scores = page.require(lambda: verdicts.verdicts(chosen.cache, study.id)).value
headline = sections.top(study, timings, scores)
pictures, claims = st.columns([1.25, 1], gap="large")
with pictures:
    sections.final_pictures(chosen, study, headline.lane)
with claims:
    sections.tested_claims(chosen, study)
sections.times(timings)
sections.outcome(study)
components.failed_cells(study, SHOWN_FAILURES)
share.report(chosen, study)
state.keep_in_address(study=study.id)
