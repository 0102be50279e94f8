"""The results of a study: one answer for every view, with the times of one environment, kept with what follows."""

import pickle
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from engine import results as module
from engine.analysis.comparison import Floor
from engine.cache.connection import reading
from engine.errors import StudyError
from engine.results import Results, read_results


@pytest.fixture(scope="module")
def results(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A scored study, timed on a laptop and then on a server."""
    path: Path = tmp_path_factory.mktemp("results") / "cache.duckdb"
    plan = synthetic.study(prompts=synthetic.SIX)
    synthetic.write(path, plan, environments=(synthetic.LAPTOP, synthetic.SERVER))
    synthetic.write_scores(path, plan, {})
    with reading(path) as db:
        return read_results(db, "quick")


def test_times_standings_and_recommendation_are_of_the_environment_that_counts(
    results: Results, synthetic: ModuleType
) -> None:
    assert len(results.timings) == 2 * len(results.lanes)
    assert results.times["lane"].is_unique
    assert set(results.times["device_name"]) == {synthetic.SERVER.device_name}
    assert set(results.standings["device_name"]) == {synthetic.SERVER.device_name}
    best = results.recommendation.best
    assert best is not None
    assert best.median_ms == results.times.set_index("lane").at[best.lane, "median_ms"]


def test_seen_with_other_times_the_same_results_recommend_by_those(results: Results, synthetic: ModuleType) -> None:
    names = results.timed_environments
    assert list(names.values()) == [synthetic.SERVER.device_name, synthetic.LAPTOP.device_name]
    seen = results.timed_at(synthetic.LAPTOP.environment_id, 1)
    assert set(seen.times["device_name"]) == {synthetic.LAPTOP.device_name}
    here, there = seen.recommendation.best, results.recommendation.best
    assert here is not None
    assert there is not None
    assert here.lane == there.lane
    assert here.median_ms > there.median_ms, "the laptop takes longer"
    assert results.place is None, "the results themselves stay as they are"
    assert results.timed_at(synthetic.LAPTOP.environment_id, 16).times.empty


def test_what_was_worked_out_is_kept_by_a_copy_and_by_a_pickle(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = results.worked_out()
    kept = pickle.loads(pickle.dumps(known)).timed_at("nowhere", 1)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("worked out again")

    for name in ("compare", "convergence"):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(module.timing, "summarise", never)
    assert repr(kept.comparisons) == repr(known.comparisons)  # a NaN equals no other
    assert kept.convergence.errors.equals(known.convergence.errors)
    assert kept.timings.equals(known.timings)


def test_floors_come_back_from_a_pickle_with_their_source() -> None:
    kept = pickle.loads(pickle.dumps(Floor(0.5, "noise of the arithmetic")))
    assert (kept, kept.source) == (0.5, "noise of the arithmetic")


def test_a_lane_that_a_strangers_study_names_twice_is_shown_once(results: Results) -> None:
    twice = [{"key": "ddim:50", "label": "a"}, {"key": "ddim:50", "label": "b"}, {"label": "no key"}]
    odd = replace(results, spec={"lanes": twice})
    assert [(lane.key, lane.steps) for lane in odd.lanes] == [("ddim:50", 0)]
    assert odd.times["lane"].tolist() == ["ddim:50"]


def test_without_scores_nothing_is_recommended_and_the_reason_told(results: Results) -> None:
    bare = replace(results, quality=results.quality.head(0), stored_decision=None)
    assert bare.comparisons == []
    assert "score it first" in bare.recommendation.reason


def test_an_unknown_study_is_answered_with_those_there_are(usual_cache: Path) -> None:
    with reading(usual_cache) as db, pytest.raises(StudyError, match="Did you mean 'quick'"):
        read_results(db, "qiuck")
