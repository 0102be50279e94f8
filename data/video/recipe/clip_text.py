"""The tokenizer and the text tower: one token for each word that a caption can have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from data.video.recipe.clips import MOTIONS, THINGS


def make_tokenizer() -> T5Tokenizer:
    """Return a T5 tokenizer that knows the captions' words; any other word is one unknown token."""
    words = sorted({word for thing in THINGS for word in thing.split()} | set(MOTIONS) | {"a", "an"})
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in words)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def build_text_tower(table: dict[str, Any], tokens: int) -> T5EncoderModel:
    """Return an untrained T5 encoder of the size that the config's `text` table says, for `tokens` known tokens."""
    config = T5Config(
        vocab_size=tokens,
        d_model=table["width"],
        d_kv=table["width"] // table["heads"],
        d_ff=table["hidden"],
        num_layers=table["layers"],
        num_heads=table["heads"],
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def token_ids(tokenizer: T5Tokenizer, captions: Sequence[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask (n, length); an empty caption is the end mark and padding.

    LattePipeline cuts the states of its negative prompt to the length of those of the prompt, and hands the denoiser no
    mask: so do we.
    """
    found = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.input_ids, found.attention_mask
