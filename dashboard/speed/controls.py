"""Controls of the page on speed and quality, kept in the page's address."""

from collections.abc import Mapping

import streamlit as st

from dashboard import state

AXES = {"ms": "Milliseconds", "nfe": "Denoiser calls", "steps": "Steps"}


def choose_axis(*, timed: bool) -> str:
    """The choice of the cost axis; milliseconds only if times were measured."""
    names = {key: name for key, name in AXES.items() if timed or key != "ms"}
    state.from_address("axis", {key: key for key in names})
    st.session_state.setdefault("axis_choice", next(iter(names)))
    chosen = st.segmented_control(
        "Cost",
        list(names),
        format_func=lambda key: names[key],
        required=True,
        key="axis_choice",
        persist_state="session",
    )
    return chosen or next(iter(names))


def choose_metric(labels: Mapping[str, str], default: str) -> str:
    """The choice of the quality metric: key -> label."""
    state.from_address("metric", {key: key for key in labels})
    st.session_state.setdefault("metric_choice", default)
    return st.selectbox(
        "Quality by", list(labels), format_func=lambda key: labels[key], key="metric_choice", persist_state="session"
    )
