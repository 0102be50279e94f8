"""Every page in every state of the cache: a page or a plain message, never a traceback."""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import cache_access
from engine.cache.connection import migrate, writing
from engine.errors import CacheBusy
from tests.dashboard.reading_pages import address, words

VIEWS = Path(__file__).resolve().parents[2] / "dashboard" / "views"
PAGES = sorted(file.stem for file in VIEWS.glob("*.py") if file.stem != "__init__")
STUDY_PAGES = [page for page in PAGES if page != "tune"]  # that one shows files beside the cache
OpenPage = Callable[..., AppTest]


def player(page: AppTest) -> Any:
    """What was handed to the comparing player."""
    return next(json.loads(part.proto.json) for part in page.get("bidi_component") if "lanes" in part.proto.json)


def _many(path: Path, synthetic: ModuleType) -> None:
    for name in ("first", "second", "third"):
        synthetic.write(path, synthetic.study(name, prompts=("x",), seeds=(0,)))


def _plain(**changes: Any) -> Callable[[Path, ModuleType], None]:
    return lambda path, synthetic: synthetic.write(path, synthetic.study(**changes))


def _outcome(**outcome: Any) -> Callable[[Path, ModuleType], None]:
    return lambda path, synthetic: synthetic.write(path, synthetic.study(prompts=("x",)), **outcome)


LANES = ("ddim:50", "dpmpp_2m:20", "euler:30", "pndm:35")
# State -> (how to make the cache, what both pages say).
STATES: dict[str, tuple[Callable[[Path, ModuleType], None], str]] = {
    "no file": (lambda path, synthetic: None, "There is no cache yet"),
    "no bytes": (lambda path, synthetic: path.touch(), "The cache is empty"),
    "no study": (lambda path, synthetic: migrate(path) and None, "No study has been run yet"),
    "not DuckDB": (lambda path, synthetic: path.write_text("hello\n" * 999) and None, "is not a DuckDB file"),
    "a folder": (lambda path, synthetic: path.mkdir(), "The cache cannot be read"),
    "foreign DuckDB": (lambda path, synthetic: synthetic.write_foreign(path), "not a cache of this lab"),
    "outdated": (lambda path, synthetic: synthetic.write_outdated(path), "engine migrate"),
    "usual": (_plain(), "quick"),
    "one lane": (_plain(lanes=("euler:30",)), "quick"),
    "one seed": (_plain(seeds=(3,)), "quick"),
    "one lane, prompt and seed": (_plain(lanes=("ddim:5",), prompts=("x",), seeds=(3,)), "quick"),
    "one timing sample": (_plain(prompts=("x",), repeats=1), "quick"),
    "no frames": (_plain(prompts=("x",), frames={"count": 0}), "quick"),
    "only x0": (_plain(prompts=("x",), frames={"kinds": ["x0"]}), "quick"),
    "three studies": (_many, "third"),
    "all failed": (_outcome(failed=LANES), "quick"),
    "nothing has run": (_outcome(missing=LANES), "quick"),
    "some of each": (_outcome(failed=LANES[:1], missing=LANES[1:2]), "quick"),
    "never timed": (_outcome(timed=False), "quick"),
    "no pictures": (_outcome(pictures=False), "quick"),
}
NO_STEPS = "No steps have been recorded yet"
# (page, state) -> what that page says besides.
OWN_WORDS = {
    ("cost", "one lane"): "Baseline, Euler 30, a month",
    ("cost", "one timing sample"): "too few samples",
    ("cost", "all failed"): "Nothing can be priced yet",
    ("cost", "nothing has run"): "Nothing can be priced yet",
    ("cost", "never timed"): "Nothing has been timed yet",
    ("phases", "usual"): NO_STEPS,
    ("phases", "all failed"): NO_STEPS,
    ("phases", "nothing has run"): NO_STEPS,
}
HAS_A_SAVING = {
    "usual",
    "one seed",
    "one timing sample",
    "no frames",
    "only x0",
    "three studies",
    "no pictures",
}


