"""The Learn page: every section shows what the cache has for it, and says so where it has nothing."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.learn import data
from engine.analysis.outcomes import StudyLane
from engine.cache import queries, score_tables
from engine.cache.connection import reading, writing
from engine.cache.records import LatentsRow
from engine.cache.score_tables import ScoreRow
from engine.cache.writer import CacheWriter
from engine.display import html
from engine.display.learn_charts import calls_chart, error_chart
from engine.display.tables import calls_table
from engine.results import read_results
from tests.dashboard.reading_pages import words

OpenPage = Callable[..., AppTest]
HEADINGS = (
    "Latent space",
    "From noise to a picture",
    "Classifier-free guidance",
    "What a solver does",
    "Steps are not calls",
)
NOTHING = "The cache has nothing for this yet"


@pytest.fixture(scope="module")
def rich_cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies that differ in guidance alone, with latents and scores."""
    path = tmp_path_factory.mktemp("rich") / "cache.duckdb"
    plans = [
        synthetic.study("stronger", prompts=("owl",), seeds=(0,), guidance_scale=5.0),
        synthetic.study("quick", prompts=("owl",), seeds=(0,), guidance_scale=2.0),
    ]
    metric = synthetic.described("latent_error", "Latent error", "relative L2", "lower", "1@x", smallest_n=1)
    for plan in plans:
        writer = CacheWriter(path)
        cells = synthetic.begin(writer, plan)
        values = np.linspace(-1, 1, 4 * 8 * 8, dtype="<f4")
        rows = [
            replace(synthetic.outcome(cell, plan.frames), latents=LatentsRow("4x8x8", values.tobytes()))
            for cell in cells
        ]
        writer.trajectories(rows, synthetic.MODEL, synthetic.LAPTOP)
        score_tables.record(path, plan.name, [metric], [])
        score_tables.write_scores(
            path,
            [
                ScoreRow("picture", "latent_error", "1@x", 1 / cell.lane.steps, trajectory_id=cell.trajectory_id)
                for cell in cells
            ],
        )
    lanes = {cell.lane.key: cell for cell in cells}
    times = [row for cell in lanes.values() for row in synthetic.timing_rows(cell, plan, synthetic.LAPTOP)]
    writer.timings(times, synthetic.MODEL, synthetic.LAPTOP)
    return path


def test_without_a_cache_the_texts_stand_and_each_section_says_what_is_missing(
    open_page: OpenPage, tmp_path: Path
) -> None:
    text = words(open_page("learn", tmp_path / "none.duckdb"))
    assert all(heading in text for heading in HEADINGS)
    assert "There is no cache yet" in text
    assert text.count(NOTHING) == len(HEADINGS)


def test_every_section_shows_pictures_or_figures_where_the_cache_has_them(
    open_page: OpenPage, rich_cache: Path
) -> None:
    page = open_page("learn", rich_cache, query={"study": "quick"})
    assert not page.exception
    text = words(page)
    rows = [body for body in text.split("<h2") if "lab-shots" in body]
    assert [next(h for h in HEADINGS if h in body) for body in rows] == list(HEADINGS[:4])
    assert [body.count("<figure>") for body in rows] == [4 + 1, 7 + 7, 2, 4]
    assert "4 × 8 × 8 = 256 numbers, 48 times fewer than the 12,288 of the picture" in text
    assert "w = 2" in text
    assert "w = 5" in text
    assert "call 1 of 50" in text
    assert len(page.get("vega_lite_chart") or page.get("arrow_vega_lite_chart")) == 2


def test_a_cache_with_one_guidance_scale_says_how_to_add_another(open_page: OpenPage, usual_cache: Path) -> None:
    text = words(open_page("learn", usual_cache))
    assert "--set guidance_scale=5 --set name=quick-5" in text
    assert "<code>[reference]</code>" in text


def test_the_address_holds_prompt_and_seed(open_page: OpenPage, usual_cache: Path) -> None:
    text = words(open_page("learn", usual_cache, query={"prompt": "owl", "seed": "1"}))
    assert "&#39;owl&#39;, seed 1" in text
    assert not re.search("red apple", text)


