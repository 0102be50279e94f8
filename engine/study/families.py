"""The table of model families: an entry holds what differs between families and cannot be learnt from the pipeline.

Decoding and the batch axes of arguments are learnt from idle calls of the pipeline, so they are not part of an entry.
A new family is one entry, added here or in a plug-in with `FAMILIES.register`. Imports no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.errors import StudyError
from engine.study.registry import Registry
from engine.study.schedulers import SCHEDULERS, ModelKind

# How guidance is computed: in one call with the unconditional rows first ("batched") or the conditional ones first
# ("prompt_first"), in two calls with the conditional one first, or not at all: the scale is an input of the denoiser.
GuidanceStyle = Literal["batched", "prompt_first", "two_calls", "embedded", "unknown"]


@dataclass(frozen=True)
class Family:
    """The properties of a model family.

    Attributes:
        key: Stable name.
        label: Display name.
        pipelines: Names of its diffusers classes, as in `model_index.json`.
        denoisers: Names of the components that may be denoisers.
        size: Width and height in pixels of its training pictures; None to read them from the model's files.
        frames: Default number of frames per clip; 1 for pictures.
        guidance: Argument of the pipeline call that takes a study's `guidance_scale`.
        style: How guidance is computed.
        inputs: Required arguments of the pipeline call.
        solvers: Keys of the schedulers that suit it; empty for all that solve models of its kind.
        scheduler: Scheduler settings that distinguish it from another family with the same pipeline.
        builder: `module:function` that builds the pipeline of a computed model, which has no files.
        tiny: Hub id of a small autoencoder for its latents (`AutoencoderTiny`).
        version: Version of a computed model, raised whenever its pictures change, so that its cells are recomputed.
        scheduler_config: Scheduler configuration of a computed model.
    """

    key: str
    label: str
    pipelines: tuple[str, ...]
    denoisers: tuple[str, ...] = ("unet", "transformer", "transformer_2")
    size: tuple[int, int] | None = None
    frames: int = 1
    guidance: str = "guidance_scale"
    style: GuidanceStyle = "batched"
    inputs: tuple[str, ...] = ("prompt",)
    solvers: tuple[str, ...] = ()
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    builder: str = ""
    tiny: str = ""
    version: int = 0
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> ModelKind:
        """The usual kind of its models: the one that all its solvers solve."""
        named = [set(SCHEDULERS[key].solves) for key in self.solvers if key in SCHEDULERS]
        common = set.intersection(*named) if named else set[ModelKind]()
        return common.pop() if len(common) == 1 else "discrete"

    def check(self) -> None:
        """Checks the entry.

        Raises:
            StudyError: It has no pipeline or no denoiser, or a malformed builder.
        """
        if not self.pipelines:
            raise StudyError(f"Model family '{self.key}': pipelines must name a class, e.g. 'FluxPipeline'.")
        if not self.denoisers:
            raise StudyError(f"Model family '{self.key}': denoisers must name a component to watch, e.g. 'unet'.")
        if self.builder and not re.fullmatch(r"[\w.]+:\w+", self.builder):
            raise StudyError(f"Model family '{self.key}': builder {self.builder!r} should read 'module:function'.")


def kind_of(scheduler_config: Mapping[str, Any]) -> ModelKind:
    """The kind of a model, by its own scheduler configuration."""
    name = str(scheduler_config.get("_class_name", ""))
    if "FlowMatch" in name or scheduler_config.get("use_flow_sigmas"):
        return "flow"
    if scheduler_config.get("prediction_type") == "flow_prediction":
        return "flow"
    if name.startswith("EDM"):
        return "edm"
    if name.startswith("CogVideoX"):
        return "cogvideox"
    return "continuous" if scheduler_config.get("timestep_type") == "continuous" else "discrete"


_SQUARE = (1024, 1024)
# Flow solvers, by what a family's pipeline passes to its scheduler: nothing, a shift for the picture size (`mu`), its
# own noise levels, or levels that only its own solver reads correctly.
_ANY = ("flow_euler", "flow_heun", "dpmpp_2m", "dpmpp_2s", "unipc", "deis", "sa_solver")
_SHIFTED = ("flow_euler", "dpmpp_2m", "dpmpp_2s", "unipc", "deis")
_LEVELS = ("flow_euler", "unipc")
_OWN = ("flow_euler",)

_TAESD = "madebyollin/taesd"


def _variants(name: str, *more: str) -> tuple[str, ...]:
    """Class names of a text-to-image pipeline and of its variants that start from pictures."""
    return tuple(f"{name}{kind}Pipeline" for kind in ("", "Img2Img", "Inpaint", *more))


_CONTROLLED = ("ControlNet", "ControlNetImg2Img", "ControlNetInpaint")


_BUILT_IN = (
    Family("sd", "Stable Diffusion 1 and 2", _variants("StableDiffusion", "PAG", *_CONTROLLED), tiny=_TAESD),
    Family("sdxl", "Stable Diffusion XL", _variants("StableDiffusionXL", "PAG", *_CONTROLLED), tiny=_TAESD + "xl"),
    Family(
        "lcm",
        "Latent consistency",
        ("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
        style="embedded",
        solvers=("lcm",),
        tiny=_TAESD,
    ),
    Family("kolors", "Kolors", ("KolorsPipeline", "KolorsImg2ImgPipeline")),
    Family("pixart", "PixArt", ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline")),
    Family("hunyuandit", "HunyuanDiT", ("HunyuanDiTPipeline", "HunyuanDiTControlNetPipeline")),
    Family("sana", "Sana", ("SanaPipeline", "SanaPAGPipeline", "SanaControlNetPipeline"), size=_SQUARE, solvers=_ANY),
    Family(
        "sd3",
        "Stable Diffusion 3",
        _variants("StableDiffusion3", "ControlNet", "ControlNetInpainting"),
        solvers=_ANY,
        tiny=_TAESD + "3",
    ),
    Family("auraflow", "AuraFlow", ("AuraFlowPipeline",), size=_SQUARE, solvers=_ANY),
    Family(
        "flux_schnell",
        "Flux schnell",
        _variants("Flux", *_CONTROLLED),
        size=_SQUARE,
        style="embedded",
        solvers=_LEVELS,
        scheduler={"use_dynamic_shifting": False},
        tiny="madebyollin/taef1",
    ),
    Family(
        "flux",
        "Flux",
        _variants("Flux", "Fill", "Kontext", "Control", *_CONTROLLED),
        size=_SQUARE,
        style="embedded",
        solvers=_SHIFTED,
        tiny="madebyollin/taef1",
    ),
    Family("flux2", "Flux.2", ("Flux2Pipeline",), size=_SQUARE, style="embedded", solvers=_SHIFTED),
    Family("flux2_klein", "Flux.2 klein", ("Flux2KleinPipeline",), size=_SQUARE, style="two_calls", solvers=_SHIFTED),
    Family(
        "qwen_image",
        "Qwen-Image",
        _variants("QwenImage", "Edit", "EditPlus", "ControlNet", "ControlNetInpaint"),
        size=(1328, 1328),
        guidance="true_cfg_scale",
        style="two_calls",
        solvers=_LEVELS,
    ),
    Family(
        "z_image",
        "Z-Image",
        ("ZImagePipeline", "ZImageImg2ImgPipeline"),
        size=_SQUARE,
        style="prompt_first",
        solvers=_OWN,
    ),
    Family("lumina2", "Lumina 2", ("Lumina2Pipeline",), size=_SQUARE, style="two_calls", solvers=_LEVELS),
    Family("chroma", "Chroma", _variants("Chroma"), size=_SQUARE, style="two_calls", solvers=_LEVELS),
    Family("hidream", "HiDream", ("HiDreamImagePipeline",), size=_SQUARE, solvers=_LEVELS),
    Family("animatediff", "AnimateDiff", ("AnimateDiffPipeline", "AnimateDiffSDXLPipeline"), frames=16),
    Family("latte", "Latte", ("LattePipeline",), frames=16),
    Family(
        "ltx", "LTX-Video", ("LTXPipeline", "LTXImageToVideoPipeline"), size=(704, 512), frames=161, solvers=_LEVELS
    ),
    Family(
        "wan",
        "Wan",
        ("WanPipeline", "WanImageToVideoPipeline"),
        size=(832, 480),
        frames=81,
        style="two_calls",
        solvers=_ANY,
    ),
    Family(
        "cogvideox",
        "CogVideoX",
        ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline"),
        size=(720, 480),
        frames=49,
        solvers=("cogvideox_ddim", "cogvideox_dpm"),
    ),
    Family(
        "hunyuan_video",
        "HunyuanVideo",
        ("HunyuanVideoPipeline",),
        size=(1280, 720),
        frames=129,
        style="embedded",
        solvers=_LEVELS,
    ),
    Family("mochi", "Mochi", ("MochiPipeline",), size=(848, 480), frames=19, solvers=_OWN),
    Family(
        "svd",
        "Stable Video Diffusion",
        ("StableVideoDiffusionPipeline",),
        size=(1024, 576),
        frames=25,
        guidance="max_guidance_scale",
        inputs=("image",),
        solvers=("euler_continuous",),
    ),
    Family(
        "gaussian",
        "Gaussian mixture",
        ("StableDiffusionPipeline",),
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
# Assumed for pipelines without an entry.
UNKNOWN = Family("other", "Another family", pipelines=("DiffusionPipeline",), style="unknown")
# Pictures that a call needs besides the prompt, by a part of the pipeline's class name.
PICTURES = {
    "Img2Img": ("image",),
    "Inpaint": ("image", "mask_image"),
    "Pix2Pix": ("image",),
    "Upscale": ("image",),
    "Depth2Img": ("image",),
    "ImageToVideo": ("image",),
    "VideoToVideo": ("video",),
    "Kontext": ("image",),
    "Fill": ("image", "mask_image"),
    "Edit": ("image",),
}
# Pipelines whose `image` is that of the ControlNet, and those that start from nothing but its picture and mask.
_STEERED_BY_IMAGE = re.compile(r"StableDiffusion(XL)?ControlNet(XS|PAG)?Pipeline")
_STEERED_BY_MASK = ("StableDiffusion3ControlNetInpaintingPipeline", "QwenImageControlNetInpaintPipeline")


def family_of(pipeline: str, scheduler_config: Mapping[str, Any] | None = None) -> Family:
    """The family of a pipeline class; `UNKNOWN` if there is no entry.

    Args:
        pipeline: Class name, as in `model_index.json`.
        scheduler_config: The model's scheduler configuration, which distinguishes families with the same pipeline.
    """
    config = scheduler_config or {}
    for family in FAMILIES.values():
        told = all(bool(config.get(key)) == value for key, value in family.scheduler.items())
        if pipeline in family.pipelines and not family.builder and told:
            return family
    return UNKNOWN


def needed_inputs(family: Family, pipeline: str) -> tuple[str, ...]:
    """The required arguments of a pipeline call."""
    if pipeline in _STEERED_BY_MASK:
        return (*family.inputs, "control_image", "control_mask")
    pictures = [name for part, names in PICTURES.items() if part in pipeline for name in names]
    if "Control" in pipeline:
        pictures.append("image" if _STEERED_BY_IMAGE.fullmatch(pipeline) else "control_image")
    return tuple(dict.fromkeys((*family.inputs, *pictures)))
