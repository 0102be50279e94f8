"""Controls of the Cost page, kept in the page's address."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard import state
from engine.analysis.cost import Preset, Pricing, Rate, Workload

OWN = "own"


@dataclass(frozen=True)
class Number:
    """A number field: its name in the address, its label and its bounds. Without a default it may be empty."""

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
    "On the priced GPU. The other lanes are scaled by their measured ratio. Empty: times as measured.",
)
IMAGES = Number(
    "images", "Images per month", 1_000_000, 1, 100_000_000, 100_000, "Images made in a month of 730 hours."
)
BUSY = Number(
    "busy",
    "Utilisation (%)",
    30,
    1,
    100,
    5,
    "Share of the paid time in which images are made. Reported averages are between 10 and 40 %.",
)
PEAK = Number(
    "peak",
    "Images per second at peak",
    1.0,
    0.0,
    100.0,
    0.5,
    "Determines how many whole GPUs are needed. 0: unknown; they then follow from images per month and utilisation.",
)
WAIT = Number(
    "wait",
    "Longest wait at peak (s)",
    5.0,
    0.0,
    600.0,
    1.0,
    "95 % of the images are started within this time; the time to make them is extra.",
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
    "Playback rate of the clips: your choice, since the model only fixes the number of frames.",
)


def preset_of(device: str, presets: Iterable[Preset]) -> Preset | None:
    """The first price of the measured GPU, if there is one."""
    return next((preset for preset in presets if preset.device == device), None)


def default_pricing(device: str, presets: Iterable[Preset]) -> Pricing:
    """The initial values of the Cost page, for times measured on a device."""
    preset = preset_of(device, presets)
    rate = Rate(preset.usd_per_hour, preset.sold_in) if preset else Rate(_default(PRICE))
    work = Workload(_default(IMAGES), _default(BUSY) / 100, _default(PEAK), _default(WAIT))
    return Pricing(preset, rate, work, None, "")


def _default(field: Number) -> float:
    if field.default is None:
        raise ValueError(f"'{field.name}' has no default.")
    return field.default


def choose_number(field: Number, placeholder: str = "") -> Any:
    """Draws a number field; None if it is empty, which only a field without a default can be."""
    key = f"{field.name}_choice"
    state.take_over(field.name, field.read)
    st.session_state.setdefault(key, field.default)
    empty: dict[str, Any] = {"value": None, "placeholder": placeholder} if field.default is None else {}
    return st.number_input(
        field.label, field.low, field.high, step=field.step, help=field.help, key=key, persist_state="session", **empty
    )


def choose_preset(names: Mapping[str, str], default: str) -> str:
    """The choice of a GPU and its price: key -> name."""
    state.from_address("gpu", {key: key for key in names})
    st.session_state.setdefault("gpu_choice", default)
    return st.selectbox(
        "GPU and price", list(names), format_func=lambda key: names[key], key="gpu_choice", persist_state="session"
    )


def forget_seconds_of_another_gpu(gpu: str) -> None:
    """Clears the seconds per image when the priced GPU changes, since they were entered for the previous one."""
    if st.session_state.get("gpu_priced", gpu) != gpu:
        st.session_state[f"{SECONDS.name}_choice"] = None
    st.session_state["gpu_priced"] = gpu


def choose_lane(labels: Mapping[str, str], default: str) -> str:
    """The choice of the lane to compare with the baseline: key -> label; "" if there is none."""
    if not labels:
        return ""
    state.from_address("lane", {key: key for key in labels})
    if default in labels:
        st.session_state.setdefault("lane_choice", default)
    return st.selectbox(
        "Lane", list(labels), format_func=lambda key: labels[key], key="lane_choice", persist_state="session"
    )


def choose_equal() -> bool:
    """The switch that hides lanes not shown to be as good as the baseline."""
    state.from_address("equal", {"1": True, "0": False})
    st.session_state.setdefault("equal_choice", True)
    return st.toggle(
        "Only lanes as good as the baseline",
        key="equal_choice",
        persist_state="session",
        help="Accepted by every guard of the decision.",
    )


def price_choices(choice: Pricing) -> dict[str, str]:
    """The parameters of the page's address."""
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
