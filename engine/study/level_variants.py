"""Scheduler entries that differ from others only in the placement of their noise levels. Imports no torch."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.study.schedulers import Scheduler

# Placements that each solver's class knows and that have no entry of their own. Other solvers know some of them too,
# as settings of a [[lane]].
_VARIANTS = {
    "dpmpp_2m": ("ays", "beta", "exponential", "lu"),
    "euler": ("ays", "beta", "exponential"),
    "heun": ("ays", "beta", "exponential"),
}
# Label, setting, source.
_LEVELS = {
    "ays": ("AYS", "", "levels of Align Your Steps, Sabour et al. 2024, arXiv:2404.14507"),
    "beta": ("beta", "use_beta_sigmas", "levels by quantiles of Beta(0.6, 0.6), Lee et al. 2024, arXiv:2407.12173"),
    "exponential": ("exponential", "use_exponential_sigmas", "levels evenly spaced in log sigma"),
    "lu": ("Lu", "use_lu_lambdas", "levels evenly spaced in log-SNR, Lu et al. 2022, arXiv:2211.01095"),
}


def level_variants(entries: Iterable["Scheduler"]) -> Iterator["Scheduler"]:
    """The variants of these entries, for those that have any."""
    for entry in entries:
        for levels in _VARIANTS.get(entry.key, ()):
            label, setting, note = _LEVELS[levels]
            overrides: dict[str, Any] = {**entry.overrides, **({setting: True} if setting else {})}
            yield replace(
                entry,
                key=f"{entry.key}_{levels}",
                label=f"{entry.label} {label}",
                overrides=overrides,
                note="; ".join(filter(None, (entry.note, note))),
                kinds=("discrete",),
                levels=levels,
            )
