"""Claims, comparisons and the recommendation: change the cache, and the verdict changes."""

import json

import numpy as np
import pandas as pd
import pytest

from engine.analysis import phases
from engine.analysis.claims import claim_lines, evaluate, read_claims, together
from engine.cache.writer import CacheWriter
from engine.cli import main
from engine.environment import describe
from engine.errors import StudyError
from engine.paths import CLAIMS
from engine.study.cells import cells
from engine.study.source import find_model
from tests.engine.claim_worlds import FALSE, TRUE, World, results, write
from tests.engine.helpers import parsed


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    return write(folder / "true.duckdb", TRUE), write(folder / "false.duckdb", FALSE)


def words(cache, tmp_path, claims=CLAIMS):
    answer = tmp_path / f"{cache.stem}.json"
    assert main(["claims", "--cache", str(cache), "--claims", str(claims), "--json", str(answer)]) == 0
    return {claim["key"]: claim["word"] for claim in json.loads(answer.read_text())["claims"]}


def test_every_claim_is_confirmed_or_refuted_by_what_the_cache_holds(caches, tmp_path, capsys):
    confirmed, refuted = words(caches[0], tmp_path), words(caches[1], tmp_path)
    untestable = {"scores"}
    assert confirmed == {key: "not testable" if key in untestable else "confirmed" for key in confirmed}
    # With little weight in the middle, the last fifth weighs more than its share.
    assert refuted == {key: "not testable" if key in untestable else "refuted" for key in refuted}
    out = capsys.readouterr().out
    assert "CONFIRMED     DPM-Solver++ at 20 steps is 2.5 times as fast" in out
    assert "REFUTED       DPM-Solver++ at 20 steps is 2.5 times as fast" in out
    assert "10 repeats" in out
    assert f"Computed on cpu: {describe('cpu').device_name}" in out


@pytest.mark.parametrize(
    ("changes", "refuted"),
    [
        ({"speedup": 2.3, "heavy": (0.2, 0.6)}, {"speed", "critical-phase"}),
        ({"kept": False, "preferred": 0.2}, {"quality-equivalent", "perception"}),
        ({"quiet": -6.0, "cpu": 20.0}, {"noise-first", "cpu"}),
        ({"error": 5.0}, {"accuracy-equivalent", "quality-equivalent"}),
        ({"calls": 25, "recognised": 0.7, "seen": (0.6, 0.6)}, {"calls", "quality", "recognisable", "close"}),
    ],
)
def test_changing_a_thing_changes_its_verdict_and_no_other(changes, refuted, tmp_path):
    changed = words(write(tmp_path / "c.duckdb", World(**changes)), tmp_path)
    assert {key for key, word in changed.items() if word == "refuted"} == refuted
    assert {word for key, word in changed.items() if key not in refuted} == {"confirmed", "not testable"}


def test_with_few_prompts_a_claim_is_undecided_or_not_testable_and_says_why(tmp_path):
    found = results(write(tmp_path / "c.duckdb", World(prompts=6)))
    verdicts = {verdict.key: verdict for verdict in evaluate(read_claims(CLAIMS), found)}
    assert verdicts["quality"].word == "not testable"
    assert "too few: 6 prompts, 12 cells" in verdicts["quality"].tests[0].reason
    assert verdicts["calls"].word == "confirmed"
    assert "too few" in "\n".join(claim_lines(list(verdicts.values())))


def test_a_study_without_scores_or_times_says_what_is_missing(tmp_path):
    path = tmp_path / "c.duckdb"
    study, model = parsed(name="readme_claims", lanes=["ddim:50", "dpmpp_2m:20"]), find_model("gaussian")
    CacheWriter(path).begin(study, cells(study, model, "cpu"), model, describe("cpu"))
    verdicts = {verdict.key: verdict for verdict in evaluate(read_claims(CLAIMS), results(path))}
    assert {verdict.word for verdict in verdicts.values()} == {"not testable"}
    reasons = {key: verdict.tests[0].reason for key, verdict in verdicts.items() if verdict.tests}
    assert "have not been timed in one environment" in reasons["speed"]
    assert "no finished cell of lane 'dpmpp_2m:20'" in reasons["calls"]
    assert "has not been scored with 'recognised'; `python -m engine score STUDY`" in reasons["quality"]
    assert "no recorded steps" in reasons["critical-phase"]
    assert "`python -m engine decide STUDY`" in reasons["quality-equivalent"]
    assert "there are no votes between 'dpmpp_2m:20' and 'ddim:50'" in reasons["perception"]
    assert "'ddim:50' has 0 timing samples on a CPU" in reasons["cpu"]
    assert "no recorded noise levels" in reasons["noise-first"]


