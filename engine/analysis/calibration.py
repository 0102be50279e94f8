"""What is fixed before any candidate is looked at: scale, margins, goal, and whether metrics can tell at all. Pure.

It sees the baseline (two seeds a prompt) and two controls on the first prompts of the order:

- Negative control: a lane that is bad on purpose. A study whose guards don't find it worse could not find a candidate
  worse either, and says so. Of several metrics of what pictures show, one that finds it is enough.
- Positive control: the baseline at twice its steps. Where even that gives another picture in more than 10 % of pairs,
  the baseline is far from converged, and "keeps the picture" is no fair question.

A picture is another one if the latents are more than half as far from the baseline's as those of two different prompts
are from each other (median over pairs of prompts, same seed); looked at on the bundled model only.

How much a mean may fall: 0.3 of the baseline's seed noise, but at most 5 % of what the metric loses under the negative
control (lower 95 % bound). Differences are clipped at twice the seed noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from engine.analysis import eprocess as ep
from engine.analysis import statistics as st
from engine.analysis.guards import EXCESS, OTHER, Guard, Kind, weigh
from engine.study.decision_settings import DecisionSettings, Goal

Floats = npt.NDArray[np.float64]

CALIBRATION_COLUMNS = ["metric", "position", "baseline", "again", "negative"]


@dataclass(frozen=True)
class GuardMetric:
    """A metric that may guard, as its entry tells.

    Attributes:
        key, label, unit: The metric's.
        higher_is_better: The metric's direction.
        margin: How much the mean may fall; None to take it from seed noise and negative control.
        span: Range of the values, where the margin is given.
        fewest: The metric's smallest n.
    """

    key: str
    label: str
    higher_is_better: bool = True
    margin: float | None = None
    span: float | None = None
    fewest: int = 5
    unit: str = ""


@dataclass(frozen=True)
class ControlCheck:
    """Whether a guard finds the negative control worse: largest evidence against it so far, and what that is worth."""

    guard: str
    label: str
    n: int
    log_e: float
    p: float
    passed: bool


@dataclass(frozen=True)
class Calibration:
    """What holds for every candidate.

    Attributes:
        goal: What is asked.
        goal_reason: Why, in a sentence.
        guards: All have to consent.
        checks: The negative control by each guard.
        obstacles: Why no lane can be accepted whatever it shows, in sentences; empty if one can.
        set_distance: KID to the baseline that a lane may have, surely, without being vetoed ("as-good" only).
        left_out: Why metrics that could guard other prompts do not guard these, in sentences.
    """

    goal: Goal
    goal_reason: str
    guards: tuple[Guard, ...]
    checks: tuple[ControlCheck, ...]
    obstacles: tuple[str, ...] = ()
    set_distance: float = 0.0
    left_out: tuple[str, ...] = ()


def picture_scale(latents: Sequence[npt.ArrayLike] | Floats, seeds: Sequence[int]) -> float:
    """Median relative distance between the baseline's latents of two different prompts, same seed.

    Args:
        latents: One array a picture, all of one shape; one picture a prompt and seed.
        seeds: Their seeds.

    Returns:
        NaN if no two pictures share a seed.
    """
    flat = np.stack([np.asarray(picture, dtype=np.float64).ravel() for picture in latents])
    ratios: list[Floats] = []
    for seed in dict.fromkeys(seeds):
        ours = flat[[place for place, other in enumerate(seeds) if other == seed]]
        squares = (ours**2).sum(axis=1)
        apart = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * ours @ ours.T, 0))
        ratios.append((apart / np.sqrt(squares)[None, :])[~np.eye(len(ours), dtype=bool)])
    found = np.concatenate(ratios)
    return float(np.median(found)) if len(found) else math.nan


def is_other(error: npt.ArrayLike, scale: float) -> Floats:
    """1 where a relative latent error makes another picture, 0 where it does not; NaN and no scale count as another."""
    return np.where(np.asarray(error, dtype=np.float64) <= scale / 2, 0.0, 1.0)


def exceeds(error: npt.ArrayLike, baseline_error: npt.ArrayLike, margin: float) -> Floats:
    """1 where the latent error is at least `margin` over the baseline's; also where there is no ground truth."""
    gap = np.asarray(error, dtype=np.float64) - np.asarray(baseline_error, dtype=np.float64)
    return np.where(gap < margin, 0.0, 1.0)