def test_a_failed_cell_says_why_there_is_no_picture(open_page: OpenPage, tmp_path: Path, synthetic: ModuleType) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, synthetic.study(prompts=("x",)), failed=("ddim:50",))
    text = words(open_page("learn", cache))
    assert "DDIM 50: Failed: ValueError: no step for &lt;script&gt;" in text


def test_guidance_families_hold_all_else_equal(rich_cache: Path, synthetic: ModuleType) -> None:
    with reading(rich_cache) as db:
        (one,) = db.execute(
            "SELECT trajectory_id FROM trajectories WHERE lane = 'ddim:50' AND guidance_scale = 2"
        ).fetchall()
        family = queries.guidance_family(db, one[0])
        assert family["guidance_scale"].tolist() == [2.0, 5.0]
        assert one[0] in family["trajectory_id"].tolist()
        assert queries.guidance_family(db, "nobody").empty


def test_lane_scores_are_medians_over_the_cells_of_a_study(rich_cache: Path) -> None:
    with reading(rich_cache) as db:
        table = data.errors(read_results(db, "quick")).set_index("lane")
    assert table["median"].to_dict() == pytest.approx(
        {"ddim:50": 1 / 50, "dpmpp_2m:20": 1 / 20, "euler:30": 1 / 30, "pndm:35": 1 / 35}
    )
    assert (table["n"] == 1).all()


def test_latents_that_do_not_fit_their_shape_are_left_out(tmp_path: Path, rich_cache: Path) -> None:
    cache = tmp_path / "cache.duckdb"
    cache.write_bytes(rich_cache.read_bytes())
    with writing(cache) as db:
        keys = [row[0] for row in db.execute("SELECT trajectory_id FROM latents ORDER BY ALL").fetchall()]
        db.execute("UPDATE latents SET shape = '4x9x9' WHERE trajectory_id = ?", [keys[0]])
        db.execute("UPDATE latents SET shape = 'x' WHERE trajectory_id = ?", [keys[1]])
    with reading(cache) as db:
        assert data._latents(db, keys[0]) is None
        assert data._latents(db, keys[1]) is None
        found = data._latents(db, keys[2])
    assert found is not None
    assert (found.shape, len(found.channels)) == ((4, 8, 8), 4)


def test_texts_in_pictures_and_tables_are_text(synthetic: ModuleType) -> None:
    shown = html.shots([html.Shot("data:image/png;base64,AA", synthetic.HOSTILE, synthetic.HOSTILE)])
    assert "<script>" not in shown
    assert "onerror='" not in shown
    lane = StudyLane("x:5", synthetic.HOSTILE, "x", 5, 9)
    times = pd.DataFrame({"lane": ["x:5"], "median_ms": [90.0]})
    table = html.table(calls_table([lane], times, "x:5"))
    assert "<script>" not in table
    assert "<td>1.80</td>" in table
    assert "10.0 ms" in table


def test_charts_name_their_units_and_scales() -> None:
    scores = pd.DataFrame(
        {
            "label": ["A", "B"],
            "scheduler": ["ddim", "euler"],
            "nfe": [50, 30],
            "n": [4, 4],
            "median": [0.1, 0.0],
            "low": [0.0, 0.0],
            "high": [0.2, 0.0],
        }
    )
    spec = error_chart(scores).to_dict()
    layers = {layer["mark"]["type"]: layer["encoding"] for layer in spec["layer"]}
    assert layers["point"]["y"]["title"] == "Latent error (relative L2)"
    assert layers["point"]["x"]["title"] == "Denoiser calls (NFE)"
    assert layers["point"]["y"]["scale"]["type"] == "log"
    (rows,) = spec["datasets"].values()
    assert [row["label"] for row in rows] == ["A"]  # an error of zero has no place on a logarithmic axis
    times = scores.assign(median_ms=1.0, low_ms=0.9, high_ms=1.1)
    assert calls_chart(times).to_dict()["layer"][1]["encoding"]["y"]["title"] == "Median time (ms)"
