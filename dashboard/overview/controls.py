"""Controls of the Overview."""

from typing import cast

import streamlit as st

from dashboard import state
from dashboard.state import LIKENESS
from engine.analysis.differences import Likeness


def likeness_chosen() -> Likeness:
    """The choice of prompts and seeds, known before the control is drawn."""
    state.from_address("likeness", {key: key for key in LIKENESS})
    return cast("Likeness", st.session_state.setdefault("likeness_choice", "different"))


def choose_likeness() -> None:
    """The switch between prompts where lanes differ most, least or typically."""
    st.segmented_control(
        "Prompts and seeds",
        list(LIKENESS),
        format_func=lambda key: LIKENESS[key],
        key="likeness_choice",
        required=True,
        persist_state="session",
    )
