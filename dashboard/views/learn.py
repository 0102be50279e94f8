"""Learn: latent space, guidance, solvers and denoiser calls, with live pictures and figures, for newcomers."""

import streamlit as st

from dashboard import page, state
from dashboard.learn import sections
from engine.display import html

chosen, study = page.look_for_study()
st.html(html.heading("How a picture comes about", "The ideas behind the other pages, with this study's pictures."))
subject = sections.choose(chosen, study)
sections.latent_space(subject)
sections.forming(subject)
sections.guidance(subject)
sections.solvers(subject)
sections.calls(subject)
if subject is not None:
    labels = state.prompt_labels(subject.study.prompts)
    state.keep_in_address(study=subject.study.id, prompt=labels[subject.prompt], seed=str(subject.seed))
