"""The Overview: which lane it recommends, what the figures rest on, and that it says so when there is no telling."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import loaders
from dashboard.cost.controls import default_pricing
from engine import results
from engine.analysis.claims import ClaimVerdict, TestResult
from engine.analysis.cost import load_presets, price_lanes
from engine.cache.connection import writing
from engine.display import formats, html
from engine.display.headline import Figure
from engine.display.tables import claim_table
from tests.dashboard.reading_pages import cards, study_results, words

OpenPage = Callable[..., AppTest]
BEHIND = -5.0


@pytest.fixture(scope="module")
def scored_cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DPM++ 2M 20 and Euler 30 are as good as DDIM 50, PNDM 35 is worse."""
    path = tmp_path_factory.mktemp("scored") / "cache.duckdb"
    synthetic.write_scored(path, {"pndm:35": BEHIND})
    return path


def test_the_cheapest_lane_that_is_as_good_is_recommended_with_its_figures(
    open_page: OpenPage, scored_cache: Path
) -> None:
    page = open_page("overview", scored_cache)
    shown = cards(page)
    table = study_results(scored_cache).timings.set_index("lane")
    base, best = table.loc["ddim:50"], table.loc["dpmpp_2m:20"]
    assert shown["Recommended"][0] == "◆ DPM++ 2M 20"
    assert "as good as DDIM 50: it keeps the picture in 100 % [96.9, 100] of 130 prompts" in shown["Recommended"][1]
    assert shown["Time saved"][0] == formats.percent(1 - best["median_ms"] / base["median_ms"])
    assert formats.duration(base["median_ms"]) in shown["Time saved"][1]
    assert shown["Quality"][0] == "As good"
    assert "Accepted by every guard: other pictures, CLIP score." in shown["Quality"][1]
    assert "Runner-up: Euler 30" in words(page)
    assert "quality: n = 130 prompts" in words(page)
    assert "times: n = 10, one image at a time · Example CPU, 2 cores" in words(page)


