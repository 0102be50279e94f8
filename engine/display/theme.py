"""Colours and shapes: a scheduler looks the same on all pages, in light and dark mode.

Colours have a contrast of at least 3:1 on both backgrounds and can be told apart with the common kinds of colour
blindness (a test computes both). Colour is never the only cue: each scheduler has a unique pair of colour and shape.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

BLUE, GOLD, TEAL, ROSE, OLIVE, LILAC = "#3f63e0", "#b8860f", "#17998f", "#e0357a", "#5f6d28", "#b07ae8"
COLOURS: Final = (BLUE, GOLD, TEAL, ROSE, OLIVE, LILAC)

# Vega's name of each shape, and a similar character.
SHAPES: Final = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "triangle-down": "▼",
    "cross": "✚",
    "triangle-right": "▶",
    "triangle-left": "◀",
}

ACCENT: Final = "#2a849c"
NEUTRAL: Final = "#7d8a92"

# The stages of a run, in order; the denoiser, which takes most of the time, has the accent colour.
STAGE_COLOURS: Final = {
    "text": "#7fb0bd",
    "denoiser": ACCENT,
    "scheduler": "#c08a3e",
    "decode": "#7d8a92",
    "other": "#aab4ba",
}


@dataclass(frozen=True)
class Look:
    """Colour and shape of a scheduler.

    Attributes:
        colour: As "#rrggbb".
        shape: Vega's name of the mark's shape.
    """

    colour: str
    shape: str

    @property
    def glyph(self) -> str:
        """The shape as a character."""
        return SHAPES[self.shape]


_LOOKS: Final = {
    "ddim": Look(BLUE, "circle"),
    "ddpm": Look(BLUE, "square"),
    "dpmpp_2m": Look(GOLD, "diamond"),
    "dpmpp_2m_karras": Look(GOLD, "triangle-up"),
    "dpmpp_2m_sde": Look(GOLD, "triangle-down"),
    "dpmpp_2s": Look(GOLD, "square"),
    "dpmpp_3m": Look(GOLD, "cross"),
    "dpm_sde": Look(GOLD, "circle"),
    "euler": Look(TEAL, "square"),
    "euler_a": Look(TEAL, "triangle-down"),
    "pndm": Look(ROSE, "triangle-up"),
    "lms": Look(ROSE, "cross"),
    "lcm": Look(ROSE, "circle"),
    "tcd": Look(ROSE, "diamond"),
    "heun": Look(OLIVE, "circle"),
    "kdpm2": Look(OLIVE, "diamond"),
    "kdpm2_a": Look(OLIVE, "triangle-down"),
    "unipc": Look(LILAC, "triangle-right"),
    "unipc_karras": Look(LILAC, "triangle-up"),
    "deis": Look(LILAC, "circle"),
    "sa_solver": Look(LILAC, "cross"),
    "dpmpp_2m_ays": Look(GOLD, "triangle-left"),
    "dpmpp_2m_beta": Look(ROSE, "triangle-left"),
    "dpmpp_2m_exponential": Look(BLUE, "triangle-left"),
    "dpmpp_2m_lu": Look(BLUE, "triangle-right"),
    "euler_ays": Look(TEAL, "triangle-left"),
    "euler_beta": Look(TEAL, "triangle-right"),
    "euler_exponential": Look(TEAL, "cross"),
    "heun_ays": Look(OLIVE, "triangle-left"),
    "heun_beta": Look(OLIVE, "triangle-right"),
    "heun_exponential": Look(OLIVE, "cross"),
    "flow_euler": Look(TEAL, "circle"),
    "flow_heun": Look(OLIVE, "square"),
    "edm_euler": Look(TEAL, "diamond"),
    "edm_dpmpp_2m": Look(GOLD, "triangle-right"),
    "euler_continuous": Look(TEAL, "triangle-up"),
    "cogvideox_ddim": Look(BLUE, "diamond"),
    "cogvideox_dpm": Look(BLUE, "triangle-down"),
}


def look(scheduler: str) -> Look:
    """The look of a scheduler; derived from the key, and so the same everywhere, if it is not built in."""
    known = _LOOKS.get(scheduler)
    if known is not None:
        return known
    digest = sha256(scheduler.encode("utf-8", "surrogatepass")).digest()
    return Look(COLOURS[digest[0] % len(COLOURS)], list(SHAPES)[digest[1] % len(SHAPES)])