def test_equivalence_by_a_guard_that_the_decision_has_not_is_not_testable(caches, tmp_path):
    claims = tmp_path / "claims.toml"
    claims.write_text(
        '[[claim]]\nkey = "a"\ntext = "b"\n[[claim.test]]\nquantity = "equivalence"\nguard = "ssim"\n'
        'lane = "dpmpp_2m:20"\nbaseline = "ddim:50"\n'
    )
    (verdict,) = evaluate(read_claims(claims), results(caches[0]))
    reason = "'ssim' has said nothing of 'dpmpp_2m:20'; the decision's guards are other_picture, excess_error"
    assert (verdict.word, verdict.tests[0].reason) == ("not testable", reason)


def test_few_prompts_leave_equivalence_undecided(tmp_path):
    found = results(write(tmp_path / "c.duckdb", World(prompts=15)))
    verdicts = {verdict.key: verdict for verdict in evaluate(read_claims(CLAIMS), found)}
    assert verdicts["quality-equivalent"].word == "undecided"
    assert "more prompts would tell" in verdicts["quality-equivalent"].tests[0].reason


def test_a_percentage_of_a_metric_without_a_true_zero_is_refused(caches, tmp_path):
    claims = tmp_path / "claims.toml"
    claims.write_text(
        '[[claim]]\nkey = "a"\ntext = "97 % of the CLIP score"\n[[claim.test]]\n'
        'quantity = "quality_ratio"\nmetric = "clip_score"\nlane = "dpmpp_2m:20"\nbaseline = "ddim:50"\n'
        "at_least = 0.965\n"
    )
    (verdict,) = evaluate(read_claims(claims), results(caches[0]))
    assert (verdict.word, verdict.tests[0].reason) == (
        "not testable",
        "a percentage of 'clip_score' means nothing: it has no true zero to count up from",
    )


def test_an_unknown_study_is_named_with_the_known_ones(caches, capsys):
    assert main(["claims", "readme_claim", "--cache", str(caches[0])]) == 2
    assert "Did you mean 'readme_claims'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no"),
        ("x = ", "cannot be read"),
        ('[[claim]]\nkey = "a"\ntext = "b"', "either tests or untestable"),
        ('[[claim]]\nkey = "a"\ntext = "b"\n[[claim.test]]\nquantity = "speedpu"', "Did you mean 'speedup'"),
        ('[[claim]]\nkey = "a"\ntext = "b"\n[[claim.test]]\nquantity = "speedup"\nlane = "c"', "needs baseline"),
        (
            '[[claim]]\nkey = "a"\ntext = "b"\n[[claim.test]]\nquantity = "critical_end"\nlane = "c"',
            "at_least or at_most",
        ),
        (
            '[[claim]]\nkey = "a"\ntext = "b"\n[[claim.test]]\nquantity = "critical_end"\nlanes = "c"',
            "unknown key 'lanes'",
        ),
    ],
)
def test_wrong_claims_are_refused(text, message, tmp_path):
    (tmp_path / "claims.toml").write_text(text)
    with pytest.raises(StudyError, match=message):
        read_claims(tmp_path / "claims.toml")


def test_a_claim_is_no_better_than_its_tests():
    assert together(["confirmed", "confirmed"]) == "confirmed"
    assert together(["confirmed", "refuted", "not testable"]) == "refuted"
    assert together(["confirmed", "not testable"]) == "undecided"
    assert together(["not testable"]) == together([]) == "not testable"


def path(changes):
    calls = len(changes) + 1
    return phases.Path((np.arange(1, calls) + 1) / calls, np.asarray(changes, dtype=float))


@pytest.mark.parametrize("seed", range(10))
def test_the_critical_phase_is_the_shortest_interval_by_brute_force(seed):
    changes = np.random.default_rng(seed).exponential(1, 9)
    run = path(changes)
    start, end = run.critical_phase(0.5)
    assert run.share(start, end) == pytest.approx(0.5)
    grid = np.linspace(0.1, 1, 361)
    shortest = min(b - a for i, a in enumerate(grid) for b in grid[i:] if run.share(a, b) >= 0.5)
    assert end - start <= shortest + 1e-9
    assert end - start == pytest.approx(shortest, abs=2 * (grid[1] - grid[0]))


def test_shares_of_the_path_add_up_and_a_path_without_changes_is_refused():
    run = path([1, 2, 3, 4])
    assert run.share(0, 0.4) + run.share(0.4, 0.8) + run.share(0.8, 1) == pytest.approx(1)
    assert run.share(0.8, 1) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="above zero"):
        path([0, 0])


def test_settled_means_to_the_end():
    rows = pd.DataFrame(
        {
            "prompt": ["a"] * 4 + ["b"] * 4,
            "seed": 0,
            "step_index": [0, 1, 2, 3] * 2,
            "progress": [0.25, 0.5, 0.75, 1.0] * 2,
            "value": [1, 0, 1, 1, 1, 1, 1, 0],
        }
    )
    assert phases.settled_at(rows, lambda values: values > 0) == {("a", 0): 0.625, ("b", 0): None}
