"""A miniature of every model family: the real classes with random weights, in kilobytes, 64 x 64 px.

All weights are stirred and the last layers scaled, so that predictions and pictures have contrast and depend on prompt,
seed, guidance and timestep. With the weights torch starts from, most of these models would answer next to nothing.
"""

import inspect
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from engine.study.pipeline_settings import PictureFile, PipelineSettings
from tests.engine.miniature_parts import DYNAMIC, WIDTH, flow, gemma, shifted_vae, stirred, t5, tokenizer, umt5, vae
from tests.engine.miniatures import PIXELS, clip_text_encoder, clip_tokenizer


def sd3(layers: int = 1) -> DiffusionPipeline:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=WIDTH * 2,
        pooled_projection_dim=64,
    )
    large = transformers.T5Config(
        vocab_size=16, d_model=2 * WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=flow(shift=3.0),
        vae=shifted_vae(),
        text_encoder=clip_text_encoder(transformers.CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text_encoder(transformers.CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=stirred(transformers.T5EncoderModel(large).eval()),
        tokenizer_3=tokenizer(),
    )


def flux(guidance: bool = True, scheduler: dict[str, Any] | None = None) -> DiffusionPipeline:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance,
    )
    return diffusers.FluxPipeline(
        scheduler=flow(**(DYNAMIC if scheduler is None else scheduler)),
        vae=shifted_vae(),
        text_encoder=clip_text_encoder(transformers.CLIPTextModel),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(),
        transformer=transformer,
    )


def schnell() -> DiffusionPipeline:
    return flux(guidance=False, scheduler={"shift": 1.0})


def pixart() -> DiffusionPipeline:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=WIDTH,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=False,
    )
    return diffusers.PixArtSigmaPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=vae(),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_end=0.02, beta_start=0.0001, beta_schedule="linear"),
    )


def sana() -> DiffusionPipeline:
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=WIDTH,
        sample_size=2,
    )
    autoencoder = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return diffusers.SanaPipeline(
        tokenizer=tokenizer(), text_encoder=gemma(), vae=autoencoder, transformer=transformer, scheduler=scheduler
    )


def auraflow() -> DiffusionPipeline:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=WIDTH,
        out_channels=4,
        pos_embed_max_size=64,
    )
    return diffusers.AuraFlowPipeline(
        tokenizer=tokenizer(), text_encoder=umt5(), vae=vae(), transformer=transformer, scheduler=flow(shift=1.73)
    )


def lumina2() -> DiffusionPipeline:
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=2,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        ffn_dim_multiplier=None,
        norm_eps=1e-5,
        scaling_factor=1.0,
        axes_dim_rope=[4, 2, 2],
        cap_feat_dim=WIDTH,
    )
    return diffusers.Lumina2Pipeline(
        transformer=transformer,
        scheduler=flow(shift=6.0),
        vae=shifted_vae(),
        text_encoder=gemma(),
        tokenizer=tokenizer(),
    )


def chroma() -> DiffusionPipeline:
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return diffusers.ChromaPipeline(
        scheduler=flow(shift=1.0),
        vae=shifted_vae(),
        text_encoder=t5(),
        tokenizer=tokenizer(),
        transformer=transformer,
    )


def hunyuandit() -> DiffusionPipeline:
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
    )
    bert = transformers.BertConfig(
        vocab_size=16, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.02, beta_schedule="scaled_linear", prediction_type="v_prediction", steps_offset=1
    )
    return diffusers.HunyuanDiTPipeline(
        vae=vae(),
        text_encoder=stirred(transformers.BertModel(bert).eval()),
        tokenizer=tokenizer(),
        transformer=transformer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(),
    )


BUILDERS: dict[str, Callable[..., DiffusionPipeline]] = {
    "sd3": sd3,
    "flux": flux,
    "schnell": schnell,
    "pixart": pixart,
    "sana": sana,
    "auraflow": auraflow,
    "lumina2": lumina2,
    "chroma": chroma,
    "hunyuandit": hunyuandit,
}


def builders() -> dict[str, Callable[..., DiffusionPipeline]]:
    """All of them by name."""
    from tests.engine import further_miniatures, video_miniatures

    return BUILDERS | video_miniatures.BUILDERS | further_miniatures.BUILDERS


