"""The report as one picture: no sentence is cut without dots, every mark has its name, and many lanes stay readable."""

import io
from dataclasses import replace

import pytest
from PIL import Image, ImageDraw

from engine.cache.connection import reading
from engine.sharing.report import poster
from engine.sharing.report import report_charts as charts
from engine.sharing.report.contents import read_report
from engine.study.schedulers import SCHEDULERS
from tests.dashboard import synthetic


def written(path, lanes):
    plan = synthetic.study(lanes=lanes, prompts=synthetic.SIX)
    synthetic.write(path, plan)
    synthetic.write_scores(path, plan, {})
    with reading(path) as db:
        return read_report(db, "quick")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of four lanes."""
    return written(tmp_path_factory.mktemp("poster") / "c.duckdb", synthetic.LANES)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Of many lanes."""
    lanes = ["ddim:50", *(f"{key}:{steps}" for key in list(SCHEDULERS)[1:13] for steps in (10, 20, 30, 40, 45))]
    return written(tmp_path_factory.mktemp("poster") / "c.duckdb", lanes)


@pytest.fixture
def said(monkeypatch):
    """All that is written into a picture, line by line."""
    lines = []
    real = ImageDraw.ImageDraw.text

    def text(self, place, line, *args, **options):
        lines.append(line)
        return real(self, place, line, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return lines


@pytest.fixture
def drawn(monkeypatch):
    """The specifications of the charts that are drawn."""
    specs = []
    real = charts.png

    def png(picture, width):
        specs.append(charts.spec(picture, width))
        return real(picture, width)

    monkeypatch.setattr(charts, "png", png)
    return specs


def with_headline(report, **changes):
    """The report with other words on it; `figures` and `sentence` are what a poster shows of a headline."""
    found = report.headline

    class Other:
        figures, sentence, lane = found.figures, found.sentence, found.lane

    for name, value in changes.items():
        setattr(Other, name, value)
    other = replace(report)
    other.__dict__["headline"] = Other
    return other


def test_a_headline_and_notes_that_are_too_long_end_in_dots(report, said):
    first, *rest = report.headline.figures
    figures = (replace(first, note="many words " * 80, small="more words " * 80), *rest)
    poster.render_png(with_headline(report, sentence="A long sentence goes on and on. " * 30, figures=figures))
    assert sum(line.endswith("...") for line in said) >= 3


def test_a_headline_of_three_lines_is_shown_whole_in_smaller_letters(report, said):
    sentence = "This sentence has " + "quite a few words " * 9 + "and an end."
    poster.render_png(with_headline(report, sentence=sentence))
    assert " ".join(said[1:4]) == sentence


def test_ends_of_an_interval_are_told_apart_from_a_minus(report, said):
    sentence = "It saves −1.3 % [−1.3 – 14.2 %] or $1 – $2; A – B is a name."
    poster.render_png(with_headline(report, sentence=sentence))
    assert "It saves -1.3 % [-1.3 to 14.2 %] or $1 to $2; A - B is a name." in said


def test_every_mark_of_the_chart_has_the_name_of_its_lane(report, drawn):
    poster.render_png(report)
    [spec] = drawn
    names = {row["name"] for rows in spec["datasets"].values() for row in rows if "name" in row}
    assert names == set(report.results.lane_table["label"])


def test_of_many_lanes_the_chart_shows_a_few_and_says_which(crowd, said, drawn):
    picture = poster.render_png(crowd)
    rows = poster.chart_rows(crowd)
    assert len(rows) == poster.CHART_LANES
    assert {"ddim:50", crowd.headline.lane} - {""} <= set(rows["lane"])
    assert any(line.startswith(f"{poster.CHART_LANES} of 61 lanes") for line in said)
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (poster.WIDTH, poster.HEIGHT)


def test_without_scores_many_lanes_still_leave_a_chart_as_wide_as_its_place(tmp_path, drawn):
    lanes = ["ddim:50", *(f"{key}:{steps}" for key in list(SCHEDULERS)[1:13] for steps in (10, 20, 30, 40, 45))]
    plan = synthetic.study(lanes=lanes)
    synthetic.write(tmp_path / "c.duckdb", plan)
    with reading(tmp_path / "c.duckdb") as db:
        found = read_report(db, "quick")
    poster.render_png(found)
    with Image.open(
        io.BytesIO(charts.png(charts.ReportChart("t", poster.chart_of(poster.chart_rows(found)), ""), 640))
    ) as image:
        assert image.height < image.width
