"""The Phases page in every state of the cache, what it says of runs whose phases are known, and its address."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.phases.markup import border_table, commitment_table, swap_pictures, within_claimed
from dashboard.studies import LaneView
from engine.analysis.borders import BORDERS, Measured
from engine.analysis.commitment import Commitment
from engine.analysis.statistics import Estimate
from engine.cache.connection import migrate, writing
from engine.cache.phases import FrameMetricRow, PhasesWriter, SwapRow
from engine.cache.quality import FrameScoreRow
from engine.cache.records import SketchRow, StepMetricRow, TrajectoryRow
from engine.cache.writer import CacheWriter
from engine.display import theme
from engine.display.phase_charts import commitment_chart, curve_chart, octave_chart, octave_name, path_chart, span_chart
from engine.study.cells import Cell
from engine.study.prompt_swaps import swaps

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"
LANES = ("ddim:50", "dpmpp_2m:20")
PROMPTS = tuple(f"p{number}" for number in range(6))
OpenPhases = Callable[..., AppTest]


@pytest.fixture
def open_phases(monkeypatch: pytest.MonkeyPatch) -> OpenPhases:
    """Call it as `open_phases(path, lanes="ddim:50")`: returns the Phases page at that address after its first run."""
    st.cache_data.clear()
    st.cache_resource.clear()

    def run(cache: Path, *arguments: str, **query: str) -> AppTest:
        monkeypatch.setattr(sys, "argv", ["app.py", "--cache", str(cache), *arguments])
        test = AppTest.from_file(str(APP), default_timeout=60)
        for key, value in query.items():
            test.query_params[key] = value
        return test.switch_page("views/phases.py").run()

    return run


def words(page: AppTest) -> str:
    """All HTML that the page shows, without the style sheet."""
    return "\n".join(element.proto.body for element in page.get("html") if "<style>" not in element.proto.body)


def cards(page: AppTest) -> dict[str, str]:
    """The headline figures: name -> value."""
    return dict(re.findall(r'<div class="name">(.*?)</div><div class="value">(.*?)</div>', words(page)))


def address(page: AppTest) -> dict[str, str]:
    """What the page writes to its address, as somebody would copy it."""
    written: Any = next(json.loads(part.proto.json) for part in page.get("bidi_component"))
    return {name: value for name, value in written.items() if value != ""}


def charts(page: AppTest) -> list[Any]:
    """The specifications of all charts."""
    return [json.loads(element.proto.spec) for element in page.get("vega_lite_chart")]


def with_steps(row: TrajectoryRow, cell: Cell, *, older: bool = False) -> TrajectoryRow:
    """A cell whose x0 moves evenly from log-SNR -2 to 2 and not elsewhere; `older`: as earlier versions recorded it."""
    calls = row.nfe or 0
    levels = np.linspace(-5, 5, calls)
    done = np.clip((levels + 2) / 4, 0, 1)
    metrics: dict[str, Any] = {"x0_distance": 1 - done, "x0_change": np.diff(done, prepend=np.nan)}
    if not older:
        metrics["guidance_energy"] = np.exp(-levels / 5)
        for octave, start in ((0, -1.0), (1, 0.0), (2, 1.0)):
            metrics[f"coherence_{octave}"] = np.ones(calls)
            metrics[f"power_{octave}"] = np.where(levels >= start, 1.0, 4.0)
    vector = np.random.default_rng(cell.seed).normal(size=(2, 128)).astype("<f2")
    sketches = [
        SketchRow(
            i,
            (i + 1) / calls,
            float(levels[i]),
            (vector[0] * done[i] + vector[1] * done[i] ** 2).astype("<f2").tobytes(),
        )
        for i in range(calls)
    ]
    return replace(
        row,
        step_metrics=tuple(
            StepMetricRow(i, (i + 1) / calls, float(levels[i]), metric, float(values[i]))
            for metric, values in metrics.items()
            for i in range(calls)
            if np.isfinite(values[i])
        ),
        sketches=() if older else tuple(sketches),
    )


def write(path: Path, synthetic: ModuleType, *, older: bool = False, scored: bool = True, **changes: Any) -> Any:
    """A finished study with recorded steps and scored frames."""
    plan = synthetic.study(**{"lanes": LANES, "prompts": PROMPTS, "seeds": (0, 1), "repeats": 0, **changes})
    writer = CacheWriter(path)
    planned = synthetic.begin(writer, plan)
    rows = [with_steps(synthetic.outcome(cell, plan.frames), cell, older=older) for cell in planned]
    writer.trajectories(rows, synthetic.MODEL, synthetic.LAPTOP)
    if scored:
        phases = PhasesWriter(path)
        phases.frame_metrics(
            plan.name,
            [
                FrameMetricRow("ssim_to_final", "1", "SSIM", "", "structural similarity"),
                FrameMetricRow("recognised", "1", "Recognised", "share", "named by CLIP"),
                FrameMetricRow(
                    "similarity_to_final", "1", "CLIP", "cosine", "cosine", "not available: no CLIP is here"
                ),
            ],
        )
        phases.frame_scores(
            [
                FrameScoreRow(row.trajectory_id, "x0", frame.step_index, metric, "1", float(value))
                for row in rows
                for frame in row.frames
                if frame.kind == "x0"
                for metric, value in (("ssim_to_final", frame.progress), ("recognised", frame.progress > 0.5))
            ]
        )
    return plan


def write_swaps(path: Path, synthetic: ModuleType, *, failed: bool = False) -> None:
    """The same with changes of prompt: runs keep to the first prompt if they had it for half of the calls."""
    plan = write(path, synthetic, commitment={"prompts": [[f"a{n}", f"b{n}"] for n in range(5)], "at": [0.3, 0.5]})
    asked = swaps(plan, synthetic.MODEL, "cpu")
    rows = []
    for swap in asked:
        calls, keeps = swap.first.lane.steps, swap.share >= 0.5
        row = SwapRow(
            swap.swap_id,
            synthetic.LAPTOP.environment_id,
            synthetic.MODEL.model_id,
            swap.first.lane.key,
            swap.first.trajectory_id,
            swap.second.trajectory_id,
            swap.first.prompt,
            swap.second.prompt,
            swap.first.seed,
            7.5,
            swap.share,
        )
        outcome = (
            {"error": "ValueError: it broke"}
            if failed
            else {
                "calls": calls,
                "swap_call": swap.call(calls),
                "progress": swap.share,
                "first_distance": 0.1,
                "log_snr": None if swap.share == 1 else 10 * swap.share - 5,
                "second_distance": 0.9,
                "judge": "clip",
                "first_probability": 0.9 if keeps else 0.1,
                "image": synthetic.drawing(40, 0, "x0", 0.5),
            }
        )
        rows.append(replace(row, **outcome))
    writer = PhasesWriter(path)
    writer.swaps(rows)
    writer.study_swaps(plan.name, [swap.swap_id for swap in asked])


def _stepless(**outcome: Any) -> Callable[[Path, ModuleType], object]:
    return lambda path, synthetic: synthetic.write(path, synthetic.study(prompts=("x",)), **outcome)


def _recorded(**changes: Any) -> Callable[[Path, ModuleType], object]:
    return lambda path, synthetic: write(path, synthetic, **changes)


def _three(path: Path, synthetic: ModuleType) -> None:
    for name in ("first", "second", "third"):
        write(path, synthetic, name=name, prompts=("x",), seeds=(0,))


def _hostile(path: Path, synthetic: ModuleType) -> None:
    write(path, synthetic, prompts=(synthetic.HOSTILE, synthetic.LONG), seeds=(0,))


def _half_run(path: Path, synthetic: ModuleType) -> None:
    """One lane done, one not begun yet."""
    plan = synthetic.study(lanes=LANES, prompts=PROMPTS, seeds=(0,), repeats=0)
    writer = CacheWriter(path)
    planned = synthetic.begin(writer, plan)
    rows = [with_steps(synthetic.outcome(c, plan.frames), c) for c in planned if c.lane.key == LANES[1]]
    writer.trajectories(rows, synthetic.MODEL, synthetic.LAPTOP)


def _without_levels(path: Path, synthetic: ModuleType) -> None:
    write(path, synthetic)
    with writing(path) as db:
        db.execute("UPDATE step_metrics SET log_snr = NULL")
        db.execute("UPDATE frames SET log_snr = NULL")
        db.execute("UPDATE step_sketches SET log_snr = NULL")


def _damaged(path: Path, synthetic: ModuleType) -> None:
    """Numbers that are none, and sketches that are torn: as a stranger's file may have them."""
    write_swaps(path, synthetic)
    with writing(path) as db:
        db.execute("UPDATE step_metrics SET value = 'nan' WHERE step_index = 3")
        db.execute("UPDATE step_metrics SET value = 'inf', log_snr = '-inf' WHERE step_index = 4")
        db.execute("UPDATE frame_quality SET value = 'inf' WHERE step_index = 0")
        db.execute("UPDATE step_sketches SET sketch = 'abc'::BLOB WHERE step_index = 0")
        db.execute("UPDATE step_sketches SET sketch = ? WHERE step_index = 1", [b"\xff" * 256])
        db.execute("UPDATE commitment SET progress = 'nan', log_snr = 'inf' WHERE share = 0.5")


