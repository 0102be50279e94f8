"""The Tune page: what a tuned schedule is worth, where its calls lie, and the snippet, or why there is nothing."""

import json
from pathlib import Path
from typing import Any

from engine.display.tuned_words import sentences, tuned_table
from engine.sharing.snippet import snippet
from engine.study.custom_schedules import CustomSchedule
from engine.study.tuned import TunedSchedule
from tests.dashboard.conftest import OpenPage

SEARCH = {
    "better": True,
    "validation_median": {"default": 0.2, "karras": 0.08, "local errors": 0.06, "chosen": 0.03},
    "log_snr": {"default": [-5.0, 0.0, 2.0], "karras": [-5.0, 1.0, 5.0], "chosen": [-5.0, 1.5, 6.0]},
    "curves": {"log_snr": [-5.0, 0.0, 5.0], "gain": [0.01, 0.2, 0.9], "local_error": [0.3, 0.2, 0.1]},
}
TEST = {
    "baseline": "dpmpp_2m:6",
    "decision": "Keep dpmpp_2m:6: too few prompts.",
    "n": 90,
    "lanes": {
        "dpmpp_2m:6": {"median": 0.1, "low": 0.08, "high": 0.12},
        "tuned_mine:3": {"median": 0.04, "low": 0.03, "high": 0.05},
        "dpmpp_2m_karras:3": {"median": 0.08, "low": 0.07, "high": 0.09},
    },
    "best_known": "dpmpp_2m_karras:3",
    "ratio": {"value": 0.5, "low": 0.4, "high": 0.6},
}


def tuned(**evidence: Any) -> TunedSchedule:
    return TunedSchedule(
        name="mine",
        scheduler="dpmpp_2m",
        target="diffusers:DPMSolverMultistepScheduler",
        overrides={},
        settings={"final_sigmas_type": "zero"},
        schedule=CustomSchedule("timesteps", (999.0, 400.0, 20.0)),
        steps=3,
        model="<b>mine</b>",
        source="/models/mine",
        fingerprint="f",
        pipeline="StableDiffusionPipeline",
        wrapped=False,
        guidance_scale=7.5,
        negative_prompt="",
        width=64,
        height=64,
        evidence=evidence,
    )


def test_it_shows_worth_placement_and_snippet(tmp_path: Path, open_page: OpenPage) -> None:
    found = tuned(search=SEARCH, test=TEST)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "mine.json").write_text(json.dumps(found.spec()))
    (tmp_path / "tuned" / "broken.json").write_text("{")
    page = open_page("tune", tmp_path / "c.duckdb")
    assert not page.exception
    assert page.code[0].value == snippet(found).rstrip("\n")
    shown = "".join(element.proto.body for element in page.get("html"))
    assert "0.50 of that of dpmpp_2m_karras:3 (0.40 to 0.60, n = 90)" in shown
    assert "Keep dpmpp_2m:6" in shown
    assert "broken.json" in shown
    assert "<b>mine</b>" not in shown


def test_without_any_it_says_how_to_get_one(tmp_path: Path, open_page: OpenPage) -> None:
    page = open_page("tune", tmp_path / "c.duckdb")
    assert not page.exception
    assert "python -m engine tune" in "".join(element.proto.body for element in page.get("html"))


def test_less_evidence_never_reads_bolder() -> None:
    assert sentences(tuned()) == ["The file says nothing of how the schedule was found."]
    assert "not been proved" in sentences(tuned(search=SEARCH))[-1]
    worse = {**SEARCH, "better": False}
    assert sentences(tuned(search=worse))[0].startswith("Nothing better was found: keep karras")
    open_end = {**TEST, "ratio": {"value": 0.5, "low": 0.2, "high": 1.1}}
    assert sentences(tuned(search=SEARCH, test=open_end))[1].startswith("On the test, keep dpmpp_2m_karras:3")
    unknown = {**TEST, "ratio": {"value": 0.5, "low": float("nan"), "high": float("nan")}}
    assert sentences(tuned(search=SEARCH, test=unknown))[1].startswith("On the test, keep dpmpp_2m_karras:3")


def test_the_table_has_each_schedule_once_with_what_was_measured() -> None:
    rows = [[getattr(cell, "text", cell) for cell in row] for row in tuned_table(tuned(search=SEARCH, test=TEST)).rows]
    assert rows[0] == ["tuned_mine:3", "0.0300", "0.0400 (0.0300 to 0.0500)"]
    assert rows[1] == ["local errors", "0.0600", ""]
    assert [row[0] for row in rows].count("dpmpp_2m_karras:3") == 1
    assert rows[-1] == ["dpmpp_2m:6", "", "0.1000 (0.0800 to 0.1200)"]
