"""The table of model families: one entry carries what differs from family to family and cannot be learnt from a model.

How a family turns latents into pictures, and which axis of which argument holds the rows of a batch, is learnt from its
own pipeline and stands in no table. A new family is one entry, added here, or from outside with `register_family`.
Imports no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.errors import StudyError
from engine.study.registry import Registry

# How two predictions become one: in one call with the rows without the prompt first, the same with those with it
# first, in two calls one after the other, or not at all since the strength is an input of the denoiser.
GuidanceStyle = Literal["batched", "prompt_first", "two_calls", "embedded", "unknown"]


@dataclass(frozen=True)
class Family:
    """What is known of the models of one family.

    Attributes:
        key: Stable name.
        label: Name for people.
        pipelines: Names of the diffusers classes that `model_index.json` may name.
        denoisers: Components that predict, as far as a model has them.
        size: Width and height in pixels of the pictures it was trained on; None: the files of a model tell.
        guidance: Argument of the pipeline's call that takes a study's `guidance_scale`.
        style: How guidance makes one prediction of several.
        inputs: Arguments that a call cannot do without.
        solvers: Keys of the schedulers that suit it; none: all that suit the scheduler configuration of the model.
        builder: `module:function` that makes the pipeline, for models that are computed and have no files.
        version: Of such a model: raised whenever it would give other pictures, so that its old cells are made again.
        scheduler_config: Of such a model.
    """

    key: str
    label: str
    pipelines: tuple[str, ...]
    denoisers: tuple[str, ...] = ("unet", "transformer")
    size: tuple[int, int] | None = None
    guidance: str = "guidance_scale"
    style: GuidanceStyle = "batched"
    inputs: tuple[str, ...] = ("prompt",)
    solvers: tuple[str, ...] = ()
    builder: str = ""
    version: int = 0
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Checks the form.

        Raises:
            StudyError: It names no pipeline or no denoiser, or a malformed builder.
        """
        if not self.pipelines:
            raise StudyError(f"Model family '{self.key}': pipelines must name a class, e.g. 'FluxPipeline'.")
        if not self.denoisers:
            raise StudyError(f"Model family '{self.key}': denoisers must name a component to watch, e.g. 'unet'.")
        if self.builder and not re.fullmatch(r"[\w.]+:\w+", self.builder):
            raise StudyError(f"Model family '{self.key}': builder {self.builder!r} should read 'module:function'.")


_BUILT_IN = (
    Family("sd", "Stable Diffusion", pipelines=("StableDiffusionPipeline",), denoisers=("unet",)),
    Family("sdxl", "Stable Diffusion XL", pipelines=("StableDiffusionXLPipeline",), denoisers=("unet",)),
    Family("animatediff", "AnimateDiff", pipelines=("AnimateDiffPipeline",), denoisers=("unet",)),
    Family(
        "gaussian",
        "Gaussian mixture",
        pipelines=("StableDiffusionPipeline",),
        denoisers=("unet",),
        size=(64, 64),
        builder="engine.sampling.gaussian:build_pipeline",
        version=1,
        scheduler_config={
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "steps_offset": 1,
            "set_alpha_to_one": False,
            "clip_sample": False,
        },
    ),
)

FAMILIES = Registry("model family", _BUILT_IN)
register_family = FAMILIES.register
# What is taken for granted of a pipeline that no entry names.
UNKNOWN = Family("other", "Another family", pipelines=("DiffusionPipeline",), style="unknown")


def family_of(pipeline: str) -> Family:
    """The family of a pipeline class, by its name; what no entry names has the usual properties."""
    read = (family for family in FAMILIES.values() if not family.builder)
    return next((family for family in read if pipeline in family.pipelines), UNKNOWN)
