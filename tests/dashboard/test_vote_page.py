"""Blind votes: who sees what, what is written, and what is counted."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from streamlit.testing.v1 import AppTest

from dashboard import cache_access
from dashboard.vote import data as shown
from engine.analysis import votes as tally
from engine.cache.connection import reading
from engine.cache.vote_table import Vote, cast, votes
from engine.errors import CacheBusy
from engine.results import Results, read_results
from tests.dashboard.reading_pages import words

OpenPage = Callable[..., AppTest]
PROMPTS = tuple(f"thing {number}" for number in range(12))
LANES = ("ddim:50", "dpmpp_2m:20", "euler:3")


@pytest.fixture(scope="module")
def cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vote") / "cache.duckdb"
    synthetic.write(path, synthetic.study(lanes=LANES, prompts=PROMPTS, frames={"count": 0}))
    return path


@pytest.fixture
def study(cache: Path) -> Results:
    with reading(cache) as db:
        return read_results(db, "quick")


def test_each_voter_sees_every_pair_once_in_an_order_and_on_sides_of_their_own(study: Results) -> None:
    mine, yours = (shown.pairs(study, "ddim:50", "dpmpp_2m:20", voter) for voter in ("me", "you"))
    assert mine == shown.pairs(study, "ddim:50", "dpmpp_2m:20", "me")
    for pairs in (mine, yours):
        real = [pair for pair in pairs if pair.check_kind == "none"]
        assert len({pair.key for pair in real}) == len(real) == len(PROMPTS) * 2
        lefts = Counter(pair.left_lane for pair in real)
        assert min(lefts.values()) >= 4
    assert [pair.prompt for pair in mine] != [pair.prompt for pair in yours]
    assert [pair.key for pair in shown.pairs(study, "dpmpp_2m:20", "ddim:50", "me")] != []


def test_checks_stand_among_the_pairs(study: Results) -> None:
    kinds = Counter(pair.check_kind for pair in shown.pairs(study, "ddim:50", "dpmpp_2m:20", "me"))
    assert kinds == {"none": 24, "obvious": 2, "identical": 2}
    assert shown.obvious_lane(study, ("ddim:50", "dpmpp_2m:20")) == "euler:3"
    assert shown.obvious_lane(study, ("ddim:50", "euler:3")) is None
    for pair in shown.pairs(study, "ddim:50", "dpmpp_2m:20", "me"):
        assert (pair.left_id == pair.right_id) == (pair.check_kind == "identical")
        assert ("euler:3" in (pair.left_lane, pair.right_lane)) == (pair.check_kind == "obvious")


def _vote(voter: str, number: int, choice: str = "left") -> Vote:
    return Vote("quick", voter, "none", f"a{number}", f"b{number}", "ddim:50", "euler:3", f"p{number}", 0, choice, 1.0)  # type: ignore[arg-type]


def test_a_second_vote_of_a_voter_on_a_pair_changes_nothing_on_whichever_side(
    tmp_path: Path, synthetic: ModuleType
) -> None:
    path = tmp_path / "c.duckdb"
    synthetic.write(path, synthetic.study(prompts=("x",), seeds=(0,)))
    first = _vote("me", 0)
    turned = synthetic.replace(first, left_id=first.right_id, right_id=first.left_id, choice="right")
    assert cast(path, first)
    assert not cast(path, first)
    assert not cast(path, turned)
    with reading(path) as db:
        assert votes(db, "quick")["choice"].tolist() == ["left"]


def test_votes_on_pictures_that_the_study_no_longer_shows_do_not_count(tmp_path: Path, synthetic: ModuleType) -> None:
    path, counts = tmp_path / "c.duckdb", []
    for scale in (5.0, 2.0, 5.0):  # a study of the same name with other pictures, and back
        plan = synthetic.write(path, synthetic.study(prompts=("x",), seeds=(0,), guidance_scale=scale), timed=False)
        assert plan.guidance_scale == scale
        with reading(path) as db:
            counts.append(len(votes(db, "quick")))
            ids = dict(db.execute("SELECT lane, trajectory_id FROM study_trajectories").fetchall())
        left, right = ids["ddim:50"], ids["euler:30"]
        cast(path, synthetic.replace(_vote("me", 0), left_id=left, right_id=right, prompt="x"))
    assert counts == [0, 0, 1]


def test_fifty_voters_at_once_lose_no_vote_while_a_study_is_written(tmp_path: Path, synthetic: ModuleType) -> None:
    path = tmp_path / "c.duckdb"
    plan = synthetic.study(prompts=PROMPTS[:4], seeds=(0,))
    synthetic.write(path, plan, timed=False)
    errors: list[BaseException] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            _guarded(errors, lambda: synthetic.write(path, plan, timed=False))

    def vote(number: int) -> None:
        for pair in range(2):
            for _ in range(2):  # a nervous finger
                _guarded(errors, lambda pair=pair: cast(path, _vote(f"v{number}", pair)))

    writer = threading.Thread(target=write)
    voters = [threading.Thread(target=vote, args=(number,)) for number in range(50)]
    for thread in (writer, *voters):
        thread.start()
    for thread in voters:
        thread.join()
    stop.set()
    writer.join()
    assert errors == []
    with reading(path) as db:
        table = votes(db, "quick")
    assert len(table) == 100
    assert table.groupby("voter").size().tolist() == [2] * 50


def _guarded(errors: list[BaseException], act: Callable[[], object]) -> None:
    try:
        act()
    except BaseException as error:
        errors.append(error)


def made_up(strengths: dict[str, float], number: int, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    lanes, rows = list(strengths), []
    for _ in range(number):
        left, right = generator.choice(lanes, 2, replace=False)
        chance = 1 / (1 + 10 ** ((strengths[right] - strengths[left]) / 400))
        prompt, voter = f"p{generator.integers(30)}", f"v{generator.integers(9)}"
        rows.append((left, right, prompt, voter, "left" if generator.random() < chance else "right", "none"))
    return pd.DataFrame(rows, columns=["left_lane", "right_lane", "prompt", "voter", "choice", "check_kind"])


def test_the_ranking_finds_the_strengths_that_made_the_votes() -> None:
    found = tally.ranking(made_up({"a": 100, "b": 0, "c": -100}, 3000), ["a", "b", "c", "never seen"])
    assert [row.lane for row in found] == ["a", "b", "c"]
    for row, true in zip(found, (100, 0, -100), strict=True):
        assert row.low < true < row.high
        assert row.elo == pytest.approx(true, abs=15)


def test_the_ranking_is_the_maximum_of_the_likelihood() -> None:
    table = made_up({"a": 80, "b": -10, "c": -70}, 600)
    elo = {row.lane: row.elo for row in tally.ranking(table, ["a", "b", "c"])}

    def likelihood(shift: dict[str, float]) -> float:
        points = {lane: value + shift.get(lane, 0.0) for lane, value in elo.items()}
        gaps = table["left_lane"].map(points) - table["right_lane"].map(points)
        won = 1 / (1 + 10 ** (-gaps / 400))
        return float(np.log(np.where(table["choice"] == "left", won, 1 - won)).sum())

    # The tenth of a tie that keeps unbeaten lanes finite moves the maximum by less than this.
    best = likelihood({})
    assert all(best > likelihood({lane: step}) for lane in elo for step in (-3.0, 3.0))


def test_an_unbeaten_lane_stays_finite_and_lanes_without_a_link_are_left_out() -> None:
    table = made_up({"a": 0, "b": 0}, 40).assign(left_lane="a", right_lane="b", choice="left")
    other = table.assign(left_lane="x", right_lane="y").head(3)
    found = tally.ranking(pd.concat([table, other]), ["a", "b", "x", "y"])
    assert [row.lane for row in found] == ["a", "b"]
    assert np.isfinite([row.elo for row in found]).all()


def test_preferences_have_verdicts() -> None:
    def verdict(table: pd.DataFrame) -> str:
        return tally.preference(table, "a", "b").verdict

    assert verdict(made_up({"a": 150, "b": 0}, 600)) == "preferred"
    assert verdict(made_up({"a": 0, "b": 150}, 600)) == "not preferred"
    assert verdict(made_up({"a": 0, "b": 0}, 3000)) == "equivalent"
    assert verdict(made_up({"a": 30, "b": 0}, 60)) == "undecided"
    assert verdict(made_up({"a": 30, "b": 0}, 4)) == "too few"
    alike = made_up({"a": 0, "b": 0}, 200).assign(choice="same")
    assert tally.preference(alike, "a", "b").value == 0.5


@pytest.mark.parametrize("prompts", range(10, 40))
def test_a_vote_against_never_makes_lanes_equivalent_that_were_not_and_the_interval_says_so(prompts: int) -> None:
    found = []
    for dissents in range(4):
        choices = ["left"] * dissents + ["same"] * (prompts - dissents)
        rows = {"left_lane": "a", "right_lane": "b", "voter": "v", "choice": choices}
        found.append(tally.preference(pd.DataFrame({**rows, "prompt": list(map(str, range(prompts)))}), "a", "b"))
    equivalent = [one.verdict == "equivalent" for one in found]
    assert equivalent == sorted(equivalent, reverse=True)
    assert all(one.low > 0.4 and one.high < 0.6 for one in found if one.verdict == "equivalent")
    # A share of 20 % that all vote left moves the mean by the margin, and might not have been seen at all.
    bounds = [binom.cdf(dissents, prompts, 0.2) < 0.05 for dissents in range(4)]
    assert all(bound for bound, same in zip(bounds, equivalent, strict=True) if same)
    assert equivalent[0] == bounds[0]


def test_the_votes_needed_are_those_of_the_normal_approximation() -> None:
    assert tally.votes_needed(0.10) == 263
    assert tally.votes_needed(0.05) == 1051
    assert tally.votes_needed(0.10, power=0.9) == 325
    assert tally.votes_needed(0.10, per_prompt=40, clustered=0.0) == 40 * 14, "14 prompts, whatever the voters"


def test_margin_and_power_are_chosen_by_the_address_and_kept_in_it(open_page: OpenPage, cache: Path) -> None:
    def shown(**query: str) -> tuple[str, dict[str, str]]:
        page = open_page("vote", cache, "--read-only", query={"results": "true", **query})
        kept = next(data for part in page.get("bidi_component") if "one" in (data := json.loads(part.proto.json)))
        return words(page), kept

    text, kept = shown()
    assert "of 263, to show equivalence with 80 % power" in text
    assert (kept["margin"], kept["power"]) == ("10", "80")
    text, kept = shown(margin="5", power="90")
    assert f"of {tally.votes_needed(0.05, 0.9):d}, to show equivalence with 90 % power" in text
    assert "margin ±5 points" in text
    assert (kept["margin"], kept["power"]) == ("5", "90")
    assert "of 263, to show equivalence with 80 % power" in shown(margin="0", power="<script>")[0]


def test_equal_lanes_are_found_equivalent_with_about_the_power_that_was_promised() -> None:
    needed = tally.votes_needed()
    generator = np.random.default_rng(1)
    found = []
    for _ in range(300):
        choices = np.where(generator.random(needed) < 0.5, "left", "right")
        table = pd.DataFrame(
            {
                "left_lane": "a",
                "right_lane": "b",
                "choice": choices,
                "voter": "v",
                "prompt": [f"p{n}" for n in range(needed)],
            }
        )
        found.append(tally.preference(table, "a", "b").verdict == "equivalent")
    assert 0.72 < np.mean(found) < 0.88


def _differing(prompts: int, per_prompt: int, seed: int) -> pd.DataFrame:
    """Two lanes that are equally good, each on some prompts: preferences of log odds with a standard deviation of 1."""
    generator = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-generator.normal(size=prompts)))
    left = generator.random((prompts, per_prompt)) < chance[:, None]
    names = np.repeat([f"p{number}" for number in range(prompts)], per_prompt)
    choices = np.where(left.ravel(), "left", "right")
    return pd.DataFrame({"left_lane": "a", "right_lane": "b", "choice": choices, "voter": "v", "prompt": names})


def test_votes_that_hang_together_by_prompt_are_worth_fewer_and_more_are_asked_for() -> None:
    needed = tally.votes_needed(per_prompt=8)
    assert needed == pytest.approx(263 * (1 + 7 * tally.CLUSTERED), abs=2)
    verdicts = [
        [tally.preference(_differing(votes // 8, 8, seed), "a", "b").verdict == "equivalent" for seed in range(100)]
        for votes in (needed, 263)
    ]
    assert np.mean(verdicts[0]) > 0.72
    assert np.mean(verdicts[1]) < 0.5


def test_how_alike_votes_on_a_prompt_are_is_read_off_the_votes() -> None:
    differing = _differing(600, 8, 0)
    scores = (differing["choice"] == "left").to_numpy(dtype=np.float64)
    assert tally.clustering(scores, list(differing["prompt"])) == pytest.approx(tally.CLUSTERED, abs=0.03)
    mixed = np.random.default_rng(0).permutation(scores)
    assert tally.clustering(mixed, list(differing["prompt"])) < 0.02
    assert tally.clustering(np.repeat([0.0, 1.0] * 5, 4), list(np.repeat(np.arange(10), 4))) == 1.0
    assert tally.clustering(scores[:6], ["p"] * 6) == tally.CLUSTERED


COLUMNS = ["voter", "check_kind", "left_lane", "right_lane", "choice"]
STEPS = {"a": 50, "b": 20, "worse": 4, "worst": 2}


def test_voters_who_fail_the_checks_are_left_out_whole() -> None:
    rows = [("good", "none", "a", "b", "left"), ("bad", "none", "a", "b", "right")]
    rows += [("good", "obvious", "a", "worst", "left"), ("good", "obvious", "worst", "a", "right")]
    rows += [("bad", "obvious", "a", "worst", "right"), ("bad", "obvious", "worst", "a", "right")]
    table = pd.DataFrame(rows, columns=COLUMNS)
    left_out = tally.inattentive(table, STEPS)
    assert left_out == {"bad"}
    assert tally.counted(table, left_out)["voter"].tolist() == ["good"]


def test_each_check_is_judged_by_the_lanes_it_was_between_whatever_is_asked_now() -> None:
    """Checks of another question, with another plain lane, or with the plain lane itself under question."""
    rows = [("me", "obvious", "a", "worse", "left"), ("me", "obvious", "worse", "b", "right")]
    rows += [("me", "obvious", "worst", "b", "right"), ("me", "obvious", "worse", "worst", "left")]
    table = pd.DataFrame(rows, columns=COLUMNS)
    assert tally.inattentive(table, STEPS) == set()
    turned = table.assign(choice=table["choice"].map({"left": "right", "right": "left"}))
    assert tally.inattentive(turned, STEPS) == {"me"}
    assert tally.inattentive(turned, {"a": 50, "b": 20}) == set()  # nothing is known of the others any more


def test_who_always_chooses_one_side_of_identical_pictures_too_is_left_out() -> None:
    def voter(name: str, identical: str, pairs: int) -> list[tuple[str, ...]]:
        return [(name, "none", "a", "b", "left")] * (pairs - 1) + [(name, "identical", "a", "a", identical)]

    rows = voter("asleep", "left", 12) + voter("brief", "left", 11) + voter("awake", "same", 30)
    rows += [("never tried", "none", "a", "b", "left")] * 30
    assert tally.inattentive(pd.DataFrame(rows, columns=COLUMNS), STEPS) == {"asleep"}


def test_identical_pictures_tell_whether_voters_lean_to_a_side() -> None:
    def side(choices: list[str], left_out: set[str] = frozenset()) -> object:  # type: ignore[assignment]
        rows = [(f"v{n % 20}", "identical", "a", "a", choice) for n, choice in enumerate(choices)]
        rows += [("v0", "none", "a", "b", "left")] * 50
        return tally.left_share(pd.DataFrame(rows, columns=COLUMNS), left_out)

    fair = side(["left", "right", "same"] * 20)
    assert fair.value == pytest.approx(0.5)
    assert (fair.n, fair.pairs) == (20, 60)
    assert fair.low < 0.5 < fair.high
    leaning = side(["left", "left", "left", "same"] * 15)
    assert leaning.low > 0.5
    alike = side(["same"] * 60)
    assert alike.low < 0.5 < alike.high
    assert side(["left"] * 4, {"v0", "v1"}).pairs == 2
    assert np.isnan(side(["left"] * 4).low)


def test_the_results_tell_the_share_of_left_choices_between_identical_pictures(
    open_page: OpenPage, synthetic: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "cache.duckdb"
    synthetic.write(path, synthetic.study(lanes=LANES, prompts=PROMPTS[:2], frames={"count": 0}))
    for number in range(6):
        cast(
            path, synthetic.replace(_vote(f"v{number}", 0), check_kind="identical", right_id="a0", right_lane="ddim:50")
        )
        for pair, lane in enumerate(("ddim:50", "dpmpp_2m:20"), start=1):
            cast(path, synthetic.replace(_vote(f"v{number}", pair), check_kind="obvious", left_lane=lane))
        cast(path, _vote(f"v{number}", 9))
    # The plain lane of the checks is itself under question here; its checks count all the same.
    page = open_page("vote", path, query={"results": "true", "one": "ddim:50", "two": "euler:3"})
    text = words(page)
    assert "the left one in 100.0 %" in text
    assert "6 votes by 6 voters" in text
    assert "prefer a side" in text
    assert "n = 6 votes on 1 prompt by 6 voters" in text
    assert "left out" not in text.partition("n = 6 votes")[2]


def test_while_the_cache_is_written_old_results_are_marked_as_such_and_no_other_question_is_answered_by_them(
    open_page: OpenPage, synthetic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, old = tmp_path / "cache.duckdb", "this is what was known before"
    synthetic.write(path, synthetic.study(lanes=LANES, prompts=PROMPTS[:2], frames={"count": 0}))
    for number in range(6):
        cast(path, _vote("me", number))
    page = open_page("vote", path, query={"results": "true", "one": "ddim:50", "two": "euler:3"})
    assert old not in words(page)
    cast(path, _vote("you", 0))

    def busy(*_: object, **__: object) -> None:
        raise CacheBusy("in use")

    monkeypatch.setattr(cache_access, "reading", busy)
    text = words(page.run())
    assert text.count(old) == 2, "of the study, and of the votes"
    assert "n = 6 votes" in text
    text = words(page.selectbox("margin_choice").set_value("5").run())
    assert "The cache is being written" in text
    assert "n = 6 votes" not in text


def _ballot(page: AppTest) -> dict[str, object]:
    found = [json.loads(part.proto.json) for part in page.get("bidi_component")]
    return next((data for data in found if "left" in data), {})


def test_the_ballot_names_no_scheduler(open_page: OpenPage, cache: Path) -> None:
    page = open_page("vote", cache)
    page.session_state["voter"] = "0" * 32
    page.run()
    assert not page.exception
    data = _ballot(page)
    assert {"key", "prompt", "left", "right", "small"} == set(data)
    assert not any(name in json.dumps(data).lower() for name in ("ddim", "dpm", "euler"))


def test_a_read_only_dashboard_takes_no_vote(open_page: OpenPage, cache: Path) -> None:
    page = open_page("vote", cache, "--read-only")
    assert not page.exception
    assert _ballot(page) == {}