@pytest.fixture(scope="module")
def caches(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The cache of a state, made once and only read."""

    @functools.cache
    def made(state: str) -> Path:
        path = tmp_path_factory.mktemp("state") / "cache.duckdb"
        STATES[state][0](path, synthetic)
        return path

    return made


@pytest.mark.parametrize("page", STUDY_PAGES)
@pytest.mark.parametrize("state", STATES)
def test_every_page_in_every_state_shows_content_or_a_plain_message(
    page: str, state: str, open_page: OpenPage, caches: Callable[[str], Path]
) -> None:
    text = words(open_page(page, caches(state)))
    assert STATES[state][1] in text
    assert OWN_WORDS.get((page, state), "") in text
    assert not re.search(r"\bnan\b", text)
    if page == "cost":
        assert ("Saved a month" in text) == (state in HAS_A_SAVING)


@pytest.mark.parametrize("page", PAGES)
def test_unknown_arguments_are_explained(page: str, open_page: OpenPage, usual_cache: Path) -> None:
    shown = open_page(page, usual_cache, "--cahce")
    assert "--cahce" in words(shown)
    assert "Usage" in words(shown)


@pytest.mark.parametrize("page", STUDY_PAGES)
def test_read_only_is_accepted(page: str, open_page: OpenPage, usual_cache: Path) -> None:
    assert "quick" in words(open_page(page, usual_cache, "--read-only"))


@pytest.mark.parametrize("page", STUDY_PAGES)
def test_a_cache_that_is_busy_from_the_start_is_explained(
    page: str, open_page: OpenPage, usual_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_access, "reading", _busy)
    shown = open_page(page, usual_cache)
    assert "The cache is being written" in words(shown)


@pytest.mark.parametrize("page", STUDY_PAGES)
def test_a_cache_that_gets_busy_shows_what_was_known(
    page: str, open_page: OpenPage, tmp_path: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, synthetic.study(prompts=("x",)))
    shown = open_page(page, cache)
    with writing(cache) as db:
        db.execute("UPDATE trajectories SET error = 'changed'")
    monkeypatch.setattr(cache_access, "reading", _busy)
    again = shown.run()
    assert "this is what was known before" in words(again)
    assert "quick" in words(again)


def _busy(*_: object, **__: object) -> None:
    raise CacheBusy("in use")


@pytest.mark.parametrize("page", PAGES)
def test_hostile_and_endless_text_is_shown_as_text(
    page: str, open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, synthetic.study(prompts=(synthetic.HOSTILE, synthetic.LONG), seeds=(0,)), failed=LANES[2:3])
    for prompt in (synthetic.HOSTILE[:80], synthetic.LONG[:79]):
        shown = open_page(page, cache, query={"prompt": prompt})
        assert "<script>" not in words(shown)
        assert "<img src=x" not in words(shown)
        assert len(words(shown)) < 400_000
    if page == "overview":
        assert "&lt;script&gt;window.hurt=1&lt;/script&gt;" in words(shown)


def test_the_last_run_study_comes_first_and_the_address_can_name_another(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "cache.duckdb"
    _many(cache, synthetic)
    page = open_page("overview", cache)
    assert page.selectbox("study_choice").value == "third"
    assert address(page) == {"study": "third"}
    assert open_page("overview", cache, query={"study": "first"}).selectbox("study_choice").value == "first"
    assert open_page("overview", cache, query={"study": "<b>"}).selectbox("study_choice").value == "third"


def test_the_address_chooses_prompt_seed_and_kind(open_page: OpenPage, usual_cache: Path) -> None:
    page = open_page("compare", usual_cache, query={"prompt": "owl", "seed": "1", "kind": "xt"})
    assert page.selectbox("prompt_choice").value == "owl"
    assert page.selectbox("seed_choice").value == 1
    data = player(page)
    assert data["kind"] == "noisy image"
    assert data["subject"] == "'owl', seed 1"
    assert address(page) == {"study": "quick", "prompt": "owl", "seed": "1", "kind": "xt"}


def test_a_choice_on_the_page_outlasts_the_address_it_began_with(open_page: OpenPage, usual_cache: Path) -> None:
    page = open_page("compare", usual_cache, query={"prompt": "owl"})
    page.selectbox("prompt_choice").select("rocket").run()
    page.selectbox("seed_choice").select(1).run()
    assert address(page)["prompt"] == "rocket"
    assert player(page)["subject"] == "'rocket', seed 1"
    page.query_params["prompt"] = "red apple"
    assert player(page.run())["subject"] == "'red apple', seed 1"


def test_bad_values_in_the_address_fall_back_quietly(open_page: OpenPage, usual_cache: Path) -> None:
    page = open_page("compare", usual_cache, query={"prompt": "nope", "seed": "-5", "kind": "<script>", "study": "9"})
    assert not page.exception
    assert (page.selectbox("prompt_choice").value, page.selectbox("seed_choice").value) == ("red apple", 0)
    assert player(page)["kind"] == "noisy image and clean estimate"


def test_the_overview_names_n_interval_environment_and_time_with_its_figures(
    open_page: OpenPage, usual_cache: Path
) -> None:
    text = words(open_page("overview", usual_cache))
    assert "n = 10 per lane" in text
    assert "95 % bootstrap interval" in text
    assert "Example CPU, 2 cores" in text
    assert "UTC" in text
    assert "24 of 24" in text


def test_several_environments_and_batch_sizes_bring_a_picker(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "cache.duckdb"
    plan = synthetic.study(prompts=("x",), timing={"repeats": 4, "batch_sizes": [1, 4]})
    synthetic.write(cache, plan, environments=(synthetic.LAPTOP, synthetic.SERVER))
    page = open_page("overview", cache)
    assert sorted(page.selectbox("environment").options) == ["Example CPU, 2 cores", "Example GPU"]
    page.selectbox("environment").select(synthetic.SERVER.environment_id)
    page.selectbox("batch").select(4)
    page.run()
    assert "batch of 4" in words(page)


def test_missing_and_failed_cells_say_why(open_page: OpenPage, tmp_path: Path, synthetic: ModuleType) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, synthetic.study(prompts=("x",)), failed=LANES[2:3], missing=LANES[3:])
    lanes = {lane["label"]: lane for lane in player(open_page("compare", cache))["lanes"]}
    assert lanes["Euler 30"]["why"].startswith("Failed: ValueError")
    assert lanes["PNDM 35"]["why"] == "Not run yet"
    assert lanes["DDIM 50"]["why"] == ""
    assert "4 failed cells" not in words(open_page("overview", cache))
    assert "2 failed cells" in words(open_page("overview", cache))


def test_every_lane_has_its_frames_in_order_and_its_final_picture(open_page: OpenPage, usual_cache: Path) -> None:
    data = player(open_page("compare", usual_cache))
    assert [lane["label"] for lane in data["lanes"]] == ["DDIM 50", "DPM++ 2M 20", "Euler 30", "PNDM 35"]
    assert data["small"]
    assert data["noNoise"] == data["noTime"] == ""
    for lane in data["lanes"]:
        places = [frame["progress"] for frame in lane["frames"]]
        assert places == sorted(places)
        assert places[-1] == 1.0
        assert len(places) == 12
        assert lane["final"]["src"].startswith("data:image/png;base64,")
    assert data["lanes"][3]["facts"][:2] == ["35 steps", "NFE 36"]
