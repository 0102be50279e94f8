"""Turns a study into cells with identities. Imports no torch."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from engine.errors import StudyError
from engine.study.families import UNKNOWN, Family, needed_inputs
from engine.study.frame_settings import FrameSettings
from engine.study.lanes import Finding, Lane, check_lane, for_family, unusual
from engine.study.model_files import arguments_of
from engine.study.pipeline_settings import PipelineSettings
from engine.study.schedulers import ALGORITHMS, SPACINGS, class_version
from engine.study.source import ModelSource
from engine.study.study import Study, canonical
from engine.study.tuned import tuned_findings

# Raised whenever a change of our code alters pixels for the same settings.
SAMPLING_VERSION = 1

_PIXELS = ("model", "prompt", "negative_prompt", "seed", "guidance_scale", "width", "height", "dtype")


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture: a lane with a prompt, a seed and everything else that changes its pixels.

    A study may have a hundred thousand of them, and so they have slots, and keep the digests once worked out there.

    Attributes:
        code: Identifies the scheduler's code (`class_version`).
        model: The model's fingerprint.
        dtype: "float32", "float16" or "bfloat16".
        pipeline: Further arguments of the pipeline call.
    """

    lane: Lane
    prompt: str
    seed: int
    negative_prompt: str
    guidance_scale: float
    width: int
    height: int
    dtype: str
    model: str
    code: str
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    _config_id: str = field(default="", init=False, repr=False, compare=False)
    _trajectory_id: str = field(default="", init=False, repr=False, compare=False)

    @property
    def config_id(self) -> str:
        """Digest of the lane: scheduler, class, code, configuration, steps and custom schedule."""
        if not self._config_id:
            lane = self.lane
            schedule = [lane.schedule.spec()] if lane.schedule else []
            what = [lane.scheduler.key, lane.scheduler.target, self.code, lane.config, lane.steps, *schedule]
            object.__setattr__(self, "_config_id", digest(what)[:16])
        return self._config_id

    @property
    def trajectory_id(self) -> str:
        """Digest of everything that changes the pixels."""
        if not self._trajectory_id:
            identity = {name: getattr(self, name) for name in _PIXELS}
            identity |= {"version": SAMPLING_VERSION, "lane": self.config_id}
            identity |= {"pipeline": self.pipeline.identity()} if self.pipeline else {}
            object.__setattr__(self, "_trajectory_id", digest(identity)[:32])
        return self._trajectory_id


def resolve_dtype(asked: str, device: str) -> str:
    """The number format of a run: the requested one, or for "auto" float16 on CUDA and float32 elsewhere."""
    if asked != "auto":
        return asked
    return "float16" if device == "cuda" else "float32"


def cells(study: Study, model: ModelSource, device: str) -> list[Cell]:
    """All cells of a study, prompt by prompt and seed by seed.

    Raises:
        StudyError: The picture size is unknown, a scheduler's module is missing, or a lane was tuned for another model.
    """
    if model.fingerprint is None:
        raise StudyError(f"Model '{model.name}' must be downloaded before its cells are known; `run` does that.")
    _check_inputs(study, model)
    width, height = picture_size(study, model)
    tuned_findings(study.lanes, model, study.guidance_scale, study.negative_prompt, (width, height))
    # Release 0.1.0 passed such switches of a model's own scheduler on to other solvers, which gave other pictures.
    config = model.scheduler_config
    switches = "; switches pinned" if any(map(config.get, (*SPACINGS, *ALGORITHMS))) or unusual(config) else ""
    targets = {lane.key: lane.scheduler.target for lane in study.lanes}
    codes = {key: class_version(target) + switches + noise_of(target, device) for key, target in targets.items()}
    dtype = resolve_dtype(study.dtype, device)
    lanes = [for_family(lane, model.family) for lane in study.lanes]
    found = [
        Cell(
            lane,
            prompt,
            seed,
            study.negative_prompt,
            study.guidance_scale,
            width,
            height,
            dtype,
            model.fingerprint,
            codes[lane.key],
            study.pipeline,
        )
        for prompt in study.prompts
        for seed in study.seeds
        for lane in lanes
    ]
    ids = [cell.config_id for cell in found[: len(lanes)]]
    for cell, config_id in zip(found, itertools.cycle(ids), strict=False):
        object.__setattr__(cell, "_config_id", config_id)  # the same for all cells of a lane, and slow to work out
    return found


# Their noise comes from a generator on the device, so a GPU gives other pictures than a CPU for the same seed.
_DEVICE_NOISE = ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")


def noise_of(target: str, device: str) -> str:
    """Identifies the noise of a scheduler besides the seed; empty if it is drawn on the CPU."""
    return f"; noise of {device}" if device != "cpu" and target.endswith(_DEVICE_NOISE) else ""


