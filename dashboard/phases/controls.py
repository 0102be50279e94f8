"""Controls of the Phases page, kept in the page's address."""

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from dashboard import state
from engine.results import Results

FIRST_LANES = 4
MOST_LANES = 8
# Measures that compare x0 with the final picture: key -> name and axis title.
MEASURES = {
    "x0_distance": ("Distance in latent space", "Distance of x0 to the final latents (relative L2, 0: equal)"),
    "similarity_to_final": ("CLIP similarity", "CLIP similarity of x0 to the final picture (cosine)"),
    "ssim_to_final": ("SSIM", "SSIM of x0 to the final picture (1: equal)"),
    "sharpness_of_final": ("Sharpness", "Sharpness of x0 over that of the final picture"),
}


@dataclass(frozen=True)
class Choice:
    """The reader's choices.

    Attributes:
        lanes: Keys of lanes, in the study's order.
        measure: A key of `MEASURES`.
        lane: The lane whose spectrum is shown.
        prompt: The prompt whose path is shown.
        seed: The seed whose path is shown.
    """

    lanes: tuple[str, ...]
    measure: str
    lane: str
    prompt: str
    seed: int


def choose(study: Results) -> Choice | None:
    """All controls of the page, in one row; None if the study has no lane, prompt or seed."""
    if not (study.lanes and study.prompts and study.seeds):
        return None
    labels = study.lane_labels
    row = st.container(key="pickers")
    columns = row.columns([4.6, 1.6, 1.4, 1.4, 0.7], vertical_alignment="top")
    with columns[0]:
        lanes = _choose_lanes(labels, study.baseline)
    with columns[1]:
        measure = _choose("measure", "Likeness by", {key: name for key, (name, _) in MEASURES.items()})
    with columns[2]:
        lane = _choose("spectrum", "Spectrum of", {key: labels[key] for key in lanes})
    with columns[3]:
        prompt = state.choose_prompt(study.prompts)
    with columns[4]:
        seed = state.choose_seed(study.seeds)
    return Choice(lanes, measure, lane, prompt, seed)


def address(study: Results, choice: Choice | None) -> dict[str, str]:
    """The parameters of the page's address."""
    if choice is None:
        return {"study": study.id}
    prompt = state.prompt_labels(study.prompts)[choice.prompt]
    return {
        "study": study.id,
        "lanes": ",".join(choice.lanes),
        "measure": choice.measure,
        "spectrum": choice.lane,
        "prompt": prompt,
        "seed": str(choice.seed),
    }


def _choose_lanes(labels: Mapping[str, str], baseline: str) -> tuple[str, ...]:
    """The choice of lanes; by default the first few, including the baseline."""
    usual = list(dict.fromkeys([*(key for key in labels if key == baseline), *labels]))[:FIRST_LANES]
    usual = [key for key in labels if key in usual]

    def read(text: str) -> list[str] | None:
        return [key for key in labels if key in text.split(",")][:MOST_LANES] or None

    state.take_over("lanes", read)
    known = [key for key in st.session_state.get("lanes_choice", []) if key in labels]
    st.session_state["lanes_choice"] = known or usual
    chosen = st.multiselect(
        "Lanes",
        list(labels),
        format_func=lambda key: labels[key],
        key="lanes_choice",
        max_selections=MOST_LANES,
        persist_state="session",
    )
    return tuple(key for key in labels if key in chosen) or tuple(usual)


def _choose(name: str, label: str, names: Mapping[str, str]) -> str:
    state.from_address(name, {key: key for key in names})
    return st.selectbox(
        label, list(names), format_func=lambda key: names[key], key=f"{name}_choice", persist_state="session"
    )
