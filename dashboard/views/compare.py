"""Compare: how the image forms under every lane, side by side, at one prompt and seed."""

import streamlit as st

from dashboard import components, page, state
from dashboard.compare import sections

chosen, study = page.open_study(watch_finished=False)
study = components.pick_times(study)
prompts, seeds, kinds = st.columns([3, 1, 2], vertical_alignment="bottom")
with prompts:
    prompt = state.choose_prompt(study.prompts)
with seeds:
    seed = state.choose_seed(study.seeds)
with kinds:
    kind = state.choose_kind()
sections.show(chosen, study, prompt, seed, kind)
state.keep_in_address(**state.compare_choices(study, prompt, seed, kind))
