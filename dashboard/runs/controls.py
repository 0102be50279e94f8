"""The form of the Runs page. It keeps invalid input, and is not part of the page's address."""

import streamlit as st

from dashboard.jobs.form import MODELS, Draft, PresetRequest, Request, lanes
from engine.display import html
from engine.errors import StudyError
from engine.study.schedulers import SCHEDULERS
from engine.study.study import load_study, presets
from engine.study.tuned import TUNED

OWN, FROM_PRESET = "My own", "A preset"
_DEFAULTS = {"ddim": "50", "dpmpp_2m": "20"}
_OTHER = "Another model"
_STEPS_IN_A_ROW = 4


def ask_for_study() -> Request:
    """The requested study: a preset, or the reader's own."""
    st.session_state.setdefault("run_from", FROM_PRESET)
    way = st.segmented_control("Study", [FROM_PRESET, OWN], key="run_from", required=True, persist_state="session")
    return _preset() if way == FROM_PRESET else _own()


def _preset() -> PresetRequest:
    names = presets()
    st.session_state.setdefault("run_preset", "quickstart" if "quickstart" in names else names[0])
    name = st.selectbox("Preset", names, key="run_preset", persist_state="session")
    try:
        study = load_study(name)
    except StudyError as error:
        st.html(html.soft(str(error)))
    else:
        extent = (
            f"{len(study.lanes)} lanes, {len(study.prompts)} prompts, {len(study.seeds)} seeds, model {study.model}"
        )
        st.html(html.soft(f"{study.description} {extent}."))
    return PresetRequest(name)


def _own() -> Draft:
    left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
    with left:
        name = _text(
            "Name",
            "run_name",
            "my-study",
            "Letters, digits, '.', '_' and '-'. A study of this name is replaced; its cells are kept.",
        )
    with middle:
        model = _model()
    with right:
        guidance = _number("Guidance scale", "run_guidance", 2.0, 100.0, 0.5)
    if model == _OTHER:
        model = _text(
            "Model folder or hub id", "run_other_model", "", "A diffusers folder on the server, or owner/name."
        )
    chosen = _lanes()
    left, right = st.columns([3, 2])
    with left:
        _begin("run_prompts", "red apple\nowl")
        prompts = st.text_area("Prompts, one per line", key="run_prompts", height=122, persist_state="session")
    with right:
        seeds = _text("Seeds", "run_seeds", "0", "For example 0, 1, 2 or 0-9.")
        baseline = _baseline(chosen)
    left, right = st.columns([3, 2])
    with left:
        negative = _text("Negative prompt", "run_negative", "")
    with right:
        repeats = _number("Timing samples of each lane", "run_repeats", 5.0, 1000.0, 1.0, "%d")
    return Draft(
        name=name,
        model=model,
        prompts=prompts or "",
        lanes=chosen,
        seeds=seeds,
        guidance=guidance,
        baseline=baseline,
        negative_prompt=negative,
        repeats=int(repeats),
    )


def _model() -> str:
    options = [*MODELS, _OTHER]
    _begin("run_model", MODELS[0])
    return str(st.selectbox("Model", options, key="run_model", persist_state="session"))


def _lanes() -> tuple[tuple[str, str], ...]:
    """The chosen schedulers with their step counts."""
    _begin("run_schedulers", list(_DEFAULTS))
    keys = st.multiselect(
        "Schedulers",
        list(SCHEDULERS),
        format_func=lambda key: SCHEDULERS[key].label,
        key="run_schedulers",
        persist_state="session",
    )
    chosen = []
    for first in range(0, len(keys), _STEPS_IN_A_ROW):
        for column, key in zip(st.columns(_STEPS_IN_A_ROW), keys[first : first + _STEPS_IN_A_ROW], strict=False):
            with column:
                label = f"{SCHEDULERS[key].label}: steps"
                steps = str(TUNED[key].steps) if key in TUNED else _DEFAULTS.get(key, "20")
                chosen.append((key, _text(label, f"run_steps_{key}", steps, "Several: 10, 20, 50.")))
    return tuple(chosen)


def _baseline(chosen: tuple[tuple[str, str], ...]) -> str:
    """The baseline lane; "" while the step counts are invalid."""
    try:
        options = list(dict.fromkeys(lanes(chosen)))
    except StudyError:
        options = []
    if st.session_state.get("run_baseline") not in options:
        st.session_state.pop("run_baseline", None)
    return str(st.selectbox("Baseline", options, key="run_baseline", persist_state="session") or "")


def _text(label: str, key: str, default: str, tip: str | None = None) -> str:
    _begin(key, default)
    return str(st.text_input(label, key=key, help=tip, persist_state="session") or "")


def _number(label: str, key: str, default: float, high: float, step: float, form: str | None = None) -> float:
    _begin(key, default)
    return st.number_input(label, 0.0, high, step=step, format=form, key=key, persist_state="session")


def _begin(key: str, default: object) -> None:
    st.session_state.setdefault(key, default)
