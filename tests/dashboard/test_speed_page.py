"""The page on speed and quality: its charts, its table and file, its address, and the lanes that none beats."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.speed.data import csv_of, wide_table
from engine.analysis.convergence import convergence
from engine.analysis.standings import NOT_COMPARED, frontier
from engine.display import html, theme
from engine.display.speed_charts import convergence_chart, trade_off_chart
from engine.display.tables import order_table, set_table
from engine.results import Results
from tests.dashboard.reading_pages import address, study_results, words

OpenPage = Callable[..., AppTest]
LANES = ("ddim:50", "ddim:10", "ddim:20", "euler:20", "euler:40", "heun:10")


@pytest.fixture(scope="module")
def scored_cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six lanes of three schedulers; DDIM at 10 steps is worse."""
    path = tmp_path_factory.mktemp("scored") / "cache.duckdb"
    synthetic.write_scored(path, {"ddim:10": -5.0}, lanes=LANES)
    return path


@pytest.fixture(scope="module")
def known(scored_cache: Path) -> tuple[Results, pd.DataFrame]:
    """The study and all its figures."""
    study = study_results(scored_cache)
    return study, study.standings


def test_the_page_begins_with_milliseconds_and_the_deciding_metric(open_page: OpenPage, scored_cache: Path) -> None:
    page = open_page("speed", scored_cache)
    assert address(page) == {"study": "quick", "axis": "ms", "metric": "clip_score"}
    text = words(page)
    assert "n = 6 prompts, 12 pairs" in text
    assert "margin 0.3, fixed by the calibration of the decision" in text
    assert "times: n = 10 per lane · Example CPU, 2 cores" in text
    assert "Observed order" in text
    assert "What each lane has shown by each guard" in text
    assert re.search(r"not as good.{0,200}100 % \[96.\d, 100\].{0,100}130 prompts, refuted", text, re.DOTALL)


def test_a_copied_address_shows_the_same_and_bad_values_fall_back_quietly(
    open_page: OpenPage, scored_cache: Path
) -> None:
    chosen = {"study": "quick", "axis": "nfe", "metric": "latent_error"}
    page = open_page("speed", scored_cache, query=chosen)
    assert address(page) == chosen
    assert "Lower is better, so the axis is reversed" in words(page)
    page.selectbox("metric_choice").select("clip_score").run()
    assert address(page)["metric"] == "clip_score"
    usual = open_page("speed", scored_cache, query={"axis": "<script>", "metric": "9"})
    assert address(usual) == {"study": "quick", "axis": "ms", "metric": "clip_score"}


def test_without_times_there_are_no_milliseconds_to_choose(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    plan = synthetic.write(tmp_path / "c.duckdb", synthetic.study(prompts=synthetic.SIX), timed=False)
    synthetic.write_scores(tmp_path / "c.duckdb", plan, {})
    page = open_page("speed", tmp_path / "c.duckdb", query={"axis": "ms"})
    assert address(page)["axis"] == "nfe"
    assert "n = 6 prompts" in words(page)


def test_without_scores_it_says_what_to_do(open_page: OpenPage, usual_cache: Path) -> None:
    text = words(open_page("speed", usual_cache))
    assert "No quality to show yet" in text
    assert "python -m engine score" in text
    assert "No error relative to a converged solution is known" in text


def test_the_chart_draws_band_intervals_front_and_each_schedulers_look(
    known: tuple[Results, pd.DataFrame],
) -> None:
    shown = known[1][known[1]["metric"] == "clip_score"]
    spec = trade_off_chart(shown, "ms", "one image at a time").to_dict()
    by_mark = [layer["mark"]["type"] for layer in spec["layer"]]
    assert by_mark.count("rule") == 3  # baseline, and intervals on both axes
    assert {"rect", "line", "point", "text"} <= set(by_mark)
    band = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "rect")
    (edges,) = spec["datasets"][band["data"]["name"]]
    assert edges["over"] == -edges["under"] == pytest.approx(shown["margin"].iloc[0])
    points = [layer["encoding"] for layer in spec["layer"] if layer["mark"]["type"] == "point"]
    assert points[0]["x"]["title"] == "Median time (ms, one image at a time)"
    assert points[0]["y"]["title"] == "CLIP score: difference (100 cos)"
    assert not points[0]["y"]["scale"]["reverse"]
    colours = points[0]["color"]["scale"]
    assert dict(zip(colours["domain"], colours["range"], strict=True))["heun"] == theme.look("heun").colour


def test_where_lower_is_better_the_axis_runs_down_and_without_margin_there_is_no_band(
    known: tuple[Results, pd.DataFrame],
) -> None:
    shown = known[1][known[1]["metric"] == "latent_error"].assign(margin=float("nan"))
    spec = trade_off_chart(shown, "steps", "").to_dict()
    assert "rect" not in [layer["mark"]["type"] for layer in spec["layer"]]
    assert all(layer["encoding"]["y"]["scale"]["reverse"] for layer in spec["layer"] if layer["mark"]["type"] == "text")