def built(key: str, **changes: Any) -> DiffusionPipeline:
    """The miniature of a family, changed by arguments of its builder."""
    torch.manual_seed(3)
    diffusers.utils.logging.set_verbosity_error()
    pipe = builders()[key](**changes)
    pipe.set_progress_bar_config(disable=True)
    for name in ("transformer", "transformer_2", "unet", "controlnet"):
        if getattr(pipe, name, None) is not None:
            stirred(getattr(pipe, name).eval())
    pipe.vae.eval()
    _scale_last_layers(pipe, arguments(key))
    return pipe


def arguments(key: str) -> dict[str, Any]:
    """What a call of the miniature needs besides prompt, steps and guidance."""
    return MORE.get(key, {}) | {name: picture() for name in PICTURES.get(key, ())}


def pipeline_settings(key: str, folder: Path) -> PipelineSettings:
    """The same as a study says it, with pictures as files in a folder."""
    pictures = {}
    for name in PICTURES.get(key, ()):
        file = folder / f"{name}.png"
        picture().save(file)
        pictures[name] = PictureFile(file.name, sha256(file.read_bytes()).hexdigest(), file.read_bytes())
    return PipelineSettings(MORE.get(key, {}), pictures)


PICTURES: dict[str, tuple[str, ...]] = {"svd": ("image",), "ltx_picture": ("image",)}
UNBINNED: dict[str, Any] = {"use_resolution_binning": False}
MORE: dict[str, dict[str, Any]] = {
    "pixart": UNBINNED,
    "sana": UNBINNED,
    "hunyuandit": UNBINNED,
    "hidream": {"max_sequence_length": 64},
    "latte": {"video_length": 5, "clean_caption": False},
    "ltx": {"num_frames": 9},
    "ltx_picture": {"num_frames": 9},
    "ltx_noisy": {"num_frames": 9, "decode_timestep": 0.05, "decode_noise_scale": 0.025},
    "wan": {"num_frames": 5},
    "wan_two": {"num_frames": 5},
    "wan_tokens": {"num_frames": 5},
    "cogvideox": {"num_frames": 5, "max_sequence_length": 16},
    "hunyuan_video": {"num_frames": 5, "prompt_template": {"template": "{}", "crop_start": 0}},
    "mochi": {"num_frames": 7, "max_sequence_length": 16},
    "flux2_klein": {"text_encoder_out_layers": [1, 2, 3]},
    "flux2": {"text_encoder_out_layers": [1, 2, 3], "max_sequence_length": 96},
    "kolors": {"max_sequence_length": 16},
}


@torch.no_grad()
def _scale_last_layers(pipe: Any, more: dict[str, Any]) -> None:
    """Scales the last layer of denoiser and decoder so that both answer with the size they should."""
    denoiser = next(getattr(pipe, name) for name in ("transformer", "unet") if getattr(pipe, name, None) is not None)
    call: dict[str, Any] = {"width": PIXELS, "height": PIXELS, "num_inference_steps": 2, "output_type": "np"} | more
    if "prompt" in inspect.signature(pipe.__call__).parameters:
        call["prompt"] = "red apple"
    _scaled(pipe, denoiser, call, 1.0)
    _scaled(pipe, pipe.vae.decoder, call, 0.5)


def _scaled(pipe: Any, part: nn.Module, call: dict[str, Any], size: float) -> None:
    ran: list[tuple[nn.Module, torch.Tensor]] = []
    layers = [each for each in part.modules() if isinstance(each, nn.Linear | nn.Conv2d | nn.Conv3d)]
    hooks = [layer.register_forward_hook(lambda layer, inputs, output: ran.append((layer, output))) for layer in layers]
    pipe(**call, generator=torch.Generator().manual_seed(0))
    for hook in hooks:
        hook.remove()
    last = ran[-1][0]
    factor = size / float(torch.cat([output.flatten() for layer, output in ran if layer is last]).std())
    for parameter in last.parameters():
        parameter *= factor


def picture() -> Image.Image:
    """A picture to begin with."""
    ramp = torch.linspace(0, 255, PIXELS)
    return Image.fromarray(
        torch.stack([ramp.expand(PIXELS, -1), ramp[:, None].expand(-1, PIXELS), ramp.flip(0).expand(PIXELS, -1)], -1)
        .byte()
        .numpy()
    )
