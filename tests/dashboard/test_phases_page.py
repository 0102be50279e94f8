"""The Phases page: what it says of runs whose phases are known, of what was not recorded, and its address."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from engine.analysis.clip_phases import clip_phases
from engine.cache import score_tables, step_tables
from engine.cache.connection import reading
from engine.display import formats, theme
from tests.dashboard import phase_caches
from tests.dashboard.phase_caches import write, write_swaps
from tests.dashboard.reading_pages import address, cards, charts, words

OpenPhases = Callable[..., AppTest]


@pytest.fixture
def open_phases(open_page: Callable[..., AppTest]) -> OpenPhases:
    """Call it as `open_phases(path, lanes="ddim:50")`: returns the Phases page at that address after its first run."""
    return lambda cache, **query: open_page("phases", cache, query=query)


def _recorded(**changes: Any) -> Callable[[Path, ModuleType], object]:
    return lambda path, synthetic: write(path, synthetic, **changes)


# State -> (how to make the cache, what the page says).
STATES: dict[str, tuple[Callable[[Path, ModuleType], object], str]] = {
    "usual": (_recorded(), "Where the phases lie"),
    "one lane": (_recorded(lanes=("euler:30",)), "Half of all change, Euler 30"),
    "one seed": (_recorded(seeds=(3,)), "n = 6 prompts, 6 runs per lane"),
    "one cell of one step": (_recorded(lanes=("ddim:1",), prompts=("x",), seeds=(0,)), "Where the phases lie"),
    "one cell of two steps": (_recorded(lanes=("ddim:2",), prompts=("x",), seeds=(0,)), "Where the phases lie"),
    "three studies": (phase_caches.write_three, "third"),
    "older cells": (_recorded(older=True), "Made by an earlier version"),
    "never scored": (_recorded(scored=False), "has not been measured for these lanes"),
    "half run": (phase_caches.write_half_run, "Half of all change, DPM++ 2M 20"),
    "no log-SNR": (phase_caches.write_without_levels, "Where the phases lie"),
    "damaged numbers": (phase_caches.write_damaged, "Where the phases lie"),
    "hostile prompts": (phase_caches.write_hostile, "Where the phases lie"),
    "with changes of prompt": (write_swaps, "Committed at"),
    "failed changes of prompt": (lambda path, synthetic: write_swaps(path, synthetic, failed=True), "Not measured in"),
}


@pytest.mark.parametrize("name", STATES)
def test_the_page_shows_content_or_a_plain_message(
    name: str, open_phases: OpenPhases, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "cache.duckdb"
    STATES[name][0](cache, synthetic)
    likeness = {"measure": "ssim_to_final"} if name == "never scored" else {}
    shown = open_phases(cache, **likeness)
    text = words(shown)
    assert STATES[name][1] in text
    assert "nan" not in text
    assert "<script" not in text
    assert ("Where the phases lie" in text) == bool(charts(shown)) or name == "one cell of one step"


@pytest.fixture(scope="module")
def recorded(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "cache.duckdb"
    write(path, synthetic)
    return path


def test_figures_are_those_of_the_known_phases(open_phases: OpenPhases, recorded: Path) -> None:
    """x0 moves evenly from -2 to 2: half of it lies in 2 units, that is in 20 % of the calls."""
    page = open_phases(recorded)
    found = cards(page)
    low, high = map(float, re.findall(r"[\d.]+", found["Half of all change, DDIM 50"][0]))
    assert high - low == pytest.approx(20, abs=2)
    assert 30 <= low < high <= 72
    # Within 0.3 of the end at 0.8, that is at 58 % of the calls.
    assert found["Near its final picture from, DDIM 50"][0] == "59 %"
    text = words(page)
    assert "n = 6 prompts, 12 runs per lane" in text
    assert "95 % bootstrap intervals over prompts" in text
    assert "Example CPU, 2 cores" in text
    assert "UTC" in text


def test_clips_show_that_motion_settles_before_appearance_and_pictures_show_nothing_of_it(
    open_phases: OpenPhases, recorded: Path, synthetic: ModuleType, tmp_path: Path
) -> None:
    assert "Motion and appearance" not in words(open_phases(recorded))
    write(tmp_path / "c.duckdb", synthetic, clips=True)
    with reading(tmp_path / "c.duckdb") as db:
        lane = "ddim:50"
        tables = step_tables.step_curves(db, "quick", lane), score_tables.frame_curves(db, "quick", lane)
    [found] = clip_phases(*tables, [lane])
    assert found.lead is not None
    assert found.lead.value > 0
    page = open_phases(tmp_path / "c.duckdb")
    text = words(page)
    assert "Motion ahead by (steps)" in text
    assert formats.signed(found.lead.value) in text
    assert formats.percent(found.motion["progress"].value) in text
    assert any("Motion energy of x0" in json.dumps(spec) for spec in charts(page))


def test_every_chart_has_its_axis_in_log_snr_and_a_ruler_of_progress(open_phases: OpenPhases, recorded: Path) -> None:
    found = [json.dumps(spec) for spec in charts(open_phases(recorded))]
    assert len(found) == 2 + 4 + 1 + 2, "spans twice, four measures, the spectrum, and two views of the way"
    assert sum("Calls done" in spec for spec in found) == 5
    assert sum("Log-SNR: noise" in spec for spec in found) == 6
    looks = [theme.look("ddim"), theme.look("dpmpp_2m")]
    for spec in found[:6] + found[7:]:
        assert all(look.colour in spec and look.shape in spec for look in looks)


def test_pickers_change_what_is_shown_and_the_address(open_phases: OpenPhases, recorded: Path) -> None:
    page = open_phases(recorded)
    assert address(page) == {
        "study": "quick",
        "lanes": "ddim:50,dpmpp_2m:20",
        "measure": "x0_distance",
        "spectrum": "ddim:50",
        "prompt": "p0",
        "seed": "0",
    }
    page.multiselect("lanes_choice").set_value(["dpmpp_2m:20"]).run()
    assert address(page)["lanes"] == "dpmpp_2m:20"
    assert address(page)["spectrum"] == "dpmpp_2m:20"
    assert "Half of all change, DPM++ 2M 20" in cards(page)
    assert "Half of all change, DDIM 50" not in cards(page)
    page.selectbox("measure_choice").set_value("ssim_to_final").run()
    assert "SSIM of x0 to the final picture" in json.dumps(charts(page))
    assert address(open_phases(recorded, **address(page))) == address(page)


def test_a_measure_that_is_not_available_says_why(open_phases: OpenPhases, recorded: Path) -> None:
    assert "CLIP similarity: not available: no CLIP is here." in words(
        open_phases(recorded, measure="similarity_to_final")
    )


def test_bad_values_in_the_address_fall_back_quietly(open_phases: OpenPhases, recorded: Path) -> None:
    usual = address(open_phases(recorded))
    for bad in ("", "x", "<script>", "ddim:51,,", "9" * 400):
        page = open_phases(recorded, **dict.fromkeys(("lanes", "measure", "spectrum", "prompt", "seed"), bad))
        assert address(page) == usual


def test_older_cells_are_counted_and_show_what_they_have(
    open_phases: OpenPhases, tmp_path: Path, synthetic: ModuleType
) -> None:
    write(tmp_path / "c.duckdb", synthetic, older=True)
    page = open_phases(tmp_path / "c.duckdb")
    text = words(page)
    assert "DDIM 50: 12 of 12 cells; DPM++ 2M 20: 12 of 12 cells" in text
    assert text.count("which an earlier version made") == 3, "guidance energy, spectrum, and the path of x0"
    assert len(charts(page)) == 2 + 3


def test_without_guidance_its_energy_is_said_to_be_off(
    open_phases: OpenPhases, tmp_path: Path, synthetic: ModuleType
) -> None:
    write(tmp_path / "c.duckdb", synthetic, older=True, guidance_scale=1.0)
    assert "Guidance is off in this study (guidance 1)" in words(open_phases(tmp_path / "c.duckdb"))


def test_the_claim_about_the_critical_phase_has_its_verdict(open_phases: OpenPhases, recorded: Path) -> None:
    page = open_phases(recorded)
    name = next(name for name in cards(page) if "critical phase" in name)
    assert cards(page)[name][0].split()[-1].lower() in {"confirmed", "refuted", "undecided"}
    assert "between 40 and 80 %" in words(page)


def test_commitment_is_read_between_the_changes_of_prompt(
    open_phases: OpenPhases, tmp_path: Path, synthetic: ModuleType
) -> None:
    write_swaps(tmp_path / "c.duckdb", synthetic)
    page = open_phases(tmp_path / "c.duckdb")
    text = words(page)
    assert "<b>40.0 %</b>" in text, "between 30 and 50 %"
    assert "n = 5 pairs of prompts, 10 runs at each point" in text
    assert text.count("<img") == 2 * 4, "two lanes, four shares"
    assert "by CLIP" in json.dumps(charts(page)[-1])