def test_at_a_larger_batch_the_time_of_an_image_is_its_share_of_the_batch(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    path = tmp_path / "c.duckdb"
    synthetic.write_scored(path, {"pndm:35": BEHIND}, timing={"repeats": 10, "batch_sizes": [4]})
    page = open_page("overview", path)
    median = study_results(path).timings.set_index("lane")["median_ms"]
    note = cards(page)["Time saved"][1]
    of_one = [formats.duration(median[lane] / 4) for lane in ("dpmpp_2m:20", "ddim:50")]
    assert note.startswith(f"{of_one[0]} instead of {of_one[1]}")
    assert "batch of 4" in note
    assert f"Runner-up: Euler 30, {formats.duration(median['euler:30'] / 4)} per image" in words(page)


def test_the_saving_is_that_of_the_cost_page_at_its_first_assumptions_and_leads_there(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    priced_gpu = synthetic.replace(synthetic.SERVER, device_name="NVIDIA L4")
    monkeypatch.setitem(synthetic.CALL_SECONDS, priced_gpu.device_name, 0.002)
    path, plan = tmp_path / "c.duckdb", synthetic.study(prompts=synthetic.SIX)
    synthetic.write(path, plan, environments=(priced_gpu,))
    synthetic.write_scores(path, plan, {"pndm:35": BEHIND})
    page = open_page("overview", path)
    value, note = cards(page)["Saved a month"]
    pricing, saving = _first_saving(path)
    assert pricing.preset is not None
    assert value == formats.money(saving["saving_usd"])
    price = formats.money(pricing.rate.usd_per_hour)
    assert f"1,000,000 images, {price} per GPU hour, 30 % busy" in note
    assert 'href="cost?study=quick&amp;lane=dpmpp_2m%3A20"' in words(page)
    cost = open_page("cost", path, query={"study": "quick", "lane": "dpmpp_2m:20"})
    assert f'<div class="value">{value}</div>' in words(cost)


def test_without_a_price_of_the_device_the_saving_is_a_share_that_no_price_changes(
    open_page: OpenPage, scored_cache: Path
) -> None:
    page = open_page("overview", scored_cache)
    pricing, saving = _first_saving(scored_cache)
    assert pricing.preset is None
    assert "Saved a month" not in cards(page)
    value, note = cards(page)["Cost saved"]
    assert value == formats.percent(saving["saving_share"])
    assert "1,000,000 images, $1.00 per GPU hour, 30 % busy" in note
    assert note.endswith("See the Cost page")
    assert 'href="cost?study=quick&amp;lane=dpmpp_2m%3A20"' in words(page)


def _first_saving(cache: Path):  # type: ignore[no-untyped-def]
    """What the Cost page starts with, and what the recommended lane saves by it."""
    table = study_results(cache).timings
    pricing = default_pricing(table["device_name"].iloc[0], load_presets(loaders.GPU_PRICES))
    return pricing, price_lanes(table, pricing.rate, pricing.work).set_index("lane").loc["dpmpp_2m:20"]


def test_a_faster_lane_that_is_worse_is_passed_over_and_named(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    synthetic.write_scored(tmp_path / "c.duckdb", {"dpmpp_2m:20": BEHIND})
    page = open_page("overview", tmp_path / "c.duckdb")
    assert cards(page)["Recommended"][0] == "■ Euler 30"
    assert "DPM++ 2M 20 (not as good)" in words(page)


def test_an_accepted_lane_that_is_faster_in_the_times_shown_is_named_and_no_other_is_called_the_cheapest(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    path = tmp_path / "c.duckdb"
    synthetic.write_scored(path, {"pndm:35": BEHIND})
    with writing(path) as db:
        db.execute("UPDATE timings SET seconds = seconds / 5 WHERE lane = 'euler:30'")
    page = open_page("overview", path)
    value, note = cards(page)["Recommended"]
    assert (value, note[:28]) == ("◆ DPM++ 2M 20", "Known to be as good as DDIM ")
    assert "Also as good, and faster here: Euler 30." in words(page)
    assert "Cheaper, but not known" not in words(page)


def test_the_load_of_other_processes_is_that_of_the_times_shown(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    path, plan = tmp_path / "c.duckdb", synthetic.study(timing={"repeats": 10, "batch_sizes": [1, 4]})
    synthetic.write(path, plan, environments=(synthetic.LAPTOP, synthetic.SERVER))
    shown = study_results(path).times["environment_id"].iloc[0]
    with writing(path) as db:
        db.execute(
            "UPDATE timings SET other_load = CASE WHEN environment_id = ? AND batch_size = 1 THEN 0.5 ELSE 3 END",
            [shown],
        )
    told = "Other processes used 0.5 cores during these measurements (median, n = 40)."
    assert told in words(open_page("overview", path))


def test_if_all_others_are_worse_the_baseline_is_kept_and_nothing_is_saved(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    synthetic.write_scored(tmp_path / "c.duckdb", dict.fromkeys(("dpmpp_2m:20", "euler:30", "pndm:35"), BEHIND))
    shown = cards(open_page("overview", tmp_path / "c.duckdb"))
    assert shown["Recommended"][0] == "● DDIM 50"
    assert shown["Quality of DPM++ 2M 20"][0] == "Not as good"
    assert shown["Saved a month"][0] == "None known"


@pytest.mark.parametrize(
    ("changes", "timed", "scored", "why"),
    [
        ({}, True, False, "have not been scored yet"),
        ({}, False, False, "have not been scored yet"),
        ({"lanes": ("ddim:50",)}, True, True, "The study has one lane"),
    ],
)
def test_with_too_little_to_go_by_it_says_what_is_missing(
    changes: dict[str, object],
    timed: bool,
    scored: bool,
    why: str,
    open_page: OpenPage,
    tmp_path: Path,
    synthetic: ModuleType,
) -> None:
    path = tmp_path / "c.duckdb"
    plan = synthetic.write(path, synthetic.study(**changes), timed=timed)
    if scored:
        synthetic.write_scores(path, plan, {})
    shown = cards(open_page("overview", path))
    assert shown["Recommended"][0] == "Not known yet"
    assert why in shown["Recommended"][1]
    if timed and not scored:
        assert shown["Saved a month"][0] == "None known"
    else:
        assert list(shown) == ["Recommended"], "no card more where nothing is known"


def test_however_well_lanes_score_the_baseline_stays_until_prompts_have_decided(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    path, plan = tmp_path / "c.duckdb", synthetic.study(prompts=synthetic.SIX)
    synthetic.write(path, plan)
    synthetic.write_scores(path, plan, {}, decided=0)
    shown = cards(open_page("overview", path))
    assert shown["Recommended"][0] == "● DDIM 50"
    assert "python -m engine decide STUDY adds prompts until it is known" in shown["Recommended"][1]
    assert shown["Saved a month"][0] == "None known"
    value, note = shown["Quality of DPM++ 2M 20"]
    assert (value, "Its mean CLIP score differs by" in note) == ("Not decided", True)
    synthetic.write_decision(path, plan, {}, prompts=15)
    few = cards(open_page("overview", path))
    assert few["Recommended"][0] == "● DDIM 50"
    assert "more prompts would tell of" in few["Recommended"][1]
    value, note = few["Quality of DPM++ 2M 20"]
    assert value == "Not shown yet"
    assert note.startswith("Not shown yet: other pictures 0 % [0, ")


def test_claims_about_the_studys_lanes_are_shown_with_verdict_figure_interval_and_n(
    open_page: OpenPage, scored_cache: Path
) -> None:
    text = words(open_page("overview", scored_cache))
    assert "Common claims, put to the test" in text
    assert re.search(r"speedup: 2\.\d+ \[2\.\d+, 2\.\d+\], 10 repeats", text)
    assert re.search(r'class="word confirmed".{0,200}DPM-Solver\+\+ takes 60 % fewer steps', text, re.DOTALL)
    assert "no recorded steps of lane" in text  # the tests in full, with what could not be tested


def test_claims_about_other_lanes_and_unfinished_studies_are_left_alone(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    synthetic.write_scored(tmp_path / "a.duckdb", lanes=("euler:30", "euler:10"))
    assert "The known claims are about other lanes" in words(open_page("overview", tmp_path / "a.duckdb"))
    plan = synthetic.write(tmp_path / "b.duckdb", missing=("pndm:35",))
    assert "tested once all cells have run" in words(open_page("overview", tmp_path / "b.duckdb"))
    synthetic.write_decision(tmp_path / "b.duckdb", plan, {}, prompts=130)  # which may leave cells out
    text = words(open_page("overview", tmp_path / "b.duckdb"))
    assert re.search(r"speedup: 2\.\d+ \[2\.\d+, 2\.\d+\], 10 repeats", text)


def test_the_baseline_and_the_recommended_lane_come_first_among_the_pictures(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    lanes = ("euler:30", "pndm:35", "heun:20", "ddim:50", "dpmpp_2m:20")
    synthetic.write_scored(tmp_path / "c.duckdb", lanes=lanes, baseline="ddim:50")
    text = words(open_page("overview", tmp_path / "c.duckdb"))
    grid = text[text.index("What it does to the images") :]
    places = [
        grid.index(f'<th scope="col">{name}</th>')
        for name in ("DDIM 50", "DPM++ 2M 20", "Euler 30", "PNDM 35", "Heun 20")
    ]
    assert places == sorted(places)


def test_no_text_of_a_card_or_claim_can_be_markup(synthetic: ModuleType) -> None:
    hostile = synthetic.HOSTILE
    assert "<script" not in html.cards([Figure(*[hostile] * 5)], (hostile, hostile))
    verdict = ClaimVerdict(hostile, hostile, "refuted", (TestResult("refuted", *[hostile] * 5),), hostile)
    assert "<script" not in html.claims([verdict]) + html.table(claim_table([verdict]))


def test_what_is_worked_out_is_remembered_and_not_worked_out_again(
    open_page: OpenPage, scored_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page("overview", scored_cache)
    before = words(page)
    for name in ("compare", "evaluate", "convergence"):
        monkeypatch.setattr(results, name, _never)
    assert words(page.run()) == before


def _never(*_: object) -> None:
    raise AssertionError("worked out again")