def _check_inputs(study: Study, model: ModelSource) -> None:
    """Refuses a model whose pipeline needs inputs that the study doesn't provide.

    Raises:
        StudyError: A picture is missing, or the pipeline takes no prompt.
    """
    needed = needed_inputs(model.family, model.pipeline)
    given = {"prompt", *study.pipeline.arguments, *study.pipeline.pictures}
    lacking = [name for name in needed if name not in given]
    if lacking:
        table = ", ".join(f'{name} = "picture.png"' for name in lacking)
        raise StudyError(
            f"Study '{study.name}': {model.pipeline} of model '{model.name}' starts from a picture; add a table "
            f"[pipeline] with {table}."
        )
    if model.family is UNKNOWN and not model.prompted:
        raise StudyError(f"Study '{study.name}': {model.pipeline} of model '{model.name}' takes no prompt.")


def reference_cells(study: Study, model: ModelSource, device: str) -> list[tuple[Cell, Cell]]:
    """(reference, check) for every prompt and seed; empty if the study has no reference.

    Raises:
        StudyError: As in `cells`.
    """
    if study.reference is None:
        return []
    lanes = (study.reference.lane, study.reference.check)
    found = cells(replace(study, lanes=lanes, baseline=lanes[0].key), model, device)
    return list(zip(found[::2], found[1::2], strict=True))


def picture_size(study: Study, model: ModelSource) -> tuple[int, int]:
    """Width and height in pixels: those of an input picture that determines them, the study's, or the model's own.

    Raises:
        StudyError: None is known, or the study sets another size than that of the picture.
    """
    if (decided := _size_of_input(study, model)) is not None:
        if study.width and (study.width, study.height) != decided:
            raise StudyError(
                f"Study '{study.name}': {model.pipeline} makes pictures of the size of its image, here {decided[0]} x "
                f"{decided[1]}; leave out width and height, or give another image."
            )
        return decided
    if study.width and study.height:
        return study.width, study.height
    if model.size is None:
        raise StudyError(
            f"Study '{study.name}': the files of model '{model.name}' give no picture size; set width and height."
        )
    return model.size


def _size_of_input(study: Study, model: ModelSource) -> tuple[int, int] | None:
    """The size of what is made of `image` by a pipeline that takes no other; None if it does, or there is none."""
    image, taken = study.pipeline.pictures.get("image"), arguments_of(model.pipeline, "__call__")
    if image is None or taken is None or "width" in taken:
        return None
    width, height = (side - side % model.pixels_per_latent for side in image.size)
    return width, height


def check_lanes(
    lanes: Iterable[Lane], scheduler_config: Mapping[str, Any], family: Family = UNKNOWN
) -> list[tuple[Lane, Finding]]:
    """Warnings about the lanes on this model.

    Raises:
        StudyError: A lane is known to be wrong.
    """
    found = [(lane, finding) for lane in lanes for finding in check_lane(lane, scheduler_config, family)]
    errors = [f"Lane '{lane.key}': {finding.message}" for lane, finding in found if finding.severity == "error"]
    if errors:
        raise StudyError("\n".join(errors))
    return found


def study_findings(study: Study, model: ModelSource) -> list[tuple[Lane, Finding]]:
    """Warnings about the lanes of a study and its reference, and about lanes tuned for other conditions than its own.

    Raises:
        StudyError: A lane is known to be wrong on this model, or was tuned for another.
    """
    references = (study.reference.lane, study.reference.check) if study.reference else ()
    found = check_lanes((*study.lanes, *references), model.scheduler_config, model.family)
    return found + tuned_for_others(study, model)


def tuned_for_others(study: Study, model: ModelSource) -> list[tuple[Lane, Finding]]:
    """Warnings about lanes that were tuned for another guidance, negative prompt or size than the study's.

    Raises:
        StudyError: One was tuned for another model.
    """
    if not (model.size or study.width):
        return []
    size = picture_size(study, model)
    return tuned_findings(study.lanes, model, study.guidance_scale, study.negative_prompt, size)


def evenly_spaced(length: int, most: int) -> list[int]:
    """At most `most` evenly spaced indices of 0 to `length` - 1, both ends included; the last one if `most` is 1."""
    if length <= most:
        return list(range(length))
    if most <= 1:
        return [length - 1] * most
    return [round(place * (length - 1) / (most - 1)) for place in range(most)]


def frame_steps(settings: FrameSettings, calls: int) -> list[int]:
    """Which of `calls` steps are stored: at most `count` evenly spaced ones, always including the last."""
    return evenly_spaced(calls, settings.count)


def digest(value: Any) -> str:
    """SHA-256 of plain data, in hexadecimal."""
    return sha256(canonical(value).encode()).hexdigest()