NONE = "No steps have been recorded yet"
# State -> (how to make the cache, what the page says).
STATES: dict[str, tuple[Callable[[Path, ModuleType], object], str]] = {
    "no file": (lambda path, synthetic: None, "There is no cache yet"),
    "no bytes": (lambda path, synthetic: path.touch(), "The cache is empty"),
    "no study": (lambda path, synthetic: migrate(path), "No study has been run yet"),
    "outdated": (lambda path, synthetic: synthetic.write_outdated(path), "engine migrate"),
    "usual": (_recorded(), "Where the phases lie"),
    "one lane": (_recorded(lanes=("euler:30",)), "Half of all change, Euler 30"),
    "one seed": (_recorded(seeds=(3,)), "n = 6 prompts, 6 runs per lane"),
    "one cell of one step": (_recorded(lanes=("ddim:1",), prompts=("x",), seeds=(0,)), "Where the phases lie"),
    "one cell of two steps": (_recorded(lanes=("ddim:2",), prompts=("x",), seeds=(0,)), "Where the phases lie"),
    "three studies": (_three, "third"),
    "older cells": (_recorded(older=True), "Made by an earlier version"),
    "never scored": (_recorded(scored=False), "has not been measured for these lanes"),
    "half run": (_half_run, "Half of all change, DPM++ 2M 20"),
    "no log-SNR": (_without_levels, "Where the phases lie"),
    "damaged numbers": (_damaged, "Where the phases lie"),
    "hostile prompts": (_hostile, "Where the phases lie"),
    "with changes of prompt": (write_swaps, "Committed at"),
    "failed changes of prompt": (lambda path, synthetic: write_swaps(path, synthetic, failed=True), "Not measured in"),
    "no steps recorded": (_stepless(), NONE),
    "all failed": (_stepless(failed=("ddim:50", "dpmpp_2m:20", "euler:30", "pndm:35")), NONE),
    "nothing has run": (_stepless(missing=("ddim:50", "dpmpp_2m:20", "euler:30", "pndm:35")), NONE),
}


