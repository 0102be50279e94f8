"""One cache, one decision: every page, the report in each format, exported figures, command line and Python say it."""

import html
import io
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from engine.cache.connection import reading
from engine.cli import main
from engine.display.formats import labelled
from engine.display.use_cases import use_case_table
from engine.results import Results
from engine.sharing.figures import figures_csv
from engine.sharing.report.contents import read_report
from engine.sharing.report.markdown import plain as in_markdown
from engine.sharing.report.markdown import render_markdown
from engine.sharing.report.page import render
from tests.dashboard.reading_pages import cards, plain, study_results, words

OpenPage = Callable[..., AppTest]
BEHIND = -5.0
ALL = ("dpmpp_2m:20", "euler:30", "pndm:35")
# What lanes show on how many prompts -> the lane that is named.
STATES = {
    "the cheapest is named": ({"pndm:35": BEHIND}, 130, "dpmpp_2m:20"),
    "a dearer one is named": ({"dpmpp_2m:20": BEHIND}, 130, "euler:30"),
    "too few prompts": ({}, 15, None),
    "none is as good": (dict.fromkeys(ALL, BEHIND), 130, None),
    "never asked": ({}, 0, None),
}


@pytest.fixture(scope="module", params=STATES)
def decided(
    request: pytest.FixtureRequest, synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Results, str | None]:
    gaps, prompts, lane = STATES[request.param]
    path, plan = tmp_path_factory.mktemp("same") / "c.duckdb", synthetic.study(prompts=synthetic.SIX)
    synthetic.write(path, plan)
    synthetic.write_scores(path, plan, gaps, decided=prompts)
    return path, study_results(path), lane


def _rows(text: str, lanes: dict[str, str], among: tuple[str, ...]) -> dict[str, str]:
    """Of each lane the first word of `among` in a row of the page's tables that begins with it."""
    found = {}
    for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL):
        told = plain(row)
        for key, label in lanes.items():
            words_there = [word for word in among if word in told]
            if label in told[: len(label) + 12] and words_there:
                found.setdefault(key, words_there[0])
    return found


def test_every_view_says_the_same(
    decided: tuple[Path, Results, str | None], open_page: OpenPage, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, results, lane = decided
    named = lane or results.baseline
    assert (results.decision.lane if results.decision else None) == lane
    standing = {key: word for key, word in results.decided.items() if key != results.baseline}
    labels = {key: results.lane_label(key) for key in standing}
    overview = cards(open_page("overview", cache))
    assert overview["Recommended"][0].endswith(results.lane_label(named))
    speed = open_page("speed", cache)
    (table,) = (frame.value for frame in speed.dataframe)
    shown = dict(zip(table["Lane"], table["By all guards"], strict=True))
    assert {key: shown[label] for key, label in labels.items()} == standing
    uses = [plain(str(cell)) for row in use_case_table(results).rows for cell in (row[5],)]
    assert all(use in html.unescape(words(speed)) for use in uses)
    vocabulary = tuple(sorted({*standing.values(), "not as good", "not shown yet"}, key=len, reverse=True))
    cost = words(open_page("cost", cache, query={"study": "quick", "equal": "0"}))
    assert _rows(cost, labels, vocabulary) == standing
    with reading(cache) as db:
        report = read_report(db, "quick")
    page, text = html.unescape(render(report)), render_markdown(report)
    assert report.headline.sentence in page
    assert in_markdown(report.headline.sentence) in text
    assert results.lane_label(named) in report.headline.sentence or named in report.headline.sentence
    assert all(use in page and in_markdown(use) in text for use in uses)
    for line in results.terms.lines if results.terms else ():
        assert line in html.unescape(words(speed))
        assert line in page
        assert in_markdown(line) in text
    figures = pd.read_csv(io.StringIO(figures_csv(results)))
    assert dict(zip(figures["lane"], figures["decided"], strict=True)) == results.decided
    capsys.readouterr()
    assert main(["claims", "quick", "--cache", str(cache)]) == 0
    said = capsys.readouterr().out
    if results.decision:
        assert results.decision.sentence in said
        assert lane or labelled(results.decision.sentence, results.lane_labels) in overview["Recommended"][1]
    else:
        assert f"Keep {results.baseline}: whether another lane is as good has not been asked" in said


def test_a_lane_is_named_for_a_use_only_if_it_is_accepted_and_fast_enough(
    decided: tuple[Path, Results, str | None],
) -> None:
    _, results, _ = decided
    accepted = {key for key, word in results.decided.items() if word == "as good"}
    rows = {str(row[0]): row for row in use_case_table(results).rows}
    assert rows["Offline"][2].text == results.lane_label(results.baseline)  # type: ignore[union-attr]
    for name, most in (("Balanced", 0.75), ("Real time", 0.5)):
        costs = {row.lane: row.cost for row in results.decision.lanes} if results.decision else {}
        fits = {key for key in accepted if costs[key] <= most}
        label = getattr(rows[name][2], "text", "")
        assert bool(fits) == bool(label)
        assert not label or label in {results.lane_label(key) for key in fits}
