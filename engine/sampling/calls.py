"""One unmodified pipeline call for a cell: its arguments, and the call with stand-ins."""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageOps

from engine.sampling.batching import Parking
from engine.sampling.idle import parameters
from engine.sampling.joining import Axes
from engine.sampling.recording import Recorder
from engine.sampling.standins import denoisers, family, with_parts
from engine.study.cells import Cell
from engine.study.pipeline_settings import PictureFile


def pipeline_arguments(pipe: DiffusionPipeline, cell: Cell) -> dict[str, Any]:
    """The arguments of a cell's pipeline call, without those that the pipeline doesn't take."""
    arguments = {
        "prompt": cell.prompt,
        "num_inference_steps": cell.lane.steps,
        family(pipe).guidance: cell.guidance_scale,
        "width": cell.width,
        "height": cell.height,
    }
    if cell.negative_prompt:
        # Some families treat None and "" differently and others refuse None: a plain pipe(prompt) passes neither.
        arguments["negative_prompt"] = cell.negative_prompt
    arguments |= cell.pipeline.arguments
    for name, picture in cell.pipeline.pictures.items():
        arguments[name] = opened(picture, "L" if "mask" in name else "RGB")
    known = parameters(pipe)
    return {key: _as_asked(value, known[key]) for key, value in arguments.items() if key in known}


def _as_asked(value: Any, parameter: inspect.Parameter) -> Any:
    """A list as a tuple, where a pipeline takes only those: TOML has none."""
    wanted = str(parameter.annotation).lower()
    return tuple(value) if isinstance(value, list) and "tuple" in wanted and "list" not in wanted else value


@lru_cache(maxsize=8)
def opened(file: PictureFile, mode: str) -> Image.Image:
    """A picture file of a study, rotated upright as by `diffusers.utils.load_image`."""
    with file.open() as picture:
        return ImageOps.exif_transpose(picture).convert(mode)


def parked_denoisers(pipe: DiffusionPipeline, axes: Axes | None, recorder: Recorder) -> dict[str, Parking]:
    """Stand-ins for all denoisers of a pipeline in one call; the recorder sees their outputs."""
    parked = {name: Parking(real, axes) for name, real in denoisers(pipe).items()}
    for denoiser in parked.values():
        denoiser.show_answers(recorder.answered)
    return parked


def call_pipeline(
    shared: DiffusionPipeline,
    arguments: Mapping[str, Any],
    recorder: Recorder,
    parked: Mapping[str, Parking],
    generator: torch.Generator,
    **options: Any,
) -> torch.Tensor:
    """One unmodified pipeline call, inside a greenlet of the hub; returns the latents after the last step.

    Args:
        shared: The pipeline.
        arguments: Arguments of its call.
        recorder: Recorder of the scheduler that replaces the pipeline's own.
        parked: Stand-ins for its denoisers.
        generator: A CPU generator, seeded with the cell's seed.
        options: Further arguments of the call.
    """
    pipe: Any = with_parts(shared, scheduler=recorder.scheduler, **parked)
    torch.manual_seed(generator.initial_seed())  # some pipelines draw without it, e.g. to encode a control image
    pipe(**arguments, generator=generator, output_type="latent", return_dict=False, **options)
    if recorder.final is None:
        raise RuntimeError("the pipeline took no step")
    return recorder.final.clone()


def check_finite(latents: torch.Tensor) -> None:
    """Checks final latents.

    Raises:
        FloatingPointError: They are not finite.
    """
    if not bool(torch.isfinite(latents).all()):
        raise FloatingPointError("the final latents are not finite (the sampler diverged)")
