"""Public configurations of well-known models as plain numbers, and what their denoisers are given. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Inputs = dict[str, Any]
Like = Callable[..., "torch.Tensor"]


@dataclass(frozen=True)
class Part:
    """A part of a pipeline: its class, and the arguments of its configuration.

    Attributes:
        target: "diffusers:Class" or "transformers:Class".
        config: As the model's `config.json` has it, without what stays at the class's default.
    """

    target: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Rehearsed:
    """A model in its real size.

    Attributes:
        label: For people.
        denoiser: Its largest part.
        autoencoder: Decodes its latents.
        encoders: Of texts; they are counted on paper and left out of a trial, since they run once a prompt.
        inputs: Given a number of rows and a function of a shape, the denoiser's arguments; the first holds the latents.
        latents: Shape of what is decoded, for one picture or clip.
        pixels: Width, height and frames.
        rows: Rows of a forward for each picture: 2 with classifier-free guidance in one batch.
        hub: Ids on the hub with this configuration.
        scheduler: The class that steps in a trial.
    """

    label: str
    denoiser: Part
    autoencoder: Part
    encoders: tuple[Part, ...]
    inputs: Callable[[int, Like], Inputs]
    latents: tuple[int, ...]
    hub: tuple[str, ...]
    pixels: tuple[int, int, int] = (512, 512, 1)
    rows: int = 2
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    scheduler_config: dict[str, Any] = field(default_factory=dict)


_BLOCKS = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
_KL: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, **_BLOCKS}
_CLIP_L = Part(
    "transformers:CLIPTextModel",
    {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
)
_CLIP_G = Part(
    "transformers:CLIPTextModelWithProjection",
    {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
    },
)
_T5: dict[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
_DISCRETE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def _sd15(rows: int, like: Like) -> Inputs:
    return {
        "sample": like(rows, 4, 64, 64),
        "timestep": like(rows) * 500,
        "encoder_hidden_states": like(rows, 77, 768),
    }


def _sdxl(rows: int, like: Like) -> Inputs:
    return {
        "sample": like(rows, 4, 128, 128),
        "timestep": like(rows) * 500,
        "encoder_hidden_states": like(rows, 77, 2048),
        "added_cond_kwargs": {"text_embeds": like(rows, 1280), "time_ids": like(rows, 6)},
    }


def _sd35(rows: int, like: Like) -> Inputs:
    return {
        "hidden_states": like(rows, 16, 128, 128),
        "timestep": like(rows) * 500,
        "encoder_hidden_states": like(rows, 333, 4096),
        "pooled_projections": like(rows, 2048),
    }


def _flux(rows: int, like: Like) -> Inputs:
    return {
        "hidden_states": like(rows, 4096, 64),
        "timestep": like(rows),
        "guidance": like(rows),
        "pooled_projections": like(rows, 768),
        "encoder_hidden_states": like(rows, 512, 4096),
        "txt_ids": like(512, 3),
        "img_ids": like(4096, 3),
    }


def _wan(rows: int, like: Like) -> Inputs:
    return {
        "hidden_states": like(rows, 16, 21, 60, 104),
        "timestep": like(rows) * 500,
        "encoder_hidden_states": like(rows, 512, 4096),
    }


REHEARSED: dict[str, Rehearsed] = {
    "sd15": Rehearsed(
        "Stable Diffusion 1.5",
        Part("diffusers:UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768}),
        Part("diffusers:AutoencoderKL", _KL),
        (_CLIP_L,),
        _sd15,
        (4, 64, 64),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
        scheduler="EulerDiscreteScheduler",
        scheduler_config=_DISCRETE,
    ),
    "sdxl": Rehearsed(
        "SDXL 1.0",
        Part(
            "diffusers:UNet2DConditionModel",
            {
                "sample_size": 128,
                "block_out_channels": (320, 640, 1280),
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": (1, 2, 10),
                "attention_head_dim": (5, 10, 20),
                "cross_attention_dim": 2048,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
                "use_linear_projection": True,
            },
        ),
        Part("diffusers:AutoencoderKL", _KL),
        (_CLIP_L, _CLIP_G),
        _sdxl,
        (4, 128, 128),
        ("stabilityai/stable-diffusion-xl-base-1.0",),
        (1024, 1024, 1),
        scheduler="EulerDiscreteScheduler",
        scheduler_config=_DISCRETE,
    ),
    "sd3.5-medium": Rehearsed(
        "Stable Diffusion 3.5 medium",
        Part(
            "diffusers:SD3Transformer2DModel",
            {
                "sample_size": 128,
                "num_layers": 24,
                "num_attention_heads": 24,
                "attention_head_dim": 64,
                "joint_attention_dim": 4096,
                "caption_projection_dim": 1536,
                "pooled_projection_dim": 2048,
                "in_channels": 16,
                "out_channels": 16,
                "pos_embed_max_size": 384,
                "dual_attention_layers": tuple(range(13)),
                "qk_norm": "rms_norm",
            },
        ),
        Part("diffusers:AutoencoderKL", _KL | {"latent_channels": 16}),
        (_CLIP_L, _CLIP_G, Part("transformers:T5EncoderModel", _T5 | {"vocab_size": 32128})),
        _sd35,
        (16, 128, 128),
        ("stabilityai/stable-diffusion-3.5-medium",),
        (1024, 1024, 1),
    ),
    "flux": Rehearsed(
        "FLUX.1 dev",
        Part("diffusers:FluxTransformer2DModel", {"guidance_embeds": True}),
        Part("diffusers:AutoencoderKL", _KL | {"latent_channels": 16}),
        (_CLIP_L, Part("transformers:T5EncoderModel", _T5 | {"vocab_size": 32128})),
        _flux,
        (16, 128, 128),
        ("black-forest-labs/FLUX.1-dev",),
        (1024, 1024, 1),
        rows=1,
    ),
    "wan-1.3b": Rehearsed(
        "Wan 2.1, 1.3 B",
        Part(
            "diffusers:WanTransformer3DModel",
            {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30},
        ),
        Part("diffusers:AutoencoderKLWan", {}),
        (Part("transformers:UMT5EncoderModel", _T5 | {"vocab_size": 256384}),),
        _wan,
        (16, 21, 60, 104),
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers",),
        (832, 480, 81),
    ),
}


def rehearsed_as(model: str) -> str | None:
    """The key of a hub model's configuration, or None if it is not among them."""
    repo = model.partition("@")[0].lower()
    return next((key for key, known in REHEARSED.items() if repo in map(str.lower, known.hub)), None)
