"""Controls of the Compare page, besides those shared with other pages."""

import streamlit as st

from dashboard.state import LIKENESS
from engine.analysis.differences import Differences


def go_to_likeness(found: Differences) -> None:
    """Goes to the prompt and seed where lanes differ most, least or typically."""
    if found.table.empty:
        return

    def go() -> None:
        likeness = st.session_state["go_to"]
        st.session_state["prompt_choice"], st.session_state["seed_choice"] = found.ranked(likeness, framed=True)[0]
        st.session_state["go_to"] = None  # an action, not a lasting choice

    st.segmented_control(
        "Go to where lanes are",
        list(LIKENESS),
        format_func=lambda key: LIKENESS[key].lower(),
        key="go_to",
        on_change=go,
    )
