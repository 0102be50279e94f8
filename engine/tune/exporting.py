"""Writes a found schedule as the file that registers it and a snippet for plain diffusers."""

import importlib.metadata
import inspect
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers

from engine.errors import LabError
from engine.paths import write_atomically
from engine.sampling.building import build_scheduler, resolved_config, scheduler_type
from engine.sharing.snippet import snippet
from engine.study.cells import Cell
from engine.study.custom_schedules import CustomSchedule
from engine.study.lanes import Lane
from engine.study.source import ModelSource
from engine.study.tuned import TunedSchedule, tuned_folder

PACKAGES = ("diffusers", "torch", "scheduler-lab")


def tuned_schedule(
    name: str,
    lane: Lane,
    schedule: CustomSchedule,
    like: Cell,
    source: ModelSource,
    config: Mapping[str, Any],
    evidence: Mapping[str, Any],
) -> TunedSchedule:
    """A schedule with the conditions under which it is valid.

    Args:
        name: Its name; the scheduler's key is `tuned_NAME`.
        lane: The scheduler at its number of steps.
        schedule: The schedule found.
        like: A cell with the settings it was tuned for.
        source: The model.
        config: The model's own scheduler configuration.
        evidence: The results of search and test.
    """
    pipeline: Any = getattr(diffusers, source.pipeline, None)
    return TunedSchedule(
        name=name,
        scheduler=lane.scheduler.key,
        target=lane.scheduler.target,
        overrides=dict(lane.scheduler.overrides),
        settings=needed_settings(lane, config),
        schedule=schedule,
        steps=lane.steps,
        model=source.name,
        source=str(source.folder) if source.kind == "folder" else source.name if source.kind == "hub" else "",
        fingerprint=source.fingerprint or "",
        pipeline=source.pipeline,
        wrapped=pipeline is not None and schedule.kind not in inspect.signature(pipeline.__call__).parameters,
        guidance_scale=like.guidance_scale,
        negative_prompt=like.negative_prompt,
        width=like.width,
        height=like.height,
        versions={package: importlib.metadata.version(package) for package in PACKAGES},
        evidence=evidence,
    )


def needed_settings(lane: Lane, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `from_config` needs besides the model's configuration to build a lane's scheduler."""
    wanted = resolved_config(build_scheduler(lane, config))
    plain = resolved_config(scheduler_type(lane).from_config(config))
    return {key: value for key, value in wanted.items() if plain.get(key) != value}


def write_tuned(tuned: TunedSchedule, cache: Path) -> tuple[Path, Path]:
    """Writes `tuned/NAME.json` and `tuned/NAME.py` beside a cache.

    Raises:
        LabError: They cannot be written.
    """
    folder = tuned_folder(cache)
    texts = {".json": json.dumps(tuned.spec(), indent=2) + "\n", ".py": snippet(tuned)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            write_atomically(folder / f"{tuned.name}{suffix}", partial(Path.write_text, data=text, encoding="utf-8"))
    except OSError as error:
        raise LabError(f"{folder} cannot be written to: {error.strerror}.") from error
    return folder / f"{tuned.name}.json", folder / f"{tuned.name}.py"
