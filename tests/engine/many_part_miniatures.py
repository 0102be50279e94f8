"""Miniatures of picture families with many parts; see `family_miniatures`."""

from typing import Any

import diffusers
import transformers
from diffusers import DiffusionPipeline

from tests.engine import miniature_parts as parts
from tests.engine.miniatures import clip_text_encoder, clip_tokenizer

WIDTH = parts.WIDTH


def hidream() -> DiffusionPipeline:
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=64,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
        force_inference_output=True,
    )
    pipe = diffusers.HiDreamImagePipeline(
        scheduler=parts.flow(shift=3.0),
        vae=parts.shifted_vae(),
        text_encoder=clip_text_encoder(transformers.CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text_encoder(transformers.CLIPTextModelWithProjection),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=parts.t5(),
        tokenizer_3=parts.tokenizer(),
        text_encoder_4=parts.llama(transformers.LlamaForCausalLM),
        tokenizer_4=parts.tokenizer(),
        transformer=transformer,
    )
    pipe.default_sample_size = 8  # every picture is scaled to this many latent pixels
    return pipe


def z_image() -> DiffusionPipeline:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        norm_eps=1e-5,
        qk_norm=True,
        cap_feat_dim=WIDTH,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return diffusers.ZImagePipeline(
        scheduler=parts.flow(shift=3.0),
        vae=parts.shifted_vae(),
        text_encoder=parts.qwen3(2),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
    )


def qwen_image() -> DiffusionPipeline:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    autoencoder = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 1.0, 2.0],
    )
    return diffusers.QwenImagePipeline(
        scheduler=parts.flow(**parts.DYNAMIC, shift_terminal=0.02),
        vae=autoencoder,
        text_encoder=parts.qwen_vl(),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
    )


def flux2_trunk(guidance: bool) -> dict[str, Any]:
    """Transformer, autoencoder and scheduler of Flux.2, with or without guidance as an input."""
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=guidance,
    )
    autoencoder = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    )
    return {"transformer": transformer, "vae": autoencoder, "scheduler": parts.flow(**parts.DYNAMIC)}


def flux2_klein() -> DiffusionPipeline:
    return diffusers.Flux2KleinPipeline(
        text_encoder=parts.qwen3(3), tokenizer=parts.tokenizer(), **flux2_trunk(guidance=False)
    )
