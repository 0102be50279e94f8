"""What a search minimises: any metric of pictures with a better direction, against the converged picture."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import StudyError
from engine.measuring.evidence import Subject
from engine.measuring.formulas import structural_similarity
from engine.measuring.metrics import METRICS
from engine.passes.tune_proof import TuneRequest, tune
from engine.sampling.models import Model
from engine.study.custom_schedules import CustomSchedule
from engine.study.lanes import parse_lane
from engine.study.prompt_pool import read_prompts
from engine.study.reference import ReferenceSettings
from engine.study.schedulers import SCHEDULERS
from engine.tune.evaluations import schedule_digest
from engine.tune.objectives import Loss, loss_of
from engine.tune.search import ScheduleSearch, split_prompts
from engine.tune.trials import TrialRun
from tests.engine.miniatures import cells_of

pytestmark = pytest.mark.usefixtures("scheduler_table")

POOL = read_prompts(Path("prompts/gaussian_154.txt"))


def searching(model: Model, folder: Path, objective: str) -> ScheduleSearch:
    like = replace(cells_of("gaussian", ["dpmpp_2m:4"], prompts=["disc"])[0], guidance_scale=3.0)
    split = split_prompts(POOL, 4, 4, 4)
    return ScheduleSearch(model, like, SCHEDULERS["dpmpp_2m"], 4, split, folder, 64, objective)


def test_a_search_by_ssim_lowers_one_minus_ssim_of_real_pictures(gaussian_model: Model, tmp_path: Path) -> None:
    search = searching(gaussian_model, tmp_path, "ssim")
    found = search.run(rounds=2)
    assert found.best.validation < found.starts["default"]
    [file] = tmp_path.glob("losses-*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    losses = {(row["schedule"], row["picture"]): row["error"] for row in rows}
    assert len(losses) == len(rows) == found.evaluations[0]

    # The loss of one picture from scratch: two plain runs, decoded, compared.
    shot = search._shots["validation"][0]
    lanes = search.placing.with_schedule(found.best.schedule), search._solver
    pictures = {}
    for outcome in search.trials.run([TrialRun(lane, shot) for lane in lanes]):
        assert outcome.final is not None
        pictures[outcome.trial.lane.key] = search.trials.pictures(shot, outcome.final)[0]
    made, converged = (pictures[lane.key] for lane in lanes)
    loss = losses[schedule_digest(found.best.schedule), f"{shot.seed} {shot.prompt}"]
    assert loss == pytest.approx(1 - structural_similarity(made, converged), abs=1e-4)
    assert loss > 0

    again = searching(gaussian_model, tmp_path, "ssim").run(rounds=2)
    assert again.best.schedule == found.best.schedule
    assert again.evaluations == (0, len(rows))
    # Latent errors are kept apart: another objective is another search, but what it knows of errors agrees.
    by_error = searching(gaussian_model, tmp_path, "latent_error").run(rounds=2)
    assert by_error.validation["default"] == pytest.approx(found.validation["default"], rel=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "converged", "loss"),
    [("ssim", 0.7, 1.0, 0.3), ("psnr", 30.0, 100.0, 70.0), ("lpips", 0.2, 0.0, 0.2), ("clip_score", 28.0, 30.0, 2.0)],
)
def test_a_loss_is_how_much_worse_a_picture_is_whatever_direction_is_better(
    key: str, value: float, converged: float, loss: float
) -> None:
    found = Loss(METRICS[key], "1")
    assert found.of(value, converged) == pytest.approx(loss)
    assert found.of(converged, value) == 0, "better than the converged picture is no gain"
    assert found.of(math.nan, converged) == math.inf


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("ssmi", "is not known. Did you mean 'ssim'"),
        ("sharpness", "is no metric of pictures with a better direction"),
        ("kid", "is no metric of pictures"),
        ("clip_score", "clip_score: .*CLIP"),
    ],
)
def test_what_cannot_be_minimised_is_refused_before_any_work(
    objective: str, message: str, tmp_path: Path, gaussian_model: Model
) -> None:
    lane = parse_lane("dpmpp_2m:20")
    with pytest.raises(StudyError, match=message):
        loss_of(objective, Subject(gaussian_model.source, ReferenceSettings(lane, lane)))
    with pytest.raises(StudyError, match=message):
        tune(TuneRequest("gaussian", steps=4, objective=objective), tmp_path / "c.duckdb", device="cpu")
    assert not list(tmp_path.glob("tuned/*.search/converged-*"))


def test_the_objectives_of_latents_need_no_pictures(gaussian_model: Model, tmp_path: Path) -> None:
    search = searching(gaussian_model, tmp_path, "other_pictures")
    errors = search.measure("search")([CustomSchedule("timesteps", (999.0, 600.0, 300.0, 50.0))], 2)
    assert errors.shape == (1, 2)
    assert np.isfinite(errors).all()
    assert not list(tmp_path.glob("losses-*"))
