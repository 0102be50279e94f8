"""Miniatures of Kolors, Flux.2 dev and the latent consistency pipeline; see `family_miniatures`."""

import warnings
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from torch import nn

from tests.engine import miniature_parts as parts
from tests.engine.many_part_miniatures import flux2_trunk
from tests.engine.miniatures import SD_SCHEDULER, SDXL_SCHEDULER, clip_text_encoder, clip_tokenizer

WIDTH = parts.WIDTH
TWO_PARTS = (
    "{% for message in messages %}{% for part in message['content'] %}{{ part['text'] }} {% endfor %}{% endfor %}"
)
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def latent_consistency() -> DiffusionPipeline:
    unet = diffusers.UNet2DConditionModel(**UNET, cross_attention_dim=WIDTH, time_cond_proj_dim=32)
    return diffusers.LatentConsistencyModelPipeline(
        vae=parts.vae(),
        text_encoder=clip_text_encoder(transformers.CLIPTextModel),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=diffusers.LCMScheduler.from_config(SD_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class PlacedWords(transformers.PreTrainedTokenizerFast):
    """Words with their places, and padding before them, as the tokenizer of ChatGLM answers."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = super().__call__(*args, **kwargs)
        found["position_ids"] = (found["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        return found


def kolors() -> DiffusionPipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the module asks torch for a compiler of old
        from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    plain = parts.tokenizer()
    marks = {name: getattr(plain, name) for name in ("pad_token", "eos_token", "bos_token", "unk_token")}
    words = PlacedWords(tokenizer_object=plain.backend_tokenizer, model_max_length=64, padding_side="left", **marks)
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=16,
        hidden_size=WIDTH,
        ffn_hidden_size=32,
        kv_channels=16,
        num_attention_heads=2,
        seq_length=64,
        add_qkv_bias=True,
        original_rope=True,
    )
    encoder = parts.stirred(ChatGLMModel(config).float().eval())
    for name, parameter in encoder.named_parameters():
        if "norm" in name:
            nn.init.ones_(parameter)  # the class leaves them as the memory was
    unet = diffusers.UNet2DConditionModel(
        **UNET,
        cross_attention_dim=WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    return diffusers.KolorsPipeline(
        vae=parts.vae(),
        text_encoder=encoder,
        tokenizer=words,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler.from_config(SDXL_SCHEDULER),
    )


def flux2() -> DiffusionPipeline:
    words = parts.tokenizer()
    words.chat_template = TWO_PARTS
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**parts.decoder_only(num_hidden_layers=3)),
        vision_config=transformers.PixtralVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
    )
    with torch.no_grad():
        encoder = parts.stirred(transformers.Mistral3ForConditionalGeneration(config).eval())
    return diffusers.Flux2Pipeline(text_encoder=encoder, tokenizer=words, **flux2_trunk(guidance=True))


BUILDERS = {"latent_consistency": latent_consistency, "kolors": kolors, "flux2": flux2}
