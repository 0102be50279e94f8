"""Parts of tiny pipelines: tokenizers, text encoders, autoencoders and schedulers with random weights."""

import math
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

from tests.engine.miniatures import PIXELS, WORDS

WIDTH = 32
CHAT = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Whole words, for every family that doesn't read with CLIP."""
    vocabulary = ["<pad>", "</s>", "<s>", "<unk>", *WORDS]
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=64, chat_template=CHAT, padding_side="right", **marks
    )


def t5() -> transformers.T5EncoderModel:
    config = transformers.T5Config(
        vocab_size=16, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return stirred(transformers.T5EncoderModel(config).eval())


def umt5() -> transformers.UMT5EncoderModel:
    config = transformers.UMT5Config(
        vocab_size=16, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return stirred(transformers.UMT5EncoderModel(config).eval())


def decoder_only(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 16,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    } | changes


def gemma() -> transformers.Gemma2Model:
    return stirred(transformers.Gemma2Model(transformers.Gemma2Config(**decoder_only())).eval())


def llama(kind: Any = transformers.LlamaModel) -> Any:
    return stirred(kind(transformers.LlamaConfig(**decoder_only())).eval())


def qwen3(layers: int = 3) -> transformers.Qwen3ForCausalLM:
    config = transformers.Qwen3Config(**decoder_only(num_hidden_layers=layers))
    return stirred(transformers.Qwen3ForCausalLM(config).eval())


def qwen_vl() -> transformers.Qwen2_5_VLForConditionalGeneration:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        text_config=decoder_only(rope_parameters=rope),
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
    )
    return stirred(transformers.Qwen2_5_VLForConditionalGeneration(config).eval())


def vae(channels: int = 4, **changes: Any) -> diffusers.AutoencoderKL:
    """8 x 8 px a latent pixel."""
    settings: dict[str, Any] = {
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "norm_num_groups": 4,
        "sample_size": PIXELS,
        "latent_channels": channels,
    }
    return diffusers.AutoencoderKL(**settings | changes)


def shifted_vae(channels: int = 4) -> diffusers.AutoencoderKL:
    return vae(channels, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)


def flow(**config: Any) -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


DYNAMIC: dict[str, Any] = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


@torch.no_grad()
def stirred(module: Any) -> Any:
    """Random weights of a size that keeps signals as large as they came, whatever a class starts with."""
    tables = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.0 if id(parameter) in tables else 1 / math.sqrt(parameter[0].numel()))
        elif "norm" not in name:
            nn.init.normal_(parameter, std=0.1)
    return module
