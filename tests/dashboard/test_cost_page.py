"""The Cost page: what it says of the machine it prices, of equal quality, and its address."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import loaders
from dashboard.cost import controls
from engine.analysis.cost import Rate, Workload, load_presets, price_lanes
from engine.cache.connection import writing
from engine.display import formats, html, theme
from engine.display.cost_charts import cost_chart
from engine.display.tables import cost_table, price_table
from tests.dashboard.reading_pages import address, cards, study_results, words

LANES = ("ddim:50", "dpmpp_2m:20", "euler:30", "pndm:35")
H100 = "h100-sxm-runpod-secure-2026-11-09"

OpenCost = Callable[..., AppTest]


@pytest.fixture
def open_cost(open_page: Callable[..., AppTest]) -> OpenCost:
    """Call it as `open_cost(path, gpu="own", price="2")`: returns the Cost page at that address after its first run."""
    return lambda cache, **query: open_page("cost", cache, query=query)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"failed": LANES[:1]}, "DPM++ 2M 20, a month"),
        ({"missing": LANES[1:]}, "Baseline, DDIM 50, a month"),
    ],
)
def test_a_lane_without_another_has_its_price_and_no_saving(
    changes: dict[str, tuple[str, ...]], said: str, open_cost: OpenCost, tmp_path: Path, synthetic: ModuleType
) -> None:
    synthetic.write(tmp_path / "c.duckdb", synthetic.study(prompts=("x",)), **changes)
    page = open_cost(tmp_path / "c.duckdb")
    assert said in cards(page)
    assert "Saved a month" not in words(page)


def test_the_cards_agree_with_the_measured_times_and_the_price(open_cost: OpenCost, usual_cache: Path) -> None:
    page = open_cost(usual_cache, price="3.6", busy="50", images="1000000", lane="euler:30")
    table = study_results(usual_cache).timings
    base, lane = (table[table["lane"] == key].iloc[0]["median_ms"] for key in ("ddim:50", "euler:30"))
    # $3.60 an hour is $0.001 a second; half of it is used: a million images of 1 ms cost $2.
    assert cards(page)["Baseline, DDIM 50, a month"][0] == formats.money(2 * base)
    assert cards(page)["Euler 30, a month"][0] == formats.money(2 * lane)
    assert cards(page)["Saved a month, quality not known, by use (50% busy)"][0] == formats.money(2 * (base - lane))


def test_the_page_says_what_was_measured_where_and_what_the_figures_leave_out(
    open_cost: OpenCost, usual_cache: Path
) -> None:
    text = words(open_cost(usual_cache))
    assert "Times measured on Example CPU, 2 cores" in text
    assert "n = 10 per lane" in text
    assert "UTC" in text
    assert "the images have not been scored" in text
    assert "given back" in text
    assert "Energy: not measured where these times were taken." in text
    assert "datareceipts" in text


def test_energy_that_was_counted_is_shown_per_thousand_images_and_priced(
    open_cost: OpenCost, usual_cache: Path, tmp_path: Path
) -> None:
    counted = Path(shutil.copy(usual_cache, tmp_path / "counted.duckdb"))
    with writing(counted) as db:
        db.execute("UPDATE timings SET joules = 36 * nfe, energy = 'RAPL: package-0' WHERE stage = 'total'")
    text = words(open_cost(counted))
    # DDIM 50 makes 50 calls: 1,800 J an image are 500 Wh for a thousand.
    assert "500" in text
    assert "Energy counted by RAPL: package-0" in text
    assert "Electricity per 1,000" not in text
    priced = open_cost(counted, kwh="0.2")
    assert "Electricity per 1,000" in words(priced)
    assert "$0.10" in words(priced)
    assert address(priced)["kwh"] == "0.2"


@pytest.fixture(scope="module")
def scored_cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DPM++ 2M 20 is the fastest and worse; Euler 30 and PNDM 35 are as good as DDIM 50."""
    path = tmp_path_factory.mktemp("scored") / "cache.duckdb"
    synthetic.write_scored(path, {"dpmpp_2m:20": -5.0})
    return path


