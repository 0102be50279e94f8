"""The `[decide]` table of a study. Imports no torch."""

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
        goal: `same-picture`: the lane gives the same pictures as the baseline. `as-good`: other pictures that are no
            worse. `auto`: the former, unless the positive control shows that pictures can't be kept.
        alpha: Largest probability of recommending a lane that is not as good.
        other_share: Share of other pictures that is too large.
        excess_error: Median latent error in excess of the baseline's that is too large.
        seed_noise_share: Share of the seed noise that a mean may drop by, unless `control_share` allows less.
        control_share: Share of the control's loss that a mean may drop by, unless `seed_noise_share` allows less.
        reach: Differences are clipped to this multiple of the seed noise.
        tie: Relative difference below which times count as equal; the lane with fewer denoiser calls is then cheaper.
        saving: Least share of the time a lane must save to be worth further prompts.
        calibration_prompts: How many prompts calibrate.
        positive_share: Share of other pictures under the positive control above which pictures can't be kept.
        seeds: Pictures per prompt; the study's first seeds are used.
        guards: Metrics that guard; None for all that may.
        pool: File with one prompt per line; None for the pool of the model's family, else the study's own prompts.
        order_seed: Seed of the shuffled order of the pool.
        shown_only: Lanes that are shown but never recommended.
        shown_prompts: `first`: those lanes run on the first prompts only.
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
        """Plain data, without unset values."""
        return {key: value for key, value in vars(self).items() if value is not None and value != ()}


# Bounds of the numbers: values outside are typing errors, or no amount of evidence could meet them.
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
        table: The `[decide]` table.
        lanes: Keys of the study's lanes.
        baseline: Key of the baseline.

    Raises:
        StudyError: An unknown key, a value of the wrong kind or out of bounds, or an unknown lane.
    """
    default: dict[str, Any] = {field.name: field.default for field in fields(DecisionSettings)}
    guards, pool = table.strings("guards", ()), table.text("pool", "")
    shown = table.strings("shown_only", ())
    for lane in shown:
        if lane not in lanes:
            raise table.error("shown_only", f"names '{lane}', which is not one of the lanes ({', '.join(lanes)})")
    if baseline in shown:
        raise table.error("shown_only", f"names the baseline '{baseline}', which always runs")
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
