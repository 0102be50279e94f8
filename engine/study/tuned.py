"""Tuned schedules: files in the folder `tuned` beside the cache, each registering a scheduler. Imports no torch.

A schedule is tuned for one model, guidance, picture size, solver and number of steps; the file records these and the
results of search and test.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import StudyError
from engine.study.custom_schedules import CustomSchedule
from engine.study.lanes import Finding, Lane
from engine.study.reading import Table, custom_schedule
from engine.study.schedulers import SCHEDULERS, Scheduler
from engine.study.source import ModelSource

FORMAT = 1
PREFIX = "tuned_"
MOST_BYTES = 4_000_000
# Names of schedules in the evidence: what was found, what was found without coefficients, and starts that nobody could
# choose without recordings.
CHOSEN, ALONE, RECORDED, GITS = "chosen", "alone", "local errors", "gits"
UNKNOWN = frozenset({CHOSEN, ALONE, RECORDED, GITS})


def best_known(figures: Mapping[str, float]) -> str:
    """The known schedule with the lowest figure, of those that need neither a search nor recordings.

    Args:
        figures: What the search minimised, on validation, by name; at least one known schedule is among them.
    """
    return min(figures.keys() - UNKNOWN, key=lambda name: (figures[name], name))


@dataclass(frozen=True)
class TunedSchedule:
    """A tuned schedule and the conditions it was tuned under.

    Attributes:
        name: The scheduler's key is `tuned_NAME`.
        scheduler: Key of the scheduler that was tuned.
        target: Its class, `module:Class`.
        overrides: Settings of its registered entry.
        settings: Settings that `from_config` of the class needs besides the model's own configuration.
        schedule: The list that `set_timesteps` takes, with coefficients if they were fitted and are better.
        steps: Number of steps.
        model: Name of the model, for display.
        source: Its folder or hub id; empty for computed models.
        fingerprint: Digest of the model's files.
        pipeline: Class of its pipeline.
        wrapped: Whether the pipeline call takes no such list, so that it must be set in the scheduler.
        guidance_scale: Guidance scale it was tuned at.
        negative_prompt: Negative prompt it was tuned with.
        width: Picture width in pixels it was tuned at.
        height: Picture height in pixels it was tuned at.
        versions: Releases of the packages it was tuned with.
        evidence: Results of the search and the test.
    """

    name: str
    scheduler: str
    target: str
    overrides: Mapping[str, Any]
    settings: Mapping[str, Any]
    schedule: CustomSchedule
    steps: int
    model: str
    source: str
    fingerprint: str
    pipeline: str
    wrapped: bool
    guidance_scale: float
    negative_prompt: str
    width: int
    height: int
    versions: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Key of its scheduler."""
        return PREFIX + self.name

    @property
    def lane(self) -> str:
        """Key of its only lane."""
        return f"{self.key}:{self.steps}"

    @property
    def conditions(self) -> str:
        """What it was tuned for besides the model, in words."""
        negative = f", negative prompt {self.negative_prompt!r}" if self.negative_prompt else ""
        return f"guidance {self.guidance_scale:g}, {self.width} x {self.height} px, {self.steps} steps{negative}"

    def spec(self) -> dict[str, Any]:
        """As plain data."""
        plain = {key: value for key, value in vars(self).items() if key != "schedule"}
        return {"format": FORMAT, **plain, **self.schedule.spec()}

    def entry(self) -> Scheduler:
        """Its scheduler entry.

        Raises:
            StudyError: Its name or class is malformed.
        """
        base = SCHEDULERS.get(self.scheduler)
        return SCHEDULERS.check(
            Scheduler(
                key=self.key,
                label=f"{base.label if base else self.scheduler} tuned ({self.name})",
                target=self.target,
                overrides=dict(self.overrides),
                order=base.order if base else 1,
                calls=base.calls if base else "steps",
                paper=base.paper if base else "",
                note=f"tuned for {self.model}, {self.conditions}",
                kinds=base.kinds if base else (),
                levels="tuned",
                schedule=self.schedule,
            )
        )

    def findings(
        self, source: ModelSource, guidance_scale: float, negative_prompt: str, size: tuple[int, int]
    ) -> Iterator[Finding]:
        """Differences from the conditions it was tuned under; another model is an error."""
        if source.fingerprint != self.fingerprint:
            yield Finding("error", "tuned_elsewhere", f"it was tuned for model '{self.model}', not '{source.name}'.")
        if guidance_scale != self.guidance_scale:
            yield Finding(
                "warning",
                "tuned_elsewhere",
                f"it was tuned at guidance {self.guidance_scale:g}; at {guidance_scale:g} another may be better.",
            )
        if negative_prompt != self.negative_prompt:
            own, other = (
                f"negative prompt {each!r}" if each else "no negative prompt"
                for each in (self.negative_prompt, negative_prompt)
            )
            yield Finding("warning", "tuned_elsewhere", f"it was tuned with {own}; with {other} another may be better.")
        if size != (self.width, self.height):
            yield Finding(
                "warning",
                "tuned_elsewhere",
                f"it was tuned at {self.width} x {self.height} px; at {size[0]} x {size[1]} px another may be better.",
            )


