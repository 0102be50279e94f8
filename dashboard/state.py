"""What the reader has chosen, kept in the address of the page so that a copied link shows the same.

Streamlit's own binding leaves defaults out of the address. But the default study is the one that ran last, and prompts
may be added: for whoever opens the link tomorrow the defaults may be others. So study, prompt, seed and kind are always
written out, in the browser and in place of the present entry of its history, so that "back" leads back.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard.formats import cut
from dashboard.options import Options, parse
from dashboard.studies import StudyView
from engine.analysis.cost import Pricing

PROMPT_CHARACTERS = 80
OWN = "own"
KINDS = {"x0": "Clean estimate (x0)", "xt": "Noisy image (x_t)"}

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
    _from_address("study", {key: key for key in names})
    return st.selectbox(
        "Study", list(names), format_func=lambda key: names[key], key="study_choice", persist_state="session"
    )


def choose_prompt(prompts: Sequence[str]) -> str:
    """The prompt picker; the address holds the beginning of the prompt."""
    labels = prompt_labels(prompts)
    _from_address("prompt", {label: prompt for prompt, label in labels.items()})
    return st.selectbox(
        "Prompt", list(prompts), format_func=lambda text: labels[text], key="prompt_choice", persist_state="session"
    )


def choose_seed(seeds: Sequence[int]) -> int:
    """The seed picker."""
    _from_address("seed", {str(seed): seed for seed in seeds})
    return int(st.selectbox("Seed", list(seeds), key="seed_choice", persist_state="session"))


def choose_kind() -> str:
    """The switch between the clean estimate and the noisy image."""
    _from_address("kind", {kind: kind for kind in KINDS})
    st.session_state.setdefault("kind_choice", "x0")
    kind = st.segmented_control(
        "Picture", list(KINDS), format_func=lambda kind: KINDS[kind], required=True, key="kind_choice",
        persist_state="session",
    )  # fmt: skip
    return kind or "x0"


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


def _from_address(name: str, allowed: Mapping[str, Any]) -> None:
    """Takes over a choice from the address if it came there from outside, and is allowed."""
    _take_over(name, allowed.get)
    if st.session_state.get(f"{name}_choice") not in allowed.values():
        st.session_state.pop(f"{name}_choice", None)


def _take_over(name: str, read: Callable[[str], Any]) -> None:
    asked = st.query_params.get(name)
    known = (st.session_state.get(f"{name}_seen"), st.session_state.get(f"{name}_written"))
    if asked is not None and asked not in known and (value := read(asked)) is not None:
        st.session_state[f"{name}_choice"] = value
    st.session_state[f"{name}_seen"] = asked


@dataclass(frozen=True)
class Number:
    """A number the reader sets: its name in the address, its label, and what is allowed. No default: may be empty."""

    name: str
    label: str
    default: float | None
    low: float
    high: float
    step: float
    help: str

    def read(self, text: str) -> float | None:
        """The number in an address, or None if it is not allowed."""
        try:
            value = type(self.low)(text)
        except ValueError:
            return None
        return value if self.low <= value <= self.high else None


PRICE = Number("price", "Price per GPU hour ($)", 1.0, 0.001, 1000.0, 0.1, "What you pay for an hour of one GPU.")
SECONDS = Number(
    "seconds", "Baseline seconds per image", None, 0.001, 600.0, 0.1,
    "On the GPU that is priced. The other lanes are scaled by their measured ratio. Empty: times as measured.",
)  # fmt: skip
IMAGES = Number("images", "Images a month", 1_000_000, 1, 100_000_000, 100_000, "Images made in a month of 730 hours.")
BUSY = Number(
    "busy", "Utilisation (%)", 30, 1, 100, 5,
    "Share of the paid time in which images are made. Reported averages lie between 10 and 40 %.",
)  # fmt: skip
PEAK = Number(
    "peak", "Images per second at the peak", 1.0, 0.0, 100.0, 0.5,
    "Sets how many whole GPUs are needed. 0: not known; they then follow from the month and the utilisation.",
)  # fmt: skip
WAIT = Number(
    "wait", "Longest wait at the peak (s)", 5.0, 0.0, 600.0, 1.0,
    "95 % of the images are begun within this time; making them comes on top.",
)  # fmt: skip


def choose_number(field: Number, placeholder: str = "") -> Any:
    """A number field; None if it is empty, which only a field without default can be."""
    key = f"{field.name}_choice"
    _take_over(field.name, field.read)
    st.session_state.setdefault(key, field.default)
    empty: dict[str, Any] = {"value": None, "placeholder": placeholder} if field.default is None else {}
    return st.number_input(
        field.label, field.low, field.high, step=field.step, help=field.help, key=key, persist_state="session", **empty
    )


def choose_preset(names: Mapping[str, str], default: str) -> str:
    """The picker of a GPU and its price: key -> name."""
    _from_address("gpu", {key: key for key in names})
    st.session_state.setdefault("gpu_choice", default)
    return st.selectbox(
        "GPU and price", list(names), format_func=lambda key: names[key], key="gpu_choice", persist_state="session"
    )


def forget_seconds_of_another_gpu(gpu: str) -> None:
    """Empties the seconds per image when another GPU is priced than before: they were entered for that one."""
    if st.session_state.get("gpu_priced", gpu) != gpu:
        st.session_state[f"{SECONDS.name}_choice"] = None
    st.session_state["gpu_priced"] = gpu


def choose_lane(labels: Mapping[str, str]) -> str:
    """The picker of the lane to compare with the baseline: key -> label."""
    _from_address("lane", {key: key for key in labels})
    return st.selectbox(
        "Lane", list(labels), format_func=lambda key: labels[key], key="lane_choice", persist_state="session"
    )


def price_choices(choice: Pricing) -> dict[str, str]:
    """What the address of the Cost page holds."""
    numbers = {
        PRICE: choice.rate.usd_per_hour, SECONDS: choice.seconds, IMAGES: choice.work.images_per_month,
        BUSY: 100 * choice.work.utilisation, PEAK: choice.work.peak_per_second, WAIT: choice.work.wait_seconds,
    }  # fmt: skip
    texts = {field.name: "" if value is None else f"{value:.10g}" for field, value in numbers.items()}
    return {"gpu": choice.preset.key if choice.preset else OWN, "lane": choice.lane, **texts}


def compare_choices(study: StudyView, prompt: str, seed: int, kind: str = "x0") -> dict[str, str]:
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