def test_the_headline_is_the_cheapest_lane_of_equal_quality(open_cost: OpenCost, scored_cache: Path) -> None:
    page = open_cost(scored_cache, price="3.6", busy="50")
    table = study_results(scored_cache).timings.set_index("lane")
    assert page.toggle("equal_choice").value
    assert page.selectbox("lane_choice").value == "euler:30"
    assert page.selectbox("lane_choice").options == ["Euler 30", "PNDM 35"]
    saved = 2 * (table.at["ddim:50", "median_ms"] - table.at["euler:30", "median_ms"])
    assert cards(page)["Saved a month at equal quality, by use (50% busy)"][0] == formats.money(saved)
    assert "The saving is at equal quality: Euler 30 keeps the picture in" in words(page)
    assert "(not as good)" not in words(page), "charts and table show no others"
    assert (address(page)["lane"], address(page)["equal"]) == ("euler:30", "1")


def test_a_lane_that_is_not_as_good_can_be_looked_at_and_is_called_so(open_cost: OpenCost, scored_cache: Path) -> None:
    page = open_cost(scored_cache)
    page.toggle("equal_choice").set_value(False).run()
    page.selectbox("lane_choice").select("dpmpp_2m:20").run()
    assert any(name.startswith("Saved a month at worse quality") for name in cards(page))
    assert "(not as good)" in words(page)
    assert "DPM++ 2M 20: Not as good: other pictures 100 %" in words(page)
    assert cards(open_cost(scored_cache, **address(page))) == cards(page)
    refused = open_cost(scored_cache, lane="dpmpp_2m:20")
    assert refused.selectbox("lane_choice").value == "euler:30"


def test_where_no_lane_is_as_good_all_can_be_chosen_and_none_is_called_equal(
    open_cost: OpenCost, tmp_path: Path, synthetic: ModuleType
) -> None:
    synthetic.write_scored(tmp_path / "c.duckdb", dict.fromkeys(LANES[1:], -5.0))
    page = open_cost(tmp_path / "c.duckdb")
    assert not page.toggle
    assert page.selectbox("lane_choice").options == ["DPM++ 2M 20", "Euler 30", "PNDM 35"]
    assert not any("equal quality" in name for name in cards(page))


def test_times_of_a_cpu_are_not_priced_as_those_of_a_gpu_until_its_seconds_are_entered(
    open_cost: OpenCost, usual_cache: Path
) -> None:
    page = open_cost(usual_cache, gpu=H100)
    assert "How long does an image take on the H100 SXM?" in words(page)
    assert not cards(page)
    page.number_input("seconds_choice").set_value(2.0).run()
    assert cards(page)["Baseline, DDIM 50, a month"][0] == formats.money(3.99 / 3600 * 2 * 1e6 / 0.3)
    assert "That ratio is an assumption" in words(page)
    assert address(page)["seconds"] == "2"
    page.number_input("seconds_choice").set_value(None).run()
    assert not cards(page)
    assert "seconds" not in address(page)


def test_seconds_entered_for_one_gpu_are_not_kept_for_another(open_cost: OpenCost, usual_cache: Path) -> None:
    page = open_cost(usual_cache, gpu=H100, seconds="2")
    before = cards(page)
    page.selectbox("gpu_choice").set_value("h100-sxm-lambda-1x-2026-09-25").run()
    assert page.number_input("seconds_choice").value == 2.0
    assert cards(page).keys() == before.keys()
    page.selectbox("gpu_choice").set_value("h200-runpod-pod-2026-10-07").run()
    assert page.number_input("seconds_choice").value is None
    assert "How long does an image take on the H200?" in words(page)