@pytest.mark.parametrize("name", STATES)
def test_the_page_shows_content_or_a_plain_message(
    name: str, open_phases: OpenPhases, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "cache.duckdb"
    STATES[name][0](cache, synthetic)
    likeness = {"measure": "ssim_to_final"} if name == "never scored" else {}
    shown = open_phases(cache, **likeness)
    assert not shown.exception
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
    low, high = map(float, re.findall(r"[\d.]+", found["Half of all change, DDIM 50"]))
    assert high - low == pytest.approx(20, abs=2)
    assert 30 <= low < high <= 72
    # Within 0.3 of the end at 0.8, that is at 58 % of the calls.
    assert found["Near its final picture from, DDIM 50"] == "59 %"
    text = words(page)
    assert "n = 6 prompts, 12 runs per lane" in text
    assert "95 % bootstrap intervals over prompts" in text
    assert "Example CPU, 2 cores" in text
    assert "UTC" in text


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
        "lane": "ddim:50",
        "prompt": "p0",
        "seed": "0",
    }
    page.multiselect("lanes_choice").set_value(["dpmpp_2m:20"]).run()
    assert address(page)["lanes"] == "dpmpp_2m:20"
    assert address(page)["lane"] == "dpmpp_2m:20"
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
        page = open_phases(recorded, **dict.fromkeys(("lanes", "measure", "lane", "prompt", "seed"), bad))
        assert not page.exception
        assert address(page) == usual


def test_older_cells_are_counted_and_show_what_they_have(
    open_phases: OpenPhases, tmp_path: Path, synthetic: ModuleType
) -> None:
    write(tmp_path / "c.duckdb", synthetic, older=True)
    page = open_phases(tmp_path / "c.duckdb")
    text = words(page)
    assert "DDIM 50: 12 of 12 cells; DPM++ 2M 20: 12 of 12 cells" in text
    assert text.count("an earlier version made them") == 3, "guidance energy, spectrum, and the way of x0"
    assert len(charts(page)) == 2 + 3


def test_without_guidance_its_energy_is_said_to_be_off(
    open_phases: OpenPhases, tmp_path: Path, synthetic: ModuleType
) -> None:
    write(tmp_path / "c.duckdb", synthetic, older=True, guidance_scale=1.0)
    assert "Guidance is off in this study (guidance 1)" in words(open_phases(tmp_path / "c.duckdb"))


