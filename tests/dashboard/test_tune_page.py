"""The Tune page: what a tuned schedule is worth, where its calls lie, and the snippet, or why there is nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dashboard.access import AccessDenied
from dashboard.jobs import runner, starting
from dashboard.jobs.form import TuneDraft, tune_options
from dashboard.jobs.queue import Queue
from dashboard.options import Options
from engine.cli import parser
from engine.display.tuned_words import class_table, sentences, tuned_table
from engine.errors import StudyError
from engine.passes.run import run_study
from engine.sharing.snippet import snippet
from engine.study.custom_schedules import CustomSchedule
from engine.study.source import find_model
from engine.study.study import load_study
from engine.study.tuned import TunedSchedule
from tests.dashboard.conftest import OpenPage
from tests.dashboard.reading_pages import words


def timed(milliseconds: float, cost: float, low: float, high: float) -> dict[str, dict[str, float]]:
    return {
        "milliseconds": {"value": milliseconds, "low": milliseconds - 1, "high": milliseconds + 1},
        "cost": {"value": cost, "low": low, "high": high},
    }


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
        "dpmpp_2m:6": {"median": 0.1, "low": 0.08, "high": 0.12, **timed(80.0, 1.0, float("nan"), float("nan"))},
        "tuned_mine:3": {"median": 0.04, "low": 0.03, "high": 0.05, **timed(40.0, 0.5, 0.48, 0.53)},
        "dpmpp_2m_karras:3": {"median": 0.08, "low": 0.07, "high": 0.09},
    },
    "classes": {
        "<i>Cats</i>": {
            "n": 30,
            "lanes": {"dpmpp_2m:6": {"median": 0.3, "low": 0.2, "high": 0.4}},
            "ratio": {"value": 0.8, "low": 0.7, "high": 0.9},
        },
        "Dogs": {"n": 1, "lanes": {}},
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
    assert "&lt;i&gt;Cats&lt;/i&gt;" in shown


def test_a_search_is_started_where_runs_are_allowed_and_nowhere_else(
    tmp_path: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "ensure", lambda queue: None)
    queue = Queue(tmp_path / "c.duckdb")
    page = open_page("tune", queue.cache, "--read-only")
    assert [button.key for button in page.button] == []
    assert not page.exception
    assert page.code[0].value.startswith("python -m engine tune --model bundled")
    assert "a folder in diffusers format or a hub id" in "".join(e.proto.body for e in page.get("html"))
    draft = TuneDraft("gaussian", "euler", 6, 1.0, 5)
    with pytest.raises(AccessDenied):
        starting.tune(Options(cache=queue.cache, read_only=True), draft)

    page = open_page("tune", queue.cache, "--allow-runs")
    page.text_input("tune_model").input(" ").run()
    page.button("tune_start").click().run()
    assert "Model: write the name" in "".join(element.proto.body for element in page.get("html"))
    assert queue.jobs() == []
    page.text_input("tune_model").input("gaussian").run()
    page.number_input("tune_steps").set_value(6).run()
    page.text_input("tune_negative").input(" blurry ").run()
    page.checkbox("tune_coefficients").check().run()
    page.button("tune_start").click().run()
    assert not page.exception
    [job] = queue.jobs()
    command = runner.engine_command(job, queue.cache)
    asked = parser().parse_args(command[3:])
    assert (asked.negative_prompt, asked.coefficients) == ("blurry", True)
    assert (asked.command, asked.model, asked.scheduler, asked.steps, asked.guidance, asked.budget, asked.cache) == (
        "tuning.tune",
        "gaussian",
        "dpmpp_2m",
        6,
        2.0,
        "30m",
        queue.cache,
    )
    assert "Run 1, tune dpmpp_2m:6 for gaussian: queued" in "".join(e.proto.body for e in page.get("html"))
    with pytest.raises(StudyError, match="'ddim' takes no list"):
        tune_options(replace(draft, scheduler="ddim"))
    with pytest.raises(StudyError, match="'dpmpp_2m_karras' takes no list"):
        tune_options(replace(draft, scheduler="dpmpp_2m_karras"))


@pytest.mark.usefixtures("scheduler_table")
def test_the_runs_page_offers_a_tuned_lane_and_tells_what_it_was_tuned_for(
    tmp_path: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, source = tmp_path / "c.duckdb", find_model("gaussian")
    found = replace(tuned(), model="gaussian", fingerprint=source.fingerprint or "", width=64, height=64)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "mine.json").write_text(json.dumps(found.spec()))
    monkeypatch.setattr(runner, "ensure", lambda queue: None)
    page = open_page("runs", cache, "--allow-runs")
    page.segmented_control("run_from").select("My own").run()
    page.selectbox("run_model").select("gaussian")
    page.multiselect("run_schedulers").set_value(["ddim", "tuned_mine"]).run()
    assert page.text_input("run_steps_tuned_mine").value == "3"
    page.text_input("run_steps_ddim").input("2").run()
    page.button("check").click().run()
    assert "tuned_mine:3: it was tuned at guidance 7.5; at 2 another may be better." in words(page)
    page.button("start").click().run()
    [job] = Queue(cache).jobs()
    run_study(load_study(str(job.folder / "study.toml")), cache, device="cpu")
    told = '<span class="soft">tuned for gaussian, guidance 7.5, 64 x 64 px, 3 steps</span>'
    assert told in words(open_page("runs", cache))


def test_less_evidence_never_reads_bolder() -> None:
    assert sentences(tuned()) == ["The file says nothing of how the schedule was found."]
    assert "not been proved" in sentences(tuned(search=SEARCH))[-1]
    worse = {**SEARCH, "better": False}
    assert sentences(tuned(search=worse))[0].startswith("Nothing better was found: keep karras")
    by_ssim = {**SEARCH, "objective": "ssim"}
    by_ssim["validation_objective"] = {"default": 0.05, "karras": 0.09, "local errors": 0.03, "chosen": 0.02}
    assert sentences(tuned(search=by_ssim))[0] == (
        "On validation: objective ssim 0.02, best known schedule (default) 0.05."
    )
    open_end = {**TEST, "ratio": {"value": 0.5, "low": 0.2, "high": 1.1}}
    assert sentences(tuned(search=SEARCH, test=open_end))[1].startswith("On the test, keep dpmpp_2m_karras:3")
    unknown = {**TEST, "ratio": {"value": 0.5, "low": float("nan"), "high": float("nan")}}
    assert sentences(tuned(search=SEARCH, test=unknown))[1].startswith("On the test, keep dpmpp_2m_karras:3")


def test_the_table_has_each_schedule_once_with_what_was_measured() -> None:
    table = tuned_table(tuned(search=SEARCH, test=TEST))
    rows = {str(label): row for label, *row in ([getattr(cell, "text", cell) for cell in row] for row in table.rows)}
    assert len(rows) == len(table.rows) == 5
    assert rows["tuned_mine:3"][:2] == ["0.03", "0.04 (0.03 to 0.05)"]
    assert rows["tuned_mine:3"][2:] == ["40.0 ms (39.0 ms to 41.0 ms)", "50.0 % (48.0 % to 53.0 %)"]
    assert rows["local errors"] == ["0.06", "", "not measured", "not measured"]
    assert rows["dpmpp_2m_karras:3"][2:] == ["not measured", "not measured"]
    assert rows["dpmpp_2m:6"] == ["", "0.1 (0.08 to 0.12)", "80.0 ms (79.0 ms to 81.0 ms)", "100.0 %"]
    assert len(tuned_table(tuned(search=SEARCH)).columns) == 2
    priced = {lane: {**row, "usd_1k": 0.25} for lane, row in TEST["lanes"].items()}
    table = tuned_table(tuned(search=SEARCH, test={**TEST, "lanes": priced}))
    assert (table.columns[-1].name, table.rows[0][-1]) == ("Cost of 1,000 pictures, GPU always busy", "$0.25")


def test_classes_show_their_prompts_and_the_lanes_that_were_measured() -> None:
    found = class_table(tuned(search=SEARCH, test=TEST))
    assert found is not None
    assert [list(row) for row in found.rows] == [
        ["<i>Cats</i>", "30", "", "", "0.3 (0.2 to 0.4)", "0.80 (0.70 to 0.90)"]
    ]
    assert class_table(tuned(search=SEARCH)) is None
