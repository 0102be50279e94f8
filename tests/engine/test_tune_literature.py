"""Schedules by GITS and OSS, which stand beside a tuned one: against trying all, and against the real solver."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from engine.measuring.formulas import relative_distance
from engine.sampling.models import Model
from engine.study.schedulers import SCHEDULERS
from engine.tune.converged import grid_steps, solver_of_high_budget
from engine.tune.literature import GAMMA, OSS_LEVELS, gits, oss
from engine.tune.local_errors import step_errors
from engine.tune.placing import Placing
from engine.tune.trials import PromptSeed, TrialRun, Trials
from tests.engine.miniatures import SD_SCHEDULER, cells_of, drawn_recordings

SHOT = PromptSeed("disc ring", 5)


def test_gits_is_the_best_of_all_paths_by_its_own_sum() -> None:
    recordings = drawn_recordings(seed=2, count=9)
    first, _, last = step_errors(recordings, 1)

    def total(path: Sequence[int]) -> float:
        errors = [*(first[a, b] for a, b in itertools.pairwise(path)), last[path[-1]]]
        return sum(error * GAMMA**place for place, error in enumerate(errors))

    best = min(((0, *rest) for rest in itertools.combinations(range(1, 9), 3)), key=total)
    assert gits(recordings, 4).tolist() == recordings.levels[list(best)].tolist()


def test_oss_with_two_steps_is_the_best_that_two_real_steps_of_euler_reach(gaussian_model: Model) -> None:
    like = cells_of("gaussian", ["euler:2"], prompts=[SHOT.prompt], guidance_scale=3.0)[0]
    trials = Trials(gaussian_model, like, 64)
    solver = solver_of_high_budget(trials.config, gaussian_model.source.family)
    found = oss(trials, solver, [SHOT], 2)

    [converged] = trials.run([TrialRun(solver, SHOT)], grid_steps)
    assert converged.final is not None
    end = converged.final.double().numpy()
    kept = np.array([-step.log_snr / 2 for step in converged.steps if step.x_t is not None])
    euler = Placing(SCHEDULERS["euler"], 2, trials.config)
    tried = [np.array([found[0], level]) for level in (found[1], *kept[1:])]
    runs = [TrialRun(euler.with_schedule(schedule), SHOT) for each in tried if (schedule := euler.schedule(each))]
    finals = {id(each.trial): each.final for each in trials.run(runs)}
    chosen, *others = (relative_distance(finals[id(run)].double().numpy(), end) for run in runs)
    assert len(others) > OSS_LEVELS
    assert chosen <= 1.03 * min(others), "the grid of OSS has every second of these levels"
    assert chosen < 0.8 * np.median(others), "all levels are alike here, so nothing was compared"


def test_oss_of_more_steps_falls_from_the_first_level_and_can_be_run(gaussian_model: Model) -> None:
    like = cells_of("gaussian", ["dpmpp_2m:5"], prompts=[SHOT.prompt], guidance_scale=3.0)[0]
    trials = Trials(gaussian_model, like, 64)
    solver = solver_of_high_budget(trials.config, gaussian_model.source.family)
    placing = Placing(SCHEDULERS["dpmpp_2m"], 5, SD_SCHEDULER)
    found = oss(trials, solver, [SHOT, PromptSeed("square", 6), PromptSeed("cross disc", 7)], 5)
    assert found.shape == (5,)
    assert found[0] == pytest.approx(placing.highest, abs=1e-6)
    assert (np.diff(found) < 0).all()
    assert placing.schedule(found) is not None
