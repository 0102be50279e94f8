"""The converged solution that lanes are compared with: which two solvers compute it. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from engine.errors import StudyError
from engine.study.lanes import Lane, parse_lane
from engine.study.reading import Table

DEFAULT_LANE = "dpmpp_2m_karras:100"
DEFAULT_CHECK = "heun:50"
DEFAULT_TOLERANCE = 0.05


@dataclass(frozen=True)
class ReferenceSettings:
    """Two independent solvers of high budget, for every prompt and seed of a study.

    The defaults take 100 and 99 denoiser calls: two second-order solvers on different noise schedules, which come as
    close to the exact solution as several hundred steps of a first-order one.

    Attributes:
        lane: Its final latents and picture are the reference.
        check: Must agree with it.
        tolerance: Largest relative L2 distance between their latents that counts as agreement; prompts and seeds
            beyond have no ground truth and are left out.
    """

    lane: Lane
    check: Lane
    tolerance: float = DEFAULT_TOLERANCE

    def spec(self) -> dict[str, Any]:
        """As plain data."""
        return {"lane": self.lane.key, "check": self.check.key, "tolerance": self.tolerance}


def read_reference(table: Table, *, given: bool) -> ReferenceSettings | None:
    """Reads `[reference]`; None if the study has no such table, or it says `enabled = false`.

    Raises:
        StudyError: An unknown scheduler, one that draws noise, or both lanes are the same scheduler.
    """
    enabled = table.value("enabled", given)
    if not isinstance(enabled, bool):
        raise table.error("enabled", f"must be true or false, not {enabled!r}")
    lane = _lane(table, "lane", DEFAULT_LANE)
    check = _lane(table, "check", DEFAULT_CHECK)
    tolerance = table.number("tolerance", DEFAULT_TOLERANCE, low=1e-6, high=1.0)
    table.finish()
    if lane.scheduler.key == check.scheduler.key:
        raise table.error("check", f"must be another scheduler than lane ('{lane.key}'), or it checks nothing")
    return ReferenceSettings(lane, check, tolerance) if enabled else None


def _lane(table: Table, key: str, default: str) -> Lane:
    lane = parse_lane(table.text(key, default))
    if lane.scheduler.stochastic:
        raise StudyError(
            f"{table.where}: '{key}' names '{lane.key}', which draws noise and converges to no single picture. "
            f"Use a deterministic scheduler, e.g. '{default}'."
        )
    return lane
