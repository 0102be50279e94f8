"""Phases: how the image forms with each lane, and where its phases lie."""

import streamlit as st

from dashboard import page, state
from dashboard.phases import controls, sections
from dashboard.phases.data import load, older_cells
from engine.analysis.borders import BORDERS
from engine.display import html

NO_STEPS = "The cache has no steps of these lanes. `python -m engine run` records them as it makes the images."
METHOD = (
    "Log-SNR is the log of the ratio of signal to noise power at a call; it means the same for all lanes, whatever the "
    "spacing of their steps. Progress is the share of the calls made; with another spacing, the same noise level is "
    "reached at another percentage.",
    "Curves: each run (prompt and seed) is interpolated linearly on a common grid of log-SNR. The line is the median "
    "over runs; the band shows their 10 and 90 % quantiles, the spread of runs and not the uncertainty of the median.",
    "Guidance energy: ‖ε(prompt) − ε(no prompt)‖ / ‖ε(no prompt)‖ of each guided call.",
    "Octaves: a cosine transform of the latents; the distance of a band is ‖x0 − final‖ / ‖final‖ of its coefficients.",
    "Likeness to the final picture and recognisability are measured at stored frames, everything else at every call.",
    "Borders are means over prompts with bootstrap intervals; runs that never reach a border are left out and counted.",
)

chosen, study = page.open_study()
answer = st.container()  # above the pickers
choice = controls.choose(study)
recorded = None if choice is None else load(chosen, study, choice)
if choice is None or recorded is None or recorded.shown is None:
    st.html(html.note("No steps have been recorded yet", NO_STEPS))
else:
    shown, claims = recorded.shown, recorded.claims
    with answer:
        sections.top(shown, claims)
    older_cells(shown)
    sections.where(shown)
    with st.expander("More: noise levels, claims, curves, octaves, paths", key="more_phases"):
        sections.where_by_level(shown)
        sections.tested(claims)
        sections.forming(shown, choice)
        sections.clips(shown)
        left, right = st.columns([1, 1.25], gap="large")
        with left:
            sections.spectrum(shown, choice)
        with right:
            sections.paths(shown, choice)
if choice is not None and recorded is not None:
    sections.commitment(study, choice, recorded.changes)
with st.expander("How this is measured"):
    st.html(html.method([*METHOD, *(f"{border.label}: {border.definition}." for border in BORDERS)]))
state.keep_in_address(**controls.address(study, choice))
