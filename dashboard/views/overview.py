"""Overview: which lane to take, what it saves, what it does to the images, and how sure that is."""

import streamlit as st

from dashboard import components, loaders, page, share, state
from dashboard.overview import sections

SHOWN_FAILURES = 20

chosen, study = page.open_study()
study = components.pick_times(study)
headline = sections.top(study)
shown, verdicts = page.require_all(chosen.cache, sections.pictures_of(study, headline.lane), loaders.claims_of(study))
pictures, claims = st.columns([1.25, 1], gap="large")
with pictures:
    sections.final_pictures(study, headline.lane, shown)
with claims:
    sections.tested_claims(study, verdicts)
sections.times(study.times)
sections.outcome(study)
components.failed_cells(study, SHOWN_FAILURES)
share.report(chosen, study)
state.keep_in_address(study=study.id)