def calibrate(
    settings: DecisionSettings,
    metrics: Sequence[GuardMetric],
    values: pd.DataFrame,
    controls: pd.DataFrame,
    *,
    referenced: bool = False,
) -> Calibration:
    """Goal, guards and margins of a study.

    Args:
        settings: As the study asks.
        metrics: That may guard, in the order they shall be shown.
        values: Columns `CALIBRATION_COLUMNS`: by metric and prompt, of the baseline with two seeds and the negative
            control with the first of them.
        controls: One row a prompt: `positive` and `negative` 1 where that control gave another picture; with a
            reference `excess` 1 where the negative control's latent error is too large. NaN where it cannot be told.
        referenced: Whether the study has a reference.
    """
    names = None if settings.guards is None else set(settings.guards)
    goal, reason, obstacles = _goal(settings, controls)
    guards, checks = [], []
    if goal == "same-picture":
        guards.append(other_guard(settings))
        checks.append(_checked(guards[-1], _events(controls, "negative")))
    asked = [metric for metric in metrics if names is None or metric.key in names]
    for metric in asked:
        guard, gaps, why = _difference_guard(settings, metric, values[values["metric"] == metric.key])
        if guard is None:
            obstacles.append(f"{metric.label} can't guard: {why}.")
            continue
        guards.append(guard)
        checks.append(_checked(guard, gaps))
    if goal == "same-picture" and referenced:
        guards.append(excess_guard(settings))
        checks.append(_checked(guards[-1], _events(controls, "excess")))
    obstacles += _blind(guards, checks)
    return Calibration(goal, reason, tuple(guards), tuple(checks), tuple(obstacles + _missing(names, asked)))


def _blind(guards: Sequence[Guard], checks: Sequence[ControlCheck]) -> list[str]:
    """Guards that do not find the negative control worse, so that the study cannot tell.

    Of several metrics of what pictures show one that finds it is enough: the others still have to consent.
    """
    kinds = {guard.key: guard.kind for guard in guards}
    seen = any(check.passed and kinds[check.guard] == "difference" for check in checks)
    return [
        f"No verdict can rest on {check.label}: in {check.n} prompts the negative control is not found worse by it."
        for check in checks
        if not check.passed and not (seen and kinds[check.guard] == "difference")
    ]


def other_guard(settings: DecisionSettings) -> Guard:
    """Guard K: the lane keeps the picture."""
    kind: Kind = "event" if settings.seeds == 1 else "share"
    return Guard(OTHER, "other pictures", kind, settings.other_share, fewest=1)


def excess_guard(settings: DecisionSettings) -> Guard:
    """Guard E: the median latent error is not too far over the baseline's, as it is so in less than half of them."""
    kind: Kind = "event" if settings.seeds == 1 else "share"
    label = f"latent error up by {settings.excess_error:g} or more"
    return Guard(EXCESS, label, kind, 0.5, fewest=1)


