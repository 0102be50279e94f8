"""What a decision will take, foretold before anything is made: prompts and denoiser calls. Imports no torch.

It goes by the guard on other pictures, which takes the most prompts where lanes are equal: metrics with much scatter
can take more, lanes that are dropped on the way less. Calls are counted whether or not the cache holds some of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.analysis.decision import BATCH
from engine.analysis.eprocess import usual_prompts_for_few
from engine.analysis.pace import FEWEST_SAMPLES
from engine.passes.decide import CONTROL_REFERENCES
from engine.passes.decision_roles import controls
from engine.study.lanes import Lane
from engine.study.study import Study

TRUTHS = ((0.0, "all lanes equal"), (0.01, "1 % other pictures"))


@dataclass(frozen=True)
class Forecast:
    """What a decision takes.

    Attributes:
        truth: If so, in words.
        prompts: By which half of such studies accept a lane, in whole batches; None if no pool is so large.
        calls: Denoiser calls, calibration and times included.
    """

    truth: str
    prompts: int | None
    calls: int


def forecasts(study: Study) -> list[Forecast]:
    """What the decision of a study takes if lanes keep every picture, and if they lose one in a hundred.

    None where no lane could take the baseline's place.
    """
    baseline = next(lane for lane in study.lanes if lane.key == study.baseline)
    others = [lane for lane in study.lanes if lane is not baseline and lane.key not in study.decide.shown_only]
    lanes = [lane for lane in others if _calls([lane]) <= (1 - study.decide.saving) * _calls([baseline])]
    lanes = [lane for lane in lanes if not lane.stochastic or study.decide.goal == "as-good"]
    if not lanes:
        return []
    settings, found = study.decide, []
    solutions = (study.reference.lane, study.reference.check) if study.reference else ()
    repeats = max(study.timing.repeats, FEWEST_SAMPLES) + study.timing.warmup
    fixed = settings.calibration_prompts * _calls([baseline, baseline, *filter(None, controls(baseline))])
    fixed += CONTROL_REFERENCES * _calls(solutions) + repeats * _calls([baseline, *others])
    for rate, truth in TRUTHS:
        needed = usual_prompts_for_few(settings.alpha / len(lanes), settings.other_share, rate)
        prompts = None if needed is None else -(-needed // BATCH) * BATCH
        seeds = settings.seeds * _calls([*lanes, baseline])
        made = (prompts or 0) * seeds - min(prompts or 0, settings.calibration_prompts) * _calls([baseline])
        found.append(Forecast(truth, prompts, fixed + made))
    return found


def _calls(lanes: Iterable[Lane]) -> int:
    return sum(lane.scheduler.expected_calls(lane.steps) for lane in lanes)