def test_the_claim_about_the_critical_phase_has_its_verdict(open_phases: OpenPhases, recorded: Path) -> None:
    page = open_phases(recorded)
    name = next(name for name in cards(page) if "critical phase" in name)
    assert cards(page)[name].split()[-1].lower() in {"confirmed", "refuted", "undecided"}
    assert "The critical denoising phase occurs between 40 and 80 % completion." in words(page)


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


def test_a_cache_that_is_being_written_is_read_as_it_was(
    open_phases: OpenPhases, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dashboard import asking
    from engine.errors import CacheBusy

    def busy(*arguments: Any, **options: Any) -> Any:
        raise CacheBusy("another process writes to it")

    with monkeypatch.context() as patch:
        patch.setattr(asking, "reading", busy)
        fresh = open_phases(recorded)
        assert not fresh.exception
        assert "The cache is being written" in words(fresh)


def test_read_only_is_accepted(open_phases: OpenPhases, recorded: Path) -> None:
    assert "Where the phases lie" in words(open_phases(recorded, "--read-only"))


def estimate(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value, value - half, value + half, 6, 12)


@pytest.mark.parametrize(
    ("start", "end", "word"),
    [
        (estimate(0.45), estimate(0.7), True),
        (estimate(0.2), estimate(0.7), False),
        (estimate(0.45), estimate(0.9), False),
        (estimate(0.40), estimate(0.7), None),
        (Estimate(0.45, float("nan"), float("nan"), 1, 1), estimate(0.7), None),
    ],
)
def test_a_phase_lies_within_the_claimed_span_if_its_intervals_do(
    start: Estimate, end: Estimate, word: bool | None
) -> None:
    assert within_claimed(start, end) is word


def test_labels_cannot_be_markup(synthetic: ModuleType) -> None:
    lane = LaneView("ddim:50", synthetic.HOSTILE, "ddim", 50, 50)
    measured = {("ddim:50", b.key): Measured(b, "ddim:50", {"progress": estimate(0.5)}, 12, 3) for b in BORDERS}
    point = {
        "lane": "ddim:50",
        "progress": 0.4,
        "progress_low": 0.3,
        "progress_high": 0.5,
        "runs": 3,
        "log_snr": -1.0,
        "log_snr_low": -2.0,
        "log_snr_high": 0.0,
        "pairs": 3,
        "never": 1,
    }
    points = pd.DataFrame([point])
    html = border_table([lane], measured, "ddim:50") + commitment_table([lane], Commitment(points, points, "CLIP", 0))
    html += swap_pictures([lane], [0.5], {("ddim:50", 0.5): "data:x"}, (synthetic.HOSTILE, "b"))
    assert "<script" not in html
    assert "onerror='" not in html
    assert "3 of 15 never" in html


def test_charts_are_drawn_from_little_as_well() -> None:
    """One place, one lane, no ruler, no interval."""
    one = pd.DataFrame(
        [
            {
                "label": "A",
                "scheduler": "ddim",
                "log_snr": 0.5,
                "median": 1.0,
                "low": 1.0,
                "high": 1.0,
                "runs": 1,
                "prompts": 1,
                "metric": "octave_0",
            }
        ]
    )
    none = pd.DataFrame(columns=["label", "scheduler", "log_snr", "progress"])
    assert curve_chart(one, none, "t").to_dict()
    assert octave_chart(one, none, "t").to_dict()
    span = {name: 0.5 for part in ("start_50", "end_50") for name in (part, f"{part}_low", f"{part}_high")}
    spans = pd.DataFrame([{"label": "A", "scheduler": "ddim", **span, "start_80": 0.4, "end_80": 0.6, "half": 0.5}])
    assert span_chart(spans, "t", "progress", (0.4, 0.8)).to_dict()
    points = pd.DataFrame(
        [
            {
                "label": "A",
                "scheduler": "ddim",
                "step_index": 0,
                "progress": 1.0,
                "log_snr": 0.0,
                "pca_1": 0.0,
                "pca_2": 0.0,
                "pca_3": 0.0,
            }
        ]
    )
    assert path_chart(points, (1, 2), (1.0, 0.0, 0.0)).to_dict()
    curve = pd.DataFrame(
        [
            {
                "label": "A",
                "scheduler": "ddim",
                "progress": 0.5,
                "log_snr": 0.0,
                "value": 1.0,
                "low": np.nan,
                "high": np.nan,
                "pairs": 1,
                "runs": 1,
            }
        ]
    )
    assert commitment_chart(curve, "t").to_dict()


def test_octaves_have_names() -> None:
    assert [octave_name(lower, 4) for lower in (0, 1, 2, 4)] == ["below 1", "1 – 2", "2 – 4", "4 and more"]
