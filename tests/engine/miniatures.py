"""Tiny pipelines with random weights, in the folder format of the hub: every family the lab knows, in kilobytes.

Their pictures mean nothing, but every part works as in the real models. The last layers are fitted so that the
denoiser takes noise away and pictures have contrast: with the weights torch starts from, all pictures would be grey,
and no comparison could fail.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    MotionAdapter,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
)
from diffusers.utils import logging
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from engine.sampling.image_pass import Sample
from engine.study.cells import Cell, cells
from engine.study.lanes import Lane
from engine.study.schedulers import SCHEDULERS, Scheduler
from engine.study.source import find_model
from engine.study.study import parse_study
from engine.tune.local_errors import Recordings, gram_of

PIXELS = 64
# The schedulers for models like Stable Diffusion.
DISCRETE = {key: entry for key, entry in SCHEDULERS.items() if "discrete" in entry.solves}
WORDS = ("red", "apple", "owl", "green", "pear", "blurry", "small", "house")
TEXT_WIDTH = 32

# scheduler_config.json of Stable Diffusion 1.5 and SDXL on the hub. They leave things out, which matters: keys that a
# file states are passed on to every scheduler built from it, keys it leaves out stay at each class's own default.
SD_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SDXL_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def write_sd(folder: Path) -> Path:
    """A StableDiffusionPipeline for 64 x 64 px, with the scheduler configuration of SD 1.5 on the hub."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**_UNET, cross_attention_dim=TEXT_WIDTH)
    return _write(
        folder,
        StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=clip_text_encoder(CLIPTextModel),
            tokenizer=clip_tokenizer(),
            unet=unet,
            scheduler=PNDMScheduler.from_config(SD_SCHEDULER),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ),
        SD_SCHEDULER,
    )


