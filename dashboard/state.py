"""What the reader has chosen, kept in the address of the page so that a copied link shows the same.

Streamlit's own binding leaves defaults out of the address. But the default study is the one that ran last, and prompts
may be added: for whoever opens the link tomorrow the defaults may be others. So study, prompt, seed and kind are always
written out, in the browser and in place of the present entry of its history, so that "back" leads back.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.options import Options, parse
from engine.display.formats import cut
from engine.results import Results

PROMPT_CHARACTERS = 80
# Noise first: the clean estimate of a small model is finished early, and shows little of the way.
KINDS = {"both": "From noise", "x0": "Estimate (x0)", "xt": "Noisy (x_t)"}

# Of the prompts and seeds of a study, by how far apart its lanes are there.
LIKENESS = {"different": "Most different", "typical": "Typical", "alike": "Most alike"}

_address = st.components.v2.component(
    "lab_address",
    js="""
export default function ({ data }) {
  const url = new URL(location.href);
  Object.entries(data).forEach(([name, value]) =>
    value === "" ? url.searchParams.delete(name) : url.searchParams.set(name, value));
  if (url.href !== location.href) history.replaceState(history.state, "", url);
}
""",
)


def options() -> Options:
    """The command line of this server.

    Raises:
        OptionsError: It cannot be understood.
    """
    return parse(sys.argv[1:])


def choose_study(names: Mapping[str, str]) -> str:
    """The study picker.

    Args:
        names: Study id -> name, the last run first.
    """
    from_address("study", {key: key for key in names})
    return st.selectbox(
        "Study", list(names), format_func=lambda key: names[key], key="study_choice", persist_state="session"
    )


def expected_study(known: Sequence[str]) -> str:
    """The one of the known studies, of which there is one at least, that `choose_study` is going to give."""
    asked = st.query_params.get("study")
    if asked in known and asked not in (st.session_state.get("study_seen"), st.session_state.get("study_written")):
        return str(asked)
    chosen = st.session_state.get("study_choice")
    return str(chosen) if chosen in known else known[0]


def choose_prompt(prompts: Sequence[str]) -> str:
    """The prompt picker; the address holds the beginning of the prompt."""
    labels = prompt_labels(prompts)
    from_address("prompt", {label: prompt for prompt, label in labels.items()})
    return st.selectbox(
        "Prompt", list(prompts), format_func=lambda text: labels[text], key="prompt_choice", persist_state="session"
    )


def choose_seed(seeds: Sequence[int]) -> int:
    """The seed picker."""
    from_address("seed", {str(seed): seed for seed in seeds})
    return int(st.selectbox("Seed", list(seeds), key="seed_choice", persist_state="session"))


def choose_kind() -> str:
    """The switch between both pictures of a step, the clean estimate alone and the noisy image alone."""
    expected_kind()
    kind = st.segmented_control(
        "Picture",
        list(KINDS),
        format_func=lambda kind: KINDS[kind],
        required=True,
        key="kind_choice",
        persist_state="session",
    )
    return kind or "both"


def expected_kind() -> str:
    """What `choose_kind` is going to give."""
    from_address("kind", {kind: kind for kind in KINDS})
    return str(st.session_state.setdefault("kind_choice", "both"))


def expected_subject(study: Results, ranked: Sequence[tuple[str, int]]) -> tuple[str, int]:
    """The prompt and seed that the pickers are going to give: those asked for, or else the first of a ranking."""
    from_address("prompt", {label: prompt for prompt, label in prompt_labels(study.prompts).items()})
    from_address("seed", {str(seed): seed for seed in study.seeds})
    prompt, seed = st.session_state.get("prompt_choice"), st.session_state.get("seed_choice")
    known = [one for one in ranked if one[0] in study.prompts and one[1] in study.seeds]
    first = next((one for one in known if prompt in (None, one[0]) and seed in (None, one[1])), None)
    first = first or (study.prompts[0], study.seeds[0])
    prompt = st.session_state.setdefault("prompt_choice", first[0])
    seed = st.session_state.setdefault("seed_choice", first[1])
    return str(prompt), int(seed)


def choose_from(name: str, label: str, names: Mapping[str, str], default: str) -> str:
    """A picker kept in the address under its name: key -> what is shown."""
    from_address(name, {key: key for key in names})
    st.session_state.setdefault(f"{name}_choice", default)
    return st.selectbox(
        label, list(names), format_func=lambda key: names[key], key=f"{name}_choice", persist_state="session"
    )


def choose_environment(names: Mapping[str, str]) -> str:
    """The environment whose times are shown; a picker only if there are several."""
    if len(names) == 1:
        return next(iter(names))
    return st.selectbox(
        "Timed on", list(names), format_func=lambda key: names[key], key="environment", bind="query-params"
    )


def choose_batch_size(sizes: Sequence[int]) -> int:
    """The batch size whose times are shown; a picker only if there are several."""
    if len(sizes) == 1:
        return sizes[0]
    return int(st.selectbox("Batch size", list(sizes), key="batch", bind="query-params"))


def keep_in_address(**choices: str) -> None:
    """Writes choices to the address of the page; an empty text takes the choice out of it."""
    for name, value in choices.items():
        st.session_state[f"{name}_written"] = value
    _address(key="address", data=choices)


def from_address(name: str, allowed: Mapping[str, Any]) -> None:
    """Takes over a choice from the address if it came there from outside, and is allowed."""
    take_over(name, allowed.get)
    choice = st.session_state.pop(f"{name}_choice", None)
    if choice in allowed.values():
        # Set anew, so that the browser is told: on another page it would begin with the first option and send that.
        st.session_state[f"{name}_choice"] = choice


def take_over(name: str, read: Callable[[str], Any]) -> None:
    asked = st.query_params.get(name)
    known = (st.session_state.get(f"{name}_seen"), st.session_state.get(f"{name}_written"))
    if asked is not None and asked not in known and (value := read(asked)) is not None:
        st.session_state[f"{name}_choice"] = value
    st.session_state[f"{name}_seen"] = asked


def compare_choices(study: Results, prompt: str, seed: int, kind: str = "both") -> dict[str, str]:
    """What the address of the Compare page holds."""
    return {"study": study.id, "prompt": prompt_labels(study.prompts)[prompt], "seed": str(seed), "kind": kind}


def prompt_labels(prompts: Sequence[str]) -> dict[str, str]:
    """One short line for each prompt, all different."""
    labels: dict[str, str] = {}
    taken: set[str] = set()
    for prompt in prompts:
        label = base = cut(prompt, PROMPT_CHARACTERS) or "(empty prompt)"
        number = 2
        while label in taken:
            label, number = f"{base} ({number})", number + 1
        taken.add(label)
        labels[prompt] = label
    return labels
