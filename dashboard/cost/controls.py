"""What the reader of the Cost page has chosen, kept in the address of the page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard import state
from engine.analysis.cost import Preset, Pricing, Rate, Workload

OWN = "own"


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
    "seconds",
    "Baseline seconds per image",
    None,
    0.001,
    600.0,
    0.1,
    "On the GPU that is priced. The other lanes are scaled by their measured ratio. Empty: times as measured.",
)


IMAGES = Number("images", "Images a month", 1_000_000, 1, 100_000_000, 100_000, "Images made in a month of 730 hours.")


BUSY = Number(
    "busy",
    "Utilisation (%)",
    30,
    1,
    100,
    5,
    "Share of the paid time in which images are made. Reported averages lie between 10 and 40 %.",
)


PEAK = Number(
    "peak",
    "Images per second at the peak",
    1.0,
    0.0,
    100.0,
    0.5,
    "Sets how many whole GPUs are needed. 0: not known; they then follow from the month and the utilisation.",
)


WAIT = Number(
    "wait",
    "Longest wait at the peak (s)",
    5.0,
    0.0,
    600.0,
    1.0,
    "95 % of the images are begun within this time; making them comes on top.",
)


KWH = Number(
    "kwh",
    "Price per kWh ($)",
    None,
    0.001,
    10.0,
    0.01,
    "What you pay for electricity, for the dollars beside the energy. Empty: none are shown.",
)


FPS = Number(
    "fps",
    "Frames per second",
    8.0,
    1.0,
    120.0,
    1.0,
    "At which the clips are played: your choice, since the number of frames is all that a model fixes.",
)


def preset_of(device: str, presets: Iterable[Preset]) -> Preset | None:
    """The first price of the very GPU that was measured, if there is one."""
    return next((preset for preset in presets if preset.device == device), None)


def default_pricing(device: str, presets: Iterable[Preset]) -> Pricing:
    """What the Cost page starts with, for times measured on a device."""
    preset = preset_of(device, presets)
    rate = Rate(preset.usd_per_hour, preset.sold_in) if preset else Rate(_default(PRICE))
    work = Workload(_default(IMAGES), _default(BUSY) / 100, _default(PEAK), _default(WAIT))
    return Pricing(preset, rate, work, None, "")


def _default(field: Number) -> float:
    if field.default is None:
        raise ValueError(f"'{field.name}' has no default.")
    return field.default


def choose_number(field: Number, placeholder: str = "") -> Any:
    """A number field; None if it is empty, which only a field without default can be."""
    key = f"{field.name}_choice"
    state.take_over(field.name, field.read)
    st.session_state.setdefault(key, field.default)
    empty: dict[str, Any] = {"value": None, "placeholder": placeholder} if field.default is None else {}
    return st.number_input(
        field.label, field.low, field.high, step=field.step, help=field.help, key=key, persist_state="session", **empty
    )


def choose_preset(names: Mapping[str, str], default: str) -> str:
    """The picker of a GPU and its price: key -> name."""
    state.from_address("gpu", {key: key for key in names})
    st.session_state.setdefault("gpu_choice", default)
    return st.selectbox(
        "GPU and price", list(names), format_func=lambda key: names[key], key="gpu_choice", persist_state="session"
    )


def forget_seconds_of_another_gpu(gpu: str) -> None:
    """Empties the seconds per image when another GPU is priced than before: they were entered for that one."""
    if st.session_state.get("gpu_priced", gpu) != gpu:
        st.session_state[f"{SECONDS.name}_choice"] = None
    st.session_state["gpu_priced"] = gpu


def choose_lane(labels: Mapping[str, str], default: str) -> str:
    """The picker of the lane to compare with the baseline: key -> label; "" if there is none."""
    if not labels:
        return ""
    state.from_address("lane", {key: key for key in labels})
    if default in labels:
        st.session_state.setdefault("lane_choice", default)
    return st.selectbox(
        "Lane", list(labels), format_func=lambda key: labels[key], key="lane_choice", persist_state="session"
    )


def choose_equal() -> bool:
    """The switch that leaves out lanes which are not known to be as good as the baseline."""
    state.from_address("equal", {"1": True, "0": False})
    st.session_state.setdefault("equal_choice", True)
    return st.toggle(
        "Only lanes as good as the baseline",
        key="equal_choice",
        persist_state="session",
        help="Shown to be as good by every guard of the decision.",
    )


def price_choices(choice: Pricing) -> dict[str, str]:
    """What the address of the Cost page holds."""
    numbers = {
        PRICE: choice.rate.usd_per_hour,
        SECONDS: choice.seconds,
        IMAGES: choice.work.images_per_month,
        BUSY: 100 * choice.work.utilisation,
        PEAK: choice.work.peak_per_second,
        WAIT: choice.work.wait_seconds,
        **({FPS: choice.clip.frames_per_second} if choice.clip else {}),
    }
    texts = {field.name: "" if value is None else f"{value:.10g}" for field, value in numbers.items()}
    return {"gpu": choice.preset.key if choice.preset else OWN, "lane": choice.lane, **texts}