def write_sdxl(folder: Path) -> Path:
    """A StableDiffusionXLPipeline for 64 x 64 px: two text encoders, pooled text and time ids."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        **_UNET,
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
        use_linear_projection=True,
    )
    return _write(
        folder,
        StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=clip_text_encoder(CLIPTextModel),
            tokenizer=clip_tokenizer(),
            text_encoder_2=clip_text_encoder(CLIPTextModelWithProjection),
            tokenizer_2=clip_tokenizer(),
            unet=unet,
            scheduler=EulerDiscreteScheduler.from_config(SDXL_SCHEDULER),
            add_watermarker=False,
        ),
        SDXL_SCHEDULER,
    )


def write_animatediff(folder: Path) -> Path:
    """An AnimateDiffPipeline for 64 x 64 px; sixteen frames unless asked otherwise."""
    torch.manual_seed(2)
    still = UNet2DConditionModel(**_UNET, cross_attention_dim=TEXT_WIDTH)
    adapter = MotionAdapter(
        block_out_channels=_UNET["block_out_channels"],
        motion_layers_per_block=1,
        motion_norm_num_groups=8,
        motion_num_attention_heads=2,
        motion_mid_block_layers_per_block=1,
    )
    for name, parameter in adapter.named_parameters():
        if "proj_out" in name and parameter.ndim > 1:
            # Motion modules start as zero; frames would not know of each other.
            torch.nn.init.normal_(parameter, std=0.1)
    return _write(
        folder,
        AnimateDiffPipeline(
            vae=_vae(),
            text_encoder=clip_text_encoder(CLIPTextModel),
            tokenizer=clip_tokenizer(),
            unet=UNetMotionModel.from_unet2d(still, adapter),
            motion_adapter=None,
            scheduler=PNDMScheduler.from_config(SD_SCHEDULER),
        ),
        SD_SCHEDULER,
    )


def cells_of(folder: Path | str, lanes: Sequence[str | Lane], **settings: Any) -> list[Cell]:
    """The cells of a study on a model folder (or "gaussian"), float32."""
    study = parse_study(
        {
            "name": "parity",
            "model": str(folder),
            "prompts": ["red apple"],
            "dtype": "float32",
            "lanes": [lane for lane in lanes if isinstance(lane, str)] or ["ddim:2"],
            **settings,
        }
    )
    extra = [lane for lane in lanes if isinstance(lane, Lane)]
    listed = study.lanes if len(extra) < len(lanes) else ()
    return cells(replace(study, lanes=(*listed, *extra)), find_model(str(folder)), "cpu")


def picture_of(sample: Sample, kind: str = "final", video_frame: int = 0) -> np.ndarray:
    """The last picture of a kind as an array of signed numbers."""
    data = [p.data for p in sample.pictures if p.kind == kind and p.video_frame == video_frame][-1]
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def drawn_recordings(seed: int, count: int) -> Recordings:
    """Recordings of random states at random levels."""
    rng = np.random.default_rng(seed)
    levels = np.sort(rng.uniform(-3, 3, count))[::-1]
    gram = gram_of(rng.normal(size=(count, 20)), rng.normal(size=(count, 20)), rng.normal(size=20))
    return Recordings(levels, gram, rng.uniform(0.1, 1, count))


class FailsAtStepThree(DDIMScheduler):
    """A scheduler with a bug that shows in the middle of a run."""

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **options: Any) -> Any:
        if timestep == self.timesteps[2]:
            raise ArithmeticError("step three went wrong")
        return super().step(model_output, timestep, sample, **options)


class ReturnsNan(DDIMScheduler):
    """A scheduler that runs to its end, as fast as any, and leaves no picture."""

    def step(self, *args: Any, **options: Any) -> Any:
        first, *others = super().step(*args, **options)
        return (first * float("nan"), *others)


FAILING = Lane("failing:5", Scheduler("failing", "Failing", "tests.engine.miniatures:FailsAtStepThree"), 5)


_UNET: dict[str, Any] = {
    "sample_size": PIXELS // 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 2,
}


def _vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=4,
        sample_size=PIXELS,
    )
    with torch.no_grad():
        pictures = vae.decode(torch.randn(4, 4, 8, 8) / 0.18215).sample
        vae.decoder.conv_out.weight /= 2 * pictures.std()
    return vae


def clip_text_encoder(kind: type[CLIPTextModel]) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        initializer_factor=2.0,
    )
    return kind(config).eval()


def _vocabulary() -> dict[str, int]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters), *_merged()]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def _merged() -> list[str]:
    return ["".join(pair) for pair in _merges()]


def _merges() -> list[tuple[str, str]]:
    """Byte pair merges that make one token of each known word, letter by letter from the left."""
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        head = pieces[0]
        for piece in pieces[1:]:
            merges.append((head, piece))
            head += piece
    return list(dict.fromkeys(merges))


def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab=_vocabulary(),
        merges=_merges(),
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=77,
    )


def _write(folder: Path, pipe: DiffusionPipeline, scheduler_config: dict[str, Any]) -> Path:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipe.set_progress_bar_config(disable=True)
    _fit_last_layer(pipe)
    pipe.save_pretrained(folder, safe_serialization=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler_config))
    return folder


@torch.no_grad()
def _fit_last_layer(pipe: DiffusionPipeline) -> None:
    """Sets the denoiser's last layer so that it predicts noise in random smooth latents as well as one layer can.

    Least squares on what the random layers below make of noisy latents: enough to take noise away over the steps, and
    so to leave pictures that depend on every prediction, on prompt and seed, and on solver and steps.
    """
    rows, size = 256, PIXELS // 8
    for name, parameter in pipe.unet.named_parameters():
        if "attn2.to_out" in name:
            parameter *= 5  # else prompts would hardly matter
    clean = torch.nn.functional.interpolate(torch.randn(rows, 4, 2, 2), size=(size, size), mode="bilinear") * 1.5
    noise = torch.randn_like(clean)
    timesteps = torch.linspace(1, 999, rows).long()
    noisy = pipe.scheduler.add_noise(clean, noise, timesteps)
    features: list[torch.Tensor] = []
    hook = pipe.unet.conv_out.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0]))
    _predict(pipe, noisy, timesteps)
    hook.remove()
    patches = torch.nn.functional.unfold(features[0], 3, padding=1).movedim(1, 2).flatten(0, 1)
    wanted = noise.flatten(2).movedim(1, 2).flatten(0, 1)
    ridge = 0.01 * patches.square().sum(0).mean() * torch.eye(patches.shape[1])
    solved = torch.linalg.solve(patches.T @ patches + ridge, patches.T @ wanted)
    pipe.unet.conv_out.weight.copy_(solved.T.reshape(pipe.unet.conv_out.weight.shape))
    pipe.unet.conv_out.bias.zero_()


def _predict(pipe: DiffusionPipeline, noisy: torch.Tensor, timesteps: torch.Tensor) -> None:
    """Calls the denoiser with an ordinary prompt."""
    rows = len(noisy)
    options: dict[str, object] = {}
    if isinstance(pipe, StableDiffusionXLPipeline):
        text, _, pooled, _ = pipe.encode_prompt("red apple", do_classifier_free_guidance=False)
        sizes = torch.tensor([[PIXELS, PIXELS, 0, 0, PIXELS, PIXELS]] * rows)
        options["added_cond_kwargs"] = {"text_embeds": pooled.expand(rows, -1), "time_ids": sizes}
    else:
        text, _ = pipe.encode_prompt("red apple", "cpu", 1, do_classifier_free_guidance=False)
    if isinstance(pipe, AnimateDiffPipeline):
        noisy = noisy.unsqueeze(2)
    pipe.unet(noisy, timesteps, encoder_hidden_states=text.expand(rows, -1, -1), **options)
