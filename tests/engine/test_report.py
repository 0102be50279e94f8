"""The report: one page that holds all it needs, says what the analysis says, and runs nothing that is not its own."""

import base64
import hashlib
import io
import itertools
import json
import re
import tomllib
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from engine.analysis.claims import evaluate, read_claims
from engine.analysis.cost import Rate, price_lanes
from engine.cache.connection import reading, writing
from engine.cli import main
from engine.display.formats import duration, money, percent, percent_range
from engine.paths import CLAIMS
from engine.results import read_results
from engine.sharing.pictures import CellPictures
from engine.sharing.report import ReportOptions, read_report, render
from engine.sharing.report import printing as printing_module
from engine.sharing.report.contents import MAX_PROMPTS
from engine.sharing.report.markdown import plain, render_markdown
from engine.sharing.report.poster import HEIGHT, WIDTH, render_png
from engine.sharing.report.report_charts import safe_json
from engine.study.study import parse_study
from tests.dashboard import synthetic

EIGHT = ("ddim:50", "dpmpp_2m:20", "euler:30", "pndm:35", "heun:20", "unipc:20", "deis:20", "lms:30")
VOID = {"meta", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Elements of a page with their attributes, its text, and the contents of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.texts, self._open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A cache with a study of four lanes that is scored and timed."""
    path = tmp_path_factory.mktemp("report") / "c.duckdb"
    synthetic.write_scored(path)
    return path


def study_of(path):
    with reading(path) as db:
        return db.execute("SELECT study_id FROM studies").fetchall()[0][0]


def report_of(path, options=None):
    with reading(path) as db:
        return read_report(db, study_of(path), options)


@pytest.fixture(scope="module")
def report(scored):
    return report_of(scored)


@pytest.fixture(scope="module")
def page(report):
    return Page(render(report))


def test_the_page_refers_to_nothing_outside_itself(page):
    for tag, attributes in page.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    assert not page.all("link")
    assert not page.all("iframe")


def test_only_the_scripts_of_the_page_itself_are_allowed(page):
    (policy,) = [item["content"] for item in page.all("meta") if item.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    kinds = [item.get("type") for item in page.all("script")]
    assert kinds == ["application/json", None, None]
    digests = {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in page.scripts[1:]
    }
    assert set(rules["script-src"].split()) == digests


def test_the_headline_is_what_the_analysis_says(page, report):
    best = report.headline.recommendation.best
    assert best is not None
    assert best.lane != report.results.baseline
    assert report.headline.sentence in page.text
    times = report.results.times.set_index("lane")
    saved = percent(1 - times.loc[report.results.baseline, "median_ms"] ** -1 * best.median_ms)
    assert saved in report.headline.sentence
    assert percent_range(1 - 1 / best.speedup_low, 1 - 1 / best.speedup_high) in page.text
    assert f"n = {times.loc[best.lane, 'n']}" in page.text
    for item in report.headline.figures:
        assert item.value in page.text
        assert item.small.split(";")[0] in page.text


def test_every_lane_has_its_time_and_every_metric_its_table(page, report):
    for _, row in report.results.times.iterrows():
        assert row["label"] in page.text
        assert duration(row["median_ms"]) in page.text
    metrics = report.results.standings["metric_label"].dropna().unique()
    assert len(metrics) >= 1
    titles = page.text
    assert all(str(metric) in titles for metric in metrics)


def test_the_charts_are_those_there_are_figures_for(page):
    assert set(json.loads(page.scripts[0])) == {"time", "stages", "trade", "cost"}
    static = [item for item in page.all("img") if item["src"].startswith("data:image/svg+xml")]
    assert len(static) == 4
    assert all(b"<svg" in base64.b64decode(item["src"].partition(",")[2]) for item in static)


def test_pictures_have_alternatives_and_tables_scopes(page):
    finals = [item for item in page.all("img") if item.get("class") == "final"]
    assert len(finals) == 4 * 6
    assert all(item["alt"] for item in page.all("img") if item.get("class") != "strip")
    assert all(item.get("scope") in {"col", "row"} for item in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_study_file_in_the_page_gives_the_same_study(page, report):
    (text,) = [text for text in page.texts if text.startswith('baseline = "')]
    study = parse_study(tomllib.loads(text))
    assert json.loads(json.dumps(study.spec())) == dict(report.results.spec)


def test_costs_are_those_of_the_cost_page(scored):
    options = ReportOptions(
        price="l4-modal-serverless-2026-05-07", seconds=2.5, images_per_month=500_000, utilisation=0.5
    )
    report = report_of(scored, options)
    text = Page(render(report)).text
    preset = report.pricing.preset
    expected = price_lanes(report.results.times, Rate(preset.usd_per_hour, preset.sold_in), report.pricing.work, 2.5)
    for _, row in expected.iterrows():
        assert money(row["usd_month"]) in text
    assert f"as of {preset.as_of}" in text
    assert preset.source in text


def test_times_of_another_machine_are_not_priced_without_its_seconds(scored):
    report = report_of(scored, ReportOptions(price="l4-modal-serverless-2026-05-07"))
    assert report.priced.empty
    assert "are unknown" in Page(render(report)).text


def test_without_a_price_on_file_a_round_figure_is_named_as_such(page):
    assert "a placeholder" in page.text
    assert "at any hourly price" in page.text


def hostile(path):
    """A study whose every text is an attack."""
    plan = synthetic.study(lanes=("ddim:50", "euler:30"), prompts=(synthetic.HOSTILE, "owl"))
    synthetic.write(path, plan, failed=["euler:30"])
    evil = "</script><script>window.hurt=1</script><img src=x onerror=alert(1)>"
    with writing(path) as db:
        db.execute(
            "UPDATE studies SET spec = json_merge_patch(spec, ?)", [json.dumps({"description": evil, "model": evil})]
        )
        db.execute("UPDATE environments SET device_name = ?, details = ?", [evil, json.dumps({evil: evil})])
        db.execute("UPDATE models SET source = ?, family = ?, fingerprint = ?", [evil, evil, evil])
        db.execute("UPDATE trajectories SET scheduler_label = ?, error = ?", [evil, evil])
    return path


def test_no_text_of_the_cache_becomes_markup(tmp_path, page):
    found = Page(render(report_of(hostile(tmp_path / "c.duckdb"))))
    assert len(found.scripts) == 3
    assert {tag for tag, _ in found.elements} <= {tag for tag, _ in page.elements} | {"p", "div"}
    assert not [attributes for _, attributes in found.elements if any(name.startswith("on") for name in attributes)]
    assert "window.hurt=1" in found.text
    assert "</script" not in found.scripts[0].lower()


def test_json_in_a_script_element_cannot_end_it():
    assert safe_json({"a": "</script><!--&"}) == '{"a":"\\u003c/script\\u003e\\u003c!--\\u0026"}'
    assert json.loads(safe_json({"a": "</script>"})) == {"a": "</script>"}


def test_what_is_no_picture_is_left_out(tmp_path):
    path = tmp_path / "c.duckdb"
    synthetic.write(path, synthetic.study(lanes=("ddim:50",), prompts=("owl",), seeds=(0,)))
    with writing(path) as db:
        db.execute("UPDATE frames SET image = '<svg onload=alert(1)>'::BLOB WHERE kind = 'final'")
        db.execute("UPDATE frames SET image = image[1:40] WHERE kind = 'x0'")
    found = Page(render(report_of(path)))
    assert not [item for item in found.all("img") if item.get("class") in {"final", "strip"}]
    assert "no picture" in found.text


def test_eight_lanes_of_six_prompts_stay_below_five_megabytes(tmp_path):
    path = tmp_path / "c.duckdb"
    prompts = [f"prompt {number}" for number in range(6)]
    synthetic.write(path, synthetic.study(lanes=EIGHT, prompts=prompts, seeds=(0,)), pictures=False)
    report = report_of(path)
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8)  # the worst there is to compress
    image = Image.fromarray(noise)
    worst = CellPictures(tuple(((step + 1) / 12, image) for step in range(12)), image)
    page = render(replace(report, pictures=dict.fromkeys(report.cells.values(), worst)))
    assert len(report.cells) == 48
    assert len(page.encode()) < 5_000_000
    finals = [item for item in Page(page).all("img") if item.get("class") == "final"]
    assert len(finals) == 48


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timed": False}, "Nothing has been timed"),
        ({"missing": ["euler:30"]}, "6 not run"),
        ({"failed": ["euler:30"]}, "6 failed"),
        ({"pictures": False}, "no picture"),
        ({}, "have not been scored"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, changes, words):
    path = tmp_path / "c.duckdb"
    synthetic.write(path, synthetic.study(lanes=("ddim:50", "euler:30")), **changes)
    assert words in Page(render(report_of(path))).text


def test_one_lane_and_nothing_run_make_a_page(tmp_path):
    path = tmp_path / "c.duckdb"
    synthetic.write(path, synthetic.study(lanes=("ddim:50",)), missing=["ddim:50"])
    assert "Not known yet" in Page(render(report_of(path))).text


def test_claims_are_tested_where_the_study_has_their_lanes(scored, page, tmp_path):
    with reading(scored) as db:
        results = read_results(db, study_of(scored), None)
    for verdict in evaluate(read_claims(CLAIMS), results):
        assert verdict.text in page.text
    counts = Counter(re.findall(r"Refuted|Confirmed|Undecided|Not testable", page.text))
    assert counts.total() >= len(read_claims(CLAIMS))
    for number, lanes in enumerate((("heun:10", "unipc:10"), ("dpmpp_2m:20", "unipc:10"))):
        path = tmp_path / f"{number}.duckdb"
        synthetic.write(path, synthetic.study(lanes=lanes))
        assert report_of(path).claims == ()
    assert "Verdicts on claims" not in Page(render(report_of(path))).text


def test_of_many_prompts_some_are_shown_and_it_is_said_how_many(tmp_path):
    path = tmp_path / "c.duckdb"
    prompts = [f"prompt {number}" for number in range(20)]
    synthetic.write(path, synthetic.study(lanes=("ddim:50",), prompts=prompts, seeds=(0,)))
    report = report_of(path)
    assert len(report.prompts) == MAX_PROMPTS
    assert (report.prompts[0], report.prompts[-1]) == ("prompt 0", "prompt 19")
    assert "6 of 20 prompts" in Page(render(report)).text


# --- Markdown, picture and files ------------------------------------------------------------------------------------


def test_markdown_has_the_headline_and_a_row_for_each_lane(report):
    text = render_markdown(report)
    assert plain(report.headline.sentence) in text
    for label in report.results.lane_table["label"]:
        assert sum(line.startswith(f"| {plain(label)}") for line in text.split("### Which lane")[0].splitlines()) == 1
    assert "n = 10" in text


def test_markdown_has_the_times_also_where_no_metric_that_may_decide_has_values(report):
    results, named = report.results, {"metric": {"clip_score": "other"}}
    quality = results.quality[results.quality["metric"] == "clip_score"].replace(named)
    found = replace(report, results=replace(results, quality=quality, metrics=results.metrics.replace(named)))
    assert set(found.results.standings["metric"]) == {"other"}
    table = render_markdown(found).split("### Time and quality")[1].split("###")[0]
    for row in found.results.times.itertuples():
        assert table.count(f"| {plain(row.label)}") == 1
        assert plain(duration(row.median_ms)) in table
    assert "minus baseline" not in table


def test_no_text_becomes_markdown(tmp_path):
    text = render_markdown(report_of(hostile(tmp_path / "c.duckdb")))
    assert "<script" not in text.replace("\\<", "")
    assert plain("[x](http://y) @all #1 | `c`") == "\\[x\\](http://y) \\@all \\#1 \\| \\`c\\`"


def test_the_picture_fills_a_slide(report):
    with Image.open(io.BytesIO(render_png(report))) as image:
        assert image.size == (WIDTH, HEIGHT)
        assert len(image.convert("RGB").getcolors(2**24)) > 500


@pytest.mark.parametrize("name", ["r.html", "r.md", "r.png"])
def test_the_ending_tells_what_is_written(scored, tmp_path, name, capsys):
    target = tmp_path / name
    assert main(["report", study_of(scored), "-o", str(target), "--cache", str(scored)]) == 0
    starts = {"r.html": b"<!DOCTYPE html>", "r.md": b"## ", "r.png": b"\x89PNG"}
    assert target.read_bytes().startswith(starts[name])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert str(target) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "r.docx"], "unknown file extension"),
        (["-o", "nowhere/r.html"], "does not exist"),
        (["-o", "r.html", "--price", "l4-modal-serverles-2026-05-07"], "Did you mean 'l4-modal-serverless-2026-05-07'"),
        (["-o", "r.html", "--price", "x", "--usd-per-hour", "1"], "give one of them"),
        (["-o", "r.html", "--claims", "none.toml"], "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(scored, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(["report", study_of(scored), "--cache", str(scored), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_study_is_named(scored, tmp_path, capsys):
    assert main(["report", "quik", "-o", str(tmp_path / "r.html"), "--cache", str(scored)]) == 2
    assert "holds no study 'quik'" in capsys.readouterr().err


def test_without_a_chromium_a_pdf_is_refused_with_the_remedy(scored, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(printing_module, "PLACES", ())
    assert main(["report", study_of(scored), "-o", str(tmp_path / "r.html"), "--pdf", "--cache", str(scored)]) == 2
    assert "Install one" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