def _goal(settings: DecisionSettings, controls: pd.DataFrame) -> tuple[Goal, str, list[str]]:
    told = controls["positive"].dropna() if "positive" in controls else pd.Series(dtype=float)
    others, n = float(told.sum()), len(told)
    obstacles = []
    if len(controls) < settings.calibration_prompts:
        missing = settings.calibration_prompts - len(controls)
        obstacles.append(f"Calibration takes {settings.calibration_prompts} prompts; {missing} more to go.")
    went = f"the baseline at twice its steps gives another picture in {others:.3g} of {n} prompts"
    apart = n > 0 and others > settings.positive_share * n
    if settings.goal == "as-good":
        return "as-good", "The study asks for pictures as good, be they others.", obstacles
    if settings.goal == "auto" and apart:
        return "as-good", f"Pictures can't be kept here: {went}. So the study asks for pictures as good.", obstacles
    if apart:
        obstacles.append(f'Pictures can\'t be kept here: {went}. Set goal = "as-good", or a baseline of more steps.')
    if not n:
        obstacles.append(
            "The baseline at twice its steps has not been made: whether pictures can be kept is not known."
        )
    return (
        "same-picture",
        f"The study asks for the same pictures: {went}." if n else "The study asks for the same pictures.",
        obstacles,
    )


def _missing(names: set[str] | None, asked: Sequence[GuardMetric]) -> list[str]:
    """Guards that were asked for and are not there: absence is no consent."""
    known = {metric.key for metric in asked} | {OTHER, EXCESS}
    absent = [f"Guard '{name}' has no values here." for name in sorted((names or set()) - known)]
    if not asked:
        absent.append("No metric of what the pictures show can guard; score the study with CLIP first.")
    return absent


def _events(controls: pd.DataFrame, column: str) -> Floats:
    """Events under a negative control; what could not be told speaks against the guard."""
    return controls[column].fillna(0.0).to_numpy(dtype=np.float64) if column in controls else np.empty(0)


def _difference_guard(
    settings: DecisionSettings, metric: GuardMetric, rows: pd.DataFrame
) -> tuple[Guard | None, Floats, str]:
    """The guard of a metric with the negative control's differences; or None, and why no margin can be told."""
    rows = rows.sort_values("position")
    sign = 1.0 if metric.higher_is_better else -1.0
    gaps = sign * (rows["negative"] - rows["baseline"]).to_numpy(dtype=np.float64)
    if metric.margin is not None:
        reach, margin = metric.span or math.nan, metric.margin
    else:
        twice = int((rows["baseline"] - rows["again"]).notna().sum())
        if twice < settings.calibration_prompts:
            few = f"its margin takes two seeds of the baseline for {settings.calibration_prompts} prompts"
            return None, gaps, f"{few}; {twice} are there"
        noise = seed_noise(rows)
        reach = settings.reach * noise
        margin = min(settings.seed_noise_share * noise, settings.control_share * _least_loss(gaps))
    if not 0 < margin < reach:
        return None, gaps, "it does not tell the negative control from the baseline"
    guard = Guard(metric.key, metric.label, "difference", -margin, reach, metric.fewest, metric.unit)
    return guard, np.where(np.isfinite(gaps), gaps, reach), ""


def seed_noise(rows: pd.DataFrame) -> float:
    """Mean absolute difference between the baseline's two seeds of a prompt."""
    return float((rows["baseline"] - rows["again"]).abs().mean())


def _least_loss(gaps: Floats) -> float:
    """One-sided 95 % bound, by Student, of how much the negative control loses in the mean; no value is no loss."""
    if len(gaps) < st.MIN_PROMPTS:
        return math.nan
    loss = -np.where(np.isfinite(gaps), gaps, 0.0)
    error = float(loss.std(ddof=1)) / math.sqrt(len(loss))
    return float(loss.mean() - special.stdtrit(len(loss) - 1, 1 - st.ALPHA) * error)


def _checked(guard: Guard, values: Floats) -> ControlCheck:
    """Whether the mirrored evidence finds the control worse than the guard allows."""
    if not len(values):
        return ControlCheck(guard.key, guard.label, 0, 0.0, 1.0, passed=False)
    found = weigh(guard, values, st.ALPHA, st.ALPHA)
    passed = found.state == "refuted"
    return ControlCheck(guard.key, guard.label, found.n, found.log_e_against, ep.p_value(found.log_e_against), passed)