# Registered tuned schedules, by the key of their scheduler.
TUNED: dict[str, TunedSchedule] = {}


def tuned_folder(cache: Path) -> Path:
    """The folder of a cache's tuned schedules."""
    return cache.parent / "tuned"


def read_tuned(file: Path) -> TunedSchedule:
    """Reads a tuned schedule.

    Raises:
        StudyError: The file is not a valid tuned schedule.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise StudyError(f"{file} has more than {MOST_BYTES:,} bytes, too many for a tuned schedule.")
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{file} cannot be read as a tuned schedule: {error}.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise StudyError(f"{file} is not a tuned schedule of format {FORMAT}; `python -m engine tune` writes one.")
    table = Table(data, str(file))
    kind = "sigmas" if "sigmas" in table else "timesteps"
    found = TunedSchedule(
        name=table.text("name"),
        scheduler=table.text("scheduler"),
        target=table.text("target"),
        overrides=_mapping(table, "overrides"),
        settings=_mapping(table, "settings"),
        schedule=custom_schedule(kind, table.value(kind), str(file), table.value("coefficients", [])),
        steps=table.integer("steps", 0, 1, 1000),
        model=table.text("model"),
        source=table.text("source", ""),
        fingerprint=table.text("fingerprint"),
        pipeline=table.text("pipeline", ""),
        wrapped=bool(table.value("wrapped", False)),
        guidance_scale=table.number("guidance_scale", 7.5, 0, 100),
        negative_prompt=table.text("negative_prompt", ""),
        width=table.integer("width", 0, 1, 100_000),
        height=table.integer("height", 0, 1, 100_000),
        versions=_mapping(table, "versions"),
        evidence=_mapping(table, "evidence"),
    )
    table.value("format")
    table.finish()
    told = found.schedule.steps(found.target.rpartition(":")[2])
    if told != found.steps or file.stem != found.name or not re.fullmatch(r"diffusers:\w+", found.target):
        raise StudyError(f"{file}: name, steps and schedule must agree, and the class must be from diffusers.")
    return found


def _mapping(table: Table, key: str) -> dict[str, Any]:
    value = table.value(key, {})
    if not isinstance(value, dict):
        raise table.error(key, "must be a table")
    return value


def register_tuned(cache: Path) -> list[str]:
    """Registers the tuned schedules beside a cache; returns the problems of files that were skipped."""
    problems = []
    for file in sorted(tuned_folder(cache).glob("*.json")):
        try:
            register_one(read_tuned(file))
        except StudyError as error:
            problems.append(str(error))
    return problems


def register_one(found: TunedSchedule) -> Scheduler:
    """Registers a tuned schedule, replacing one of the same name.

    Raises:
        StudyError: It is malformed.
    """
    entry = found.entry()
    TUNED[entry.key] = found
    SCHEDULERS[entry.key] = entry
    return entry


def tuned_findings(
    lanes: tuple[Lane, ...], source: ModelSource, guidance_scale: float, negative_prompt: str, size: tuple[int, int]
) -> list[tuple[Lane, Finding]]:
    """Findings about lanes that were tuned under other conditions.

    Raises:
        StudyError: One was tuned for another model.
    """
    found = [
        (lane, finding)
        for lane in lanes
        if lane.scheduler.key in TUNED
        for finding in TUNED[lane.scheduler.key].findings(source, guidance_scale, negative_prompt, size)
    ]
    errors = [f"Lane '{lane.key}': {finding.message}" for lane, finding in found if finding.severity == "error"]
    if errors:
        raise StudyError("\n".join(errors))
    return found