def test_a_gpu_that_was_measured_is_priced_as_it_is(
    open_cost: OpenCost, tmp_path: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = "NVIDIA H200"
    gpu = synthetic.Environment("cuda", device, "standard", "2.13.0", "0.42.1", {})
    monkeypatch.setitem(synthetic.CALL_SECONDS, device, 0.002)
    synthetic.write(tmp_path / "c.duckdb", synthetic.study(prompts=("x",)), environments=(gpu,))
    page = open_cost(tmp_path / "c.duckdb")
    assert page.selectbox("gpu_choice").value == "h200-runpod-pod-2026-10-07"
    assert "Times measured on NVIDIA H200" in words(page)
    assert cards(page)


def test_without_the_baselines_time_nothing_is_scaled(
    open_cost: OpenCost, tmp_path: Path, synthetic: ModuleType
) -> None:
    synthetic.write(tmp_path / "c.duckdb", synthetic.study(prompts=("x",)), failed=LANES[:1])
    page = open_cost(tmp_path / "c.duckdb", gpu=H100, seconds="2")
    assert not page.exception
    assert "The baseline has not been timed here" in words(page)


def test_several_environments_bring_a_picker_and_the_figures_follow_it(
    open_cost: OpenCost, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "c.duckdb"
    synthetic.write(cache, synthetic.study(prompts=("x",)), environments=(synthetic.LAPTOP, synthetic.SERVER))
    page = open_cost(cache)
    picker = page.selectbox("environment")
    before = cards(page)
    other = next(name for name in picker.options if f"measured on {name}" not in words(page))
    picker.select_index(picker.options.index(other)).run()
    assert f"Times measured on {other}" in words(page)
    assert cards(page) != before


def test_samples_that_have_not_settled_are_called_so(
    open_cost: OpenCost, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "c.duckdb"
    plan = synthetic.study(prompts=("x",), seeds=(0,), repeats=6)
    synthetic.write(cache, plan, timed=False)
    writer = synthetic.CacheWriter(cache)
    for cell in synthetic.begin(writer, plan):
        rows = synthetic.timing_rows(cell, plan, synthetic.LAPTOP)
        drifting = [synthetic.replace(row, seconds=row.seconds * (1 + row.repeat)) for row in rows]
        writer.timings(drifting, synthetic.MODEL, synthetic.LAPTOP)
    text = words(open_cost(cache))
    assert "n = 6, unsettled" in text
    assert "time again on a quiet machine" in text


def test_a_copied_address_shows_the_same_prices(open_cost: OpenCost, usual_cache: Path) -> None:
    chosen = {
        "study": "quick",
        "gpu": "own",
        "lane": "euler:30",
        "price": "2.75",
        "seconds": "1.5",
        "images": "123456",
        "busy": "45",
        "peak": "3.5",
        "wait": "2",
    }
    page = open_cost(usual_cache, **chosen)
    assert address(page) == chosen
    again = open_cost(usual_cache, **address(page))
    assert cards(again) == cards(page)
    assert words(again) == words(page)


def test_clips_are_priced_in_seconds_of_video_at_the_frames_per_second_asked_for(
    open_cost: OpenCost, synthetic: ModuleType, tmp_path: Path
) -> None:
    cache = tmp_path / "c.duckdb"
    synthetic.write(cache)
    assert "of video per $" not in words(open_cost(cache)).partition("How these figures")[0]
    with writing(cache) as db:  # pictures become clips of two frames
        db.execute("INSERT INTO frames SELECT * REPLACE (1 AS video_frame) FROM frames WHERE kind = 'final'")
    page = open_cost(cache, price="3.6", busy="50", fps="4")
    table = study_results(cache).timings
    base = table[table["is_baseline"]].iloc[0]["median_ms"] / 1000
    note = cards(page)["Baseline, DDIM 50, a month"][1]
    # Half a second of video; a dollar pays for 1,000 s, of which half are used.
    assert f"{formats.number(0.5 / base * 500)} s of video per $" in note
    assert f"{formats.number(0.5 / base * 3600)} s per busy hour" in note
    assert "Seconds of video per busy hour" in words(page)
    assert address(page)["fps"] == "4"


def test_a_change_on_the_page_is_in_the_address(open_cost: OpenCost, usual_cache: Path) -> None:
    page = open_cost(usual_cache, price="2")
    before = cards(page)
    page.number_input("price_choice").set_value(4.0).run()
    page.selectbox("lane_choice").select("pndm:35").run()
    assert (address(page)["price"], address(page)["lane"]) == ("4", "pndm:35")
    assert cards(page)["Baseline, DDIM 50, a month"][0] != before["Baseline, DDIM 50, a month"][0]
    assert cards(open_cost(usual_cache, **address(page))) == cards(page)


def test_bad_values_in_the_address_fall_back_quietly(open_cost: OpenCost, usual_cache: Path) -> None:
    usual = cards(open_cost(usual_cache))
    for bad in ("-1", "nan", "1e99", "<script>", "9" * 400):
        page = open_cost(
            usual_cache, **dict.fromkeys(("price", "seconds", "images", "busy", "peak", "wait", "gpu", "lane"), bad)
        )
        assert not page.exception
        assert cards(page) == usual
    extremes = open_cost(usual_cache, price="1000", seconds="600", images="100000000", busy="1", peak="100", wait="0")
    assert not extremes.exception
    assert cards(extremes)


def test_a_price_that_left_the_file_is_kept_as_the_readers_own(open_cost: OpenCost, usual_cache: Path) -> None:
    page = open_cost(usual_cache, gpu="h100-somewhere-2020-01-01", price="3.25")
    assert page.number_input("price_choice").value == 3.25


def test_prices_that_cannot_be_read_are_explained(
    open_cost: OpenCost, usual_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "GPU_PRICES", tmp_path / "none.toml")
    page = open_cost(usual_cache)
    assert not page.exception
    assert "The GPU prices cannot be read" in words(page)


def test_the_chart_keeps_order_colours_and_baseline_and_names_its_unit(usual_cache: Path) -> None:
    table = price_lanes(study_results(usual_cache).timings, Rate(1.0), Workload(1e6, 0.5, 2.0))
    for figure in ("usd_month", "fleet_usd"):
        spec = cost_chart(table, figure, "US dollars a month").to_dict()
        encodings = [layer["encoding"] for layer in spec["layer"]]
        assert "US dollars a month" in {encoding["x"].get("title") for encoding in encodings}
        assert any("strokeDash" in layer["mark"] for layer in spec["layer"])
        (colour,) = (encoding["color"]["scale"] for encoding in encodings if "shape" in encoding)
        assert dict(zip(colour["domain"], colour["range"], strict=True))["ddim"] == theme.look("ddim").colour


def test_labels_and_prices_cannot_be_markup(usual_cache: Path, synthetic: ModuleType) -> None:
    table = price_lanes(
        study_results(usual_cache).timings.assign(label=synthetic.HOSTILE), Rate(1.0), Workload(1e6, 0.5)
    )
    assert "<script" not in html.table(cost_table(table, {"ddim:50": synthetic.HOSTILE}))
    preset = synthetic.replace(load_presets(loaders.GPU_PRICES)[0], gpu=synthetic.HOSTILE, source=synthetic.HOSTILE)
    assert "<script" not in html.table(price_table([preset]))


def test_money_and_shares_are_readable() -> None:
    values = (0, 0.001234, 0.2, 12.3, 123.4, 1234.5, 1_234_567, -50)
    shown = ["$0", "$0.00123", "$0.20", "$12.30", "$123", "$1,234", "$1.23 M", "−$50.00"]
    assert [formats.money(value) for value in values] == shown
    assert formats.money_range(1, 2) == "$1.00 – $2.00"
    assert formats.money_range(2, 2) == "$2.00"
    assert formats.money_range(math.nan, 2) == formats.money(math.nan) == formats.percent(math.nan) == "–"
    assert formats.percent(-0.123) == "−12.3 %"
    assert formats.percent_range(0.1, 0.2) == "10.0 – 20.0 %"


def test_every_number_of_the_page_reads_back_what_it_writes() -> None:
    names = ("PRICE", "SECONDS", "IMAGES", "BUSY", "PEAK", "WAIT", "FPS")
    for field in (getattr(controls, name) for name in names):
        for value in (field.low, field.high, field.default):
            if value is not None:
                assert field.read(f"{value:.10g}") == value
