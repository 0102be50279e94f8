"""Miniatures of the families that make videos; see `family_miniatures`."""

from typing import Any

import diffusers
import transformers
from diffusers import DiffusionPipeline

from tests.engine import miniature_parts as parts
from tests.engine.many_part_miniatures import flux2_klein, hidream, qwen_image, z_image
from tests.engine.miniatures import clip_text_encoder, clip_tokenizer

WIDTH = parts.WIDTH


def latte() -> DiffusionPipeline:
    transformer = diffusers.LatteTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=32,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=WIDTH,
        video_length=5,
    )
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return diffusers.LattePipeline(
        tokenizer=parts.tokenizer(),
        text_encoder=parts.t5(),
        vae=parts.vae(),
        transformer=transformer,
        scheduler=scheduler,
    )


def ltx(**changes: Any) -> DiffusionPipeline:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=WIDTH,
    )
    autoencoder = diffusers.AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
        **changes,
    )
    autoencoder.use_framewise_encoding = autoencoder.use_framewise_decoding = False
    return diffusers.LTXPipeline(
        scheduler=parts.flow(**parts.DYNAMIC, shift_terminal=0.1),
        vae=autoencoder,
        text_encoder=parts.t5(),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
    )


def ltx_noisy() -> DiffusionPipeline:
    """LTX 0.9.1: its autoencoder is told a time, and given noise."""
    return ltx(timestep_conditioning=True)


def ltx_picture() -> DiffusionPipeline:
    """LTX that starts from a picture, with a timestep for every token."""
    return diffusers.LTXImageToVideoPipeline(**ltx().components)


def _wan_transformer(channels: int = 4) -> diffusers.WanTransformer3DModel:
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )


def _wan(**options: Any) -> DiffusionPipeline:
    autoencoder = diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 1.0, 2.0],
    )
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return diffusers.WanPipeline(
        tokenizer=parts.tokenizer(),
        text_encoder=parts.umt5(),
        vae=autoencoder,
        scheduler=scheduler,
        transformer=_wan_transformer(),
        **options,
    )


def wan() -> DiffusionPipeline:
    return _wan()


def wan_two() -> DiffusionPipeline:
    """Wan 2.2 A14B: another transformer for low noise."""
    return _wan(transformer_2=_wan_transformer(), boundary_ratio=0.875)


def wan_tokens() -> DiffusionPipeline:
    """Wan 2.2 5B: a timestep for every token."""
    return _wan(expand_timesteps=True)


def cogvideox() -> DiffusionPipeline:
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=WIDTH,
        num_layers=1,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=16,
    )
    autoencoder = diffusers.AutoencoderKLCogVideoX(
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    return diffusers.CogVideoXPipeline(
        tokenizer=parts.tokenizer(),
        text_encoder=parts.t5(),
        vae=autoencoder,
        transformer=transformer,
        scheduler=scheduler,
    )


def hunyuan_video() -> DiffusionPipeline:
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=WIDTH,
        pooled_projection_dim=32,
        rope_axes_dim=(2, 4, 4),
    )
    autoencoder = diffusers.AutoencoderKLHunyuanVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        act_fn="silu",
        norm_num_groups=4,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )
    return diffusers.HunyuanVideoPipeline(
        text_encoder=parts.llama(),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
        vae=autoencoder,
        scheduler=parts.flow(shift=7.0),
        text_encoder_2=clip_text_encoder(transformers.CLIPTextModel),
        tokenizer_2=clip_tokenizer(),
    )


def mochi() -> DiffusionPipeline:
    transformer = diffusers.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        out_channels=None,
        qk_norm="rms_norm",
        text_embed_dim=WIDTH,
        time_embed_dim=4,
        activation_fn="swiglu",
        max_sequence_length=16,
    )
    autoencoder = diffusers.AutoencoderKLMochi(
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        latents_mean=[0.1] * 12,
        latents_std=[1.5] * 12,
    )
    return diffusers.MochiPipeline(
        scheduler=parts.flow(invert_sigmas=True),
        vae=autoencoder,
        text_encoder=parts.t5(),
        tokenizer=parts.tokenizer(),
        transformer=transformer,
    )


def svd() -> DiffusionPipeline:
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
        num_frames=3,
    )
    autoencoder = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=[32, 32, 32, 32],
        down_block_types=["DownEncoderBlock2D"] * 4,
        latent_channels=4,
    )
    eyes = transformers.CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=224,
        intermediate_size=37,
        patch_size=56,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    return diffusers.StableVideoDiffusionPipeline(
        vae=autoencoder,
        image_encoder=transformers.CLIPVisionModelWithProjection(eyes).eval(),
        unet=unet,
        scheduler=scheduler,
        feature_extractor=transformers.CLIPImageProcessor(crop_size=224, size={"shortest_edge": 224}),
    )


BUILDERS = {
    "hidream": hidream,
    "z_image": z_image,
    "qwen_image": qwen_image,
    "flux2_klein": flux2_klein,
    "latte": latte,
    "ltx": ltx,
    "ltx_noisy": ltx_noisy,
    "ltx_picture": ltx_picture,
    "wan": wan,
    "wan_two": wan_two,
    "wan_tokens": wan_tokens,
    "cogvideox": cogvideox,
    "hunyuan_video": hunyuan_video,
    "mochi": mochi,
    "svd": svd,
}
