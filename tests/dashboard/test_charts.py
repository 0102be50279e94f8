"""Charts are drawn from plain tables, with units, in the order of the rows."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from engine.display import html, theme
from engine.display.tables import time_table
from engine.display.timing_charts import stage_chart, time_chart
from engine.results import Results
from tests.dashboard.reading_pages import study_results


@pytest.fixture(scope="module")
def study(usual_cache: Path) -> Results:
    """The usual study, read from its cache."""
    return study_results(usual_cache)


def test_the_time_chart_keeps_order_names_its_unit_and_marks_the_baseline(study: Results) -> None:
    spec = time_chart(study.timings).to_dict()
    encodings = [layer["encoding"] for layer in spec["layer"]]
    assert all(encoding["y"]["sort"][0] == "DPM++ 2M 20" for encoding in encodings if "y" in encoding)
    titles = {encoding["x"].get("title") for encoding in encodings if "x" in encoding}
    assert "Median time (ms)" in titles
    assert any("strokeDash" in layer["mark"] for layer in spec["layer"])
    (colour,) = (encoding["color"]["scale"] for encoding in encodings if "shape" in encoding)
    assert dict(zip(colour["domain"], colour["range"], strict=True))["ddim"] == theme.look("ddim").colour


def test_a_chart_without_the_baseline_or_intervals_is_still_drawn(study: Results) -> None:
    table = study.timings[~study.timings["is_baseline"]].assign(low_ms=float("nan"), high_ms=float("nan"))
    spec = time_chart(table).to_dict()
    assert not any("strokeDash" in layer["mark"] for layer in spec["layer"])


def test_the_stage_chart_shows_each_stage_once_per_lane(study: Results) -> None:
    chart = stage_chart(study.timings)
    assert len(chart.data) == 4 * 5
    assert chart.data.groupby("label")["share"].sum().tolist() == pytest.approx([1.0] * 4)
    assert chart.to_dict()["encoding"]["x"]["title"] == "Median time (ms)"


def test_the_timing_table_shows_n_interval_and_verdict_of_every_lane(study: Results) -> None:
    shown = html.table(time_table(study.timings))
    assert shown.count("<tr>") == 1 + 4
    assert shown.count("settled") == 4
    assert "baseline" in shown


def test_a_label_from_the_cache_cannot_be_markup(study: Results, synthetic: ModuleType) -> None:
    table: pd.DataFrame = study.timings.assign(label=synthetic.HOSTILE, settled=synthetic.HOSTILE)
    assert "<script" not in html.table(time_table(table))


def test_the_study_knows_what_is_left_to_do(study: Results) -> None:
    assert (study.progress.done, study.progress.failed, study.progress.missing) == (24, 0, 0)
    assert study.progress.samples == 4 * 10
    assert not study.unfinished
    assert study.counts.loc["ddim:50"].tolist() == [6, 0, 0]


def test_an_empty_or_odd_spec_is_made_up_for_by_the_cells(study: Results) -> None:
    for spec in ({}, {"lanes": "x", "prompts": 3, "seeds": [None], "timing": [], "frames": 1, "baseline": None}):
        bare = replace(study, spec=spec)
        assert [lane.label for lane in bare.lanes] == [lane.label for lane in study.lanes]
        assert bare.prompts == study.prompts
        assert bare.seeds == study.seeds
        assert not bare.timings.empty
