"""A scheduler looks the same everywhere, and its colour can be told apart by everyone."""

import itertools
import tomllib

import numpy as np
import numpy.typing as npt
import pytest

from engine.display import theme
from engine.paths import ROOT
from engine.study.schedulers import SCHEDULERS

Floats = npt.NDArray[np.float64]

# Machado, Oliveira and Fernandes 2009, full severity, for linear RGB.
VISION = {
    "usual": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
CONFIG = tomllib.loads((ROOT / "dashboard" / ".streamlit" / "config.toml").read_text())
BACKGROUNDS = [CONFIG["theme"][mode]["backgroundColor"] for mode in ("light", "dark")]
JUST_NOTICEABLE = 2.3  # CIE76 difference in Lab


def linear(colour: str) -> Floats:
    rgb = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear(colour) @ np.array([0.2126, 0.7152, 0.0722]))


def lab(rgb: Floats) -> Floats:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("colour", [*theme.COLOURS, theme.ACCENT, theme.NEUTRAL])
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_colour_stands_out_from_both_backgrounds(colour: str, background: str) -> None:
    light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_far_apart_in_every_kind_of_colour_vision(vision: str) -> None:
    seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in theme.COLOURS]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 6 * JUST_NOTICEABLE


def test_every_built_in_scheduler_has_a_look_of_its_own() -> None:
    looks = [theme.look(key) for key in SCHEDULERS]
    assert len(set(looks)) == len(looks)
    assert set(theme._LOOKS) == set(SCHEDULERS)


def test_an_unknown_scheduler_gets_a_stable_look() -> None:
    assert theme.look("my_plug_in") == theme.look("my_plug_in")
    assert theme.look("my_plug_in").colour in theme.COLOURS
    assert len({theme.look(f"plug_in_{number}") for number in range(50)}) > 20
    assert theme.look("\ud800").glyph
