"""What a study may set of a decision, `[decide]` in its file. Imports no torch."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from engine.study.reading import Table

Goal = Literal["same-picture", "as-good"]
AskedGoal = Literal["auto", "same-picture", "as-good"]
ShownPrompts = Literal["first", "all"]

SEED_NOISE_SHARE = 0.3


@dataclass(frozen=True)
class DecisionSettings:
    """How a lane is chosen to replace the baseline.

    Attributes:
        goal: `same-picture`: the lane gives the pictures the baseline gives. `as-good`: other pictures, no worse ones.
            `auto`: the first, unless the positive control shows that it is no fair question.
        alpha: Probability of naming any lane that is not as good, at most.
        other_share: A share of other pictures that is too large.
        excess_error: Latent error over the baseline's that is too large, in the median.
        seed_noise_share, control_share: Of seed noise and of the control's loss; a mean may fall by the smaller one.
        reach: Differences are clipped to so many seed noises.
        tie: Times that differ by less are alike; fewer denoiser calls then count as cheaper.
        saving: A lane that would save less of the time is not worth further prompts.
        calibration_prompts: Prompts of the order that calibrate.
        positive_share: Share of other pictures under the positive control above which pictures can't be kept.
        seeds: Pictures a prompt, from the study's first seeds on.
        guards: Metrics that guard; None for all that may.
        pool: A file of prompts, one a line; None for the one that comes with the model's family, else the study's own.
        order_seed: Shuffles the pool.
        shown_only: Lanes that are there to be seen, and never named.
        shown_prompts: `first`: those lanes are made for the first prompts only.
    """

    goal: AskedGoal = "auto"
    alpha: float = 0.05
    other_share: float = 0.05
    excess_error: float = 0.05
    seed_noise_share: float = SEED_NOISE_SHARE
    control_share: float = 0.05
    reach: float = 2.0
    tie: float = 0.05
    saving: float = 0.05
    calibration_prompts: int = 30
    positive_share: float = 0.10
    seeds: int = 1
    guards: tuple[str, ...] | None = None
    pool: str | None = None
    order_seed: int = 0
    shown_only: tuple[str, ...] = ()
    shown_prompts: ShownPrompts = "first"

    def spec(self) -> dict[str, Any]:
        """As plain data, without what is not set."""
        return {key: value for key, value in vars(self).items() if value is not None and value != ()}


# Bounds of the numbers: what lies outside is a slip, or asks a question that no evidence answers.
BOUNDS = {
    "alpha": (1e-6, 0.2),
    "other_share": (0.001, 0.5),
    "excess_error": (1e-6, 10.0),
    "seed_noise_share": (0.01, 1.0),
    "control_share": (0.001, 0.5),
    "reach": (1.0, 20.0),
    "tie": (0.0, 0.5),
    "saving": (0.0, 0.5),
    "positive_share": (0.0, 0.5),
}
COUNTS = {"calibration_prompts": (10, 10_000), "seeds": (1, 100), "order_seed": (0, 2**63 - 1)}


def read_decision(table: Table, lanes: Collection[str], baseline: str) -> DecisionSettings:
    """Reads `[decide]`; an empty table gives the defaults.

    Args:
        table: The study's.
        lanes: Keys of its lanes.
        baseline: The one that the others would replace.

    Raises:
        StudyError: An unknown key, a value of the wrong kind or out of bounds, or a lane that is not there.
    """
    default: dict[str, Any] = {field.name: field.default for field in fields(DecisionSettings)}
    guards, pool = table.strings("guards", ()), table.text("pool", "")
    shown = table.strings("shown_only", ())
    for lane in shown:
        if lane not in lanes:
            raise table.error("shown_only", f"names '{lane}', which is none of the lanes ({', '.join(lanes)})")
    if baseline in shown:
        raise table.error("shown_only", f"names the baseline '{baseline}', which is always made")
    numbers: dict[str, Any] = {key: table.number(key, float(default[key]), *ends) for key, ends in BOUNDS.items()}
    counts: dict[str, Any] = {key: table.integer(key, int(default[key]), *ends) for key, ends in COUNTS.items()}
    settings = DecisionSettings(
        goal=table.choice("goal", "auto", get_args(AskedGoal)),
        **numbers,
        **counts,
        guards=guards or None,
        pool=pool or None,
        shown_only=shown,
        shown_prompts=table.choice("shown_prompts", "first", get_args(ShownPrompts)),
    )
    table.finish()
    return settings
