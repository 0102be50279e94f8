"""The `[reference]` table: which two solvers compute the converged solution. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import StudyError
from engine.study.families import Family, kind_of
from engine.study.lanes import Lane, fitting, parse_lane
from engine.study.reading import Table
from engine.study.schedulers import ModelKind

DEFAULT_LANE = "dpmpp_2m_karras:100"
DEFAULT_CHECK = "heun:50"
DEFAULT_TOLERANCE = 0.05


@dataclass(frozen=True)
class ReferenceSettings:
    """Two independent high-budget solvers, run for every prompt and seed of a study.

    The defaults take 100 and 99 denoiser calls: two second-order solvers on different noise schedules, as close to the
    exact solution as several hundred steps of a first-order one.

    Attributes:
        lane: Its final latents and picture are the reference.
        check: Must agree with it.
        tolerance: Largest relative L2 distance between their latents that counts as agreement; cells beyond it have
            no ground truth and are left out.
        chosen: Whether the study names the solvers itself.
    """

    lane: Lane
    check: Lane
    tolerance: float = DEFAULT_TOLERANCE
    chosen: bool = True

    def spec(self) -> dict[str, Any]:
        """As plain data."""
        return {"lane": self.lane.key, "check": self.check.key, "tolerance": self.tolerance}


def read_reference(table: Table, *, given: bool) -> ReferenceSettings | None:
    """Reads `[reference]`; None if the study has no such table, or with `enabled = false`.

    Raises:
        StudyError: An unknown scheduler, one that draws noise, or the same scheduler for both lanes.
    """
    enabled = table.value("enabled", given)
    if not isinstance(enabled, bool):
        raise table.error("enabled", f"must be true or false, not {enabled!r}")
    chosen = "lane" in table or "check" in table
    lane = _lane(table, "lane", DEFAULT_LANE)
    check = _lane(table, "check", DEFAULT_CHECK)
    tolerance = table.number("tolerance", DEFAULT_TOLERANCE, low=1e-6, high=1.0)
    table.finish()
    if lane.scheduler.key == check.scheduler.key:
        raise table.error("check", f"must use another scheduler than lane ('{lane.key}'), or it checks nothing")
    return ReferenceSettings(lane, check, tolerance, chosen) if enabled else None


# Pairs that replace the default for models it cannot solve.
_PAIRS: dict[ModelKind, tuple[str, str]] = {
    "discrete": ("euler:200", "ddim:500"),
    "flow": ("unipc:100", "flow_euler:200"),
    "edm": ("edm_dpmpp_2m:100", "edm_euler:200"),
}


def fitting_reference(
    settings: ReferenceSettings | None, model_config: Mapping[str, Any], family: Family
) -> tuple[ReferenceSettings | None, str]:
    """The reference that suits a model, with a note if it differs from the study's.

    The default pair fails on noise schedules that end without signal, and can't solve flows. Solvers that the study
    names itself are never replaced.

    Args:
        settings: The study's settings.
        model_config: The model's own scheduler configuration.
        family: The model's family.
    """
    kind = kind_of(model_config)
    no_signal = model_config.get("rescale_betas_zero_snr") or model_config.get("beta_schedule") == "squaredcos_cap_v2"
    if settings is None or settings.chosen or (kind == "discrete" and not no_signal):
        return settings, ""
    pair = _PAIRS.get(kind)
    suits = {entry.key for entry in fitting(kind, family)}
    if pair is None or not {text.partition(":")[0] for text in pair} <= suits:
        return None, f"No reference: there are no two independent solvers for {family.label} ({', '.join(suits)})."
    lane, check = (parse_lane(text) for text in pair)
    why = "its noise schedule ends without signal" if kind == "discrete" else "it predicts something else"
    return (
        replace(settings, lane=lane, check=check),
        f"Reference: {lane.key} checked by {check.key} instead of {settings.lane.key} and {settings.check.key}, "
        f"which cannot solve this model because {why}.",
    )


def _lane(table: Table, key: str, default: str) -> Lane:
    lane = parse_lane(table.text(key, default))
    if lane.stochastic:
        raise StudyError(
            f"{table.where}: '{key}' names '{lane.key}', which draws noise and converges to no single picture. "
            f"Use a deterministic scheduler, e.g. '{default}'."
        )
    return lane
