"""Which schedulers a search for noise levels can tune. Imports no torch."""

from engine.study.custom_schedules import TAKEN
from engine.study.schedulers import SCHEDULERS, SPACINGS, Scheduler


def sets_levels(scheduler: Scheduler) -> bool:
    """Whether an entry places the noise levels itself, so that its class can't be given others."""
    return bool(scheduler.levels) or any(scheduler.overrides.get(name) for name in SPACINGS)


def tunable_schedulers() -> list[str]:
    """Schedulers that take lists of noise levels on some model, draw no noise, and place them by default."""
    return [
        key
        for key, entry in SCHEDULERS.items()
        if entry.target.rpartition(":")[2] in TAKEN and not entry.stochastic and not sets_levels(entry)
    ]


def same_solver(scheduler: Scheduler) -> list[str]:
    """The tunable entries that differ from one only in the placement of its noise levels."""
    wanted = _solver(scheduler)
    found = {key: SCHEDULERS[key] for key in tunable_schedulers()}
    return [key for key, entry in found.items() if _solver(entry) == wanted and {*entry.solves} & {*scheduler.solves}]


def _solver(scheduler: Scheduler) -> tuple[object, ...]:
    settings = {name: value for name, value in scheduler.overrides.items() if name not in SPACINGS}
    return scheduler.target, settings
