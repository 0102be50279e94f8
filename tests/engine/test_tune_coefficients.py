"""Fitted coefficients: what they gain on the exact mixture, and that only real runs keep them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.display.tuned_words import sentences
from engine.passes.tune_proof import TuneRequest, tune
from engine.sampling.models import Model
from engine.study.tuned import ALONE, CHOSEN
from engine.tune import coefficients
from engine.tune.search import split_prompts
from tests.engine.test_tune import POOL, searching, truly

pytestmark = pytest.mark.usefixtures("scheduler_table")
SPLIT = split_prompts(POOL, 12, 8, 8)


@pytest.fixture(scope="module")
def searched(gaussian_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search without coefficients, which runs again without a call."""
    folder = tmp_path_factory.mktemp("searched")
    searching(gaussian_model, folder, SPLIT, steps=6).run(rounds=1)
    return folder


def test_coefficients_bring_other_pictures_closer_to_the_exact_solution(gaussian_model: Model, searched: Path) -> None:
    search = searching(gaussian_model, searched, SPLIT, steps=6)
    plain = search.run(rounds=1)
    found = search.with_coefficients(plain)
    lanes = [search.placing.with_schedule(each.best.schedule) for each in (found, plain)]
    with_them, without = truly(gaussian_model, lanes, SPLIT.test, 1.0).mean(axis=1)
    assert len(found.best.schedule.coefficients) == 6
    assert with_them < 0.8 * without
    assert found.coefficients["fitted"] == found.best.validation < found.coefficients["alone"] == plain.best.validation
    assert (found.validation[ALONE], found.validation[CHOSEN] < found.validation[ALONE]) == (
        plain.validation[CHOSEN],
        True,
    )
    assert 0.97 < found.coefficients["amplitude"] < 1.03

    again = searching(gaussian_model, searched, SPLIT, steps=6)
    assert again.with_coefficients(again.run(rounds=1)).best == found.best
    assert again.trials.calls == 0


def test_the_schedule_stands_alone_where_coefficients_lead_elsewhere(
    gaussian_model: Model, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitted towards the pictures of other prompts, they cannot help."""
    states = coefficients._converged_states

    def of_others(*given: object) -> object:
        found = states(*given)
        return dict(zip(found, [*list(found.values())[1:], next(iter(found.values()))], strict=True))

    monkeypatch.setattr(coefficients, "_converged_states", of_others)
    shutil.copytree(searched, tmp_path / "copy", ignore=shutil.ignore_patterns("coefficients_*", "amplitudes_*"))
    search = searching(gaussian_model, tmp_path / "copy", SPLIT, steps=6)
    plain = search.run(rounds=1)
    found = search.with_coefficients(plain)
    assert found.coefficients["fitted"] > found.coefficients["alone"]
    assert (found.best, found.validation) == (plain.best, plain.validation)


def test_coefficients_that_spoil_a_few_pictures_are_not_kept(
    gaussian_model: Model, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = searching(gaussian_model, searched, SPLIT, steps=6)
    plain = search.run(rounds=1)
    errors = np.array([[1.0] * 8, *[[0.1] * 7 + [9.0]] * 3])
    monkeypatch.setattr(search, "measure", lambda split: lambda lists, most: errors[: len(lists)])
    found = search.with_coefficients(plain)
    assert found.coefficients["fitted"] < found.coefficients["alone"]
    assert found.coefficients["mean"] > found.coefficients["mean_alone"]
    assert (found.best, found.coefficients["kept"]) == (plain.best, False)


def test_what_coefficients_gave_is_told_and_tested_beside_the_schedule_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = TuneRequest("gaussian", steps=4, name="c", guidance=1.0, search=6, validation=4, test=10, rounds=1)
    kept = tune(replace(small, coefficients=True), tmp_path / "c.duckdb", device="cpu")
    assert len(kept.tuned.schedule.coefficients) == 4
    told = sentences(kept.tuned)
    assert told[1].startswith("Fitted coefficients correct its steps: objective")
    assert "amplitude" in told[1]
    lanes = kept.tuned.evidence["test"]["lanes"]
    assert lanes["tuned_c:4"]["median"] < lanes["dpmpp_2m_alone:4"]["median"]
    assert kept.tuned.evidence["test"]["best_known"] != "dpmpp_2m_alone:4"

    monkeypatch.setattr("engine.tune.search.fit", lambda *given: replace(given[3], coefficients=((0.1, 0.1, 0.1),) * 4))
    for file in tmp_path.glob("tuned/c.search/*/coefficients_*"):
        file.unlink()
    refused = tune(replace(small, coefficients=True, proof=False), tmp_path / "c.duckdb", device="cpu")
    assert refused.tuned.schedule == refused.found.best.schedule.plain
    assert "Fitted coefficients did not help" in sentences(refused.tuned)[1]


def test_the_least_squares_of_a_step_recover_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(5, 3, 200))
    gaps = np.einsum("c,pcd->pd", [0.3, -0.2, 0.05], terms)
    rows = np.concatenate([terms, gaps[:, None]], axis=1)
    assert coefficients._solved(rows @ rows.transpose(0, 2, 1)) == pytest.approx((0.3, -0.2, 0.05), abs=1e-4)
    rows[:, 2] = 0  # the first step has no estimate before
    assert coefficients._solved(rows @ rows.transpose(0, 2, 1))[2] == 0
