"""Compare: how the image forms with every lane, side by side, for one prompt and seed."""

import streamlit as st

from dashboard import components, page, state
from dashboard.compare import controls, sections

chosen, study = page.open_study(watch_finished=False)
study = components.pick_times(study)
loaded = sections.load(chosen, study)
prompts, seeds, kinds, likenesses = st.container(key="pickers").columns([2, 0.8, 2.1, 2], vertical_alignment="bottom")
with prompts:
    prompt = state.choose_prompt(study.prompts)
with seeds:
    seed = state.choose_seed(study.seeds)
with kinds:
    kind = state.choose_kind()
with likenesses:
    controls.go_to_likeness(loaded.differences)
sections.show(study, loaded)
state.keep_in_address(**state.compare_choices(study, prompt, seed, kind))