def test_in_a_crowd_only_the_lanes_on_the_front_are_named(known: tuple[Results, pd.DataFrame]) -> None:
    row = known[1][(known[1]["metric"] == "clip_score") & (known[1]["lane"] == "euler:20")]
    crowd = pd.concat(
        [row.assign(steps=steps, median_ms=100.0 + steps, difference=-0.01 * steps) for steps in range(1, 41)]
    )
    for shown, named in ((crowd, {"1"}), (crowd.head(3), {"1", "2", "3"})):
        spec = trade_off_chart(shown, "ms", "").to_dict()
        (points,) = (rows for rows in spec["datasets"].values() if len(rows) == len(shown) and "name" in rows[0])
        assert {point["name"] for point in points} - {""} == named


def test_no_lane_on_the_front_is_beaten_and_every_other_is() -> None:
    generator = np.random.default_rng(0)
    cost, gain = generator.integers(0, 12, 60).astype(float), generator.integers(0, 12, 60).astype(float)
    cost[0] = gain[1] = np.nan
    on = frontier(cost, gain)
    points = [(c, g) for c, g in zip(cost, gain, strict=True) if np.isfinite(c) and np.isfinite(g)]
    for c, g, found in zip(cost, gain, on, strict=True):
        beaten = any((a <= c and b >= g) and (a < c or b > g) for a, b in points)
        assert found == (bool(np.isfinite(c) and np.isfinite(g)) and not beaten)


def test_the_figures_hold_every_lane_and_metric_once_with_n_and_verdict(
    known: tuple[Results, pd.DataFrame],
) -> None:
    study, table = known
    assert len(table) == len(LANES) * 2
    assert not table.duplicated(["lane", "metric"]).any()
    rows = table[table["metric"] == "clip_score"].set_index("lane")
    assert (rows.at["ddim:50", "difference"], rows.at["ddim:50", "verdict"]) == (0.0, "baseline")
    assert rows.at["ddim:10", "verdict"] == "worse"
    scores = study.quality[study.quality["metric"] == "clip_score"].groupby("lane")["value"].mean()
    assert rows.at["euler:20", "mean"] == pytest.approx(scores["euler:20"])
    assert rows.at["euler:20", "difference"] == pytest.approx(scores["euler:20"] - scores["ddim:50"])
    times = study.timings.set_index("lane")
    assert rows["median_ms"].to_dict() == pytest.approx(times["median_ms"].to_dict())
    assert (rows["prompts"] == 6).all()


def test_a_lane_without_scores_keeps_its_times(known: tuple[Results, pd.DataFrame]) -> None:
    study, _ = known
    partly = replace(study, quality=study.quality[study.quality["lane"] != "heun:10"])
    rows = partly.standings.set_index(["metric", "lane"])
    row = rows.loc[("clip_score", "heun:10")]
    assert row["verdict"] == NOT_COMPARED
    assert row["median_ms"] > 0
    assert np.isnan(row["difference"])


def test_the_table_shows_a_row_a_lane_and_the_file_all_metrics(
    known: tuple[Results, pd.DataFrame],
) -> None:
    shown = wide_table(known[1], "clip_score")
    assert shown["Lane"].tolist() == [lane.label for lane in known[0].lanes]
    assert {
        "By all guards",
        "By this metric alone",
        "Difference",
        "from",
        "to",
        "Prompts",
        "Median ms",
        "Latent error (relative L2)",
    } <= set(shown)
    again = pd.read_csv(io.BytesIO(csv_of(known[1], "quick")))
    assert len(again) == len(LANES) * 2
    assert again["difference"].to_numpy() == pytest.approx(known[1]["difference"].to_numpy())


def test_no_spreadsheet_takes_a_strangers_label_for_a_formula(known: tuple[Results, pd.DataFrame]) -> None:
    hostile = known[1].assign(label='=HYPERLINK("x")')
    again = pd.read_csv(io.BytesIO(csv_of(hostile, "@quick")))
    assert set(again["label"]) == {'\'=HYPERLINK("x")'}
    assert set(again["study"]) == {"'@quick"}


def test_errors_fall_along_each_schedulers_line_and_the_order_has_its_interval(
    known: tuple[Results, pd.DataFrame],
) -> None:
    study, _ = known
    found = convergence(study.quality, study.cells, floor=0.001)
    spec = convergence_chart(found.errors, found.floor).to_dict()
    scales = {
        (axis, layer["encoding"][axis]["scale"]["type"])
        for layer in spec["layer"]
        for axis in "xy"
        if "scale" in layer["encoding"].get(axis, {})
    }
    assert scales == {("x", "log"), ("y", "log")}
    assert any("strokeDash" in layer["mark"] for layer in spec["layer"])
    table = html.table(order_table(found.orders))
    assert "<b>1.50</b>" in table
    assert "1 of 1 step count" in table


def test_metrics_of_whole_sets_show_n_interval_and_warning_as_text(synthetic: ModuleType) -> None:
    row = {
        "lane": "euler:30",
        "against": "ddim:50",
        "label": "KID",
        "value": 0.012,
        "low": 0.008,
        "high": 0.02,
        "n": 48,
        "prompts": 24,
        "unit": "",
        "warning": synthetic.HOSTILE,
    }
    refused = row | {"label": "FID", "value": np.nan, "low": np.nan, "high": np.nan, "warning": "too few: 48"}
    lanes = {"euler:30": ("Euler 30", "euler"), "ddim:50": ("DDIM 50", "ddim")}
    shown = html.table(set_table(pd.DataFrame([row, refused]), lanes))
    assert "0.008 to 0.02" in shown
    assert "<td>48 of 24 prompts</td>" in shown
    assert "too few: 48" in shown
    assert "<script" not in shown
