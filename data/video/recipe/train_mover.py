"""The denoiser of clips and its text tower, trained together on latents of clips painted ahead."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LatteTransformer3DModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from transformers import T5EncoderModel

from data.bundled.recipe.common import Ema, RecipeError, Stage, second_table
from data.bundled.recipe.learning import Learner
from data.bundled.recipe.muon import MuonWithAdamW
from data.scenes.recipe.encode import shards
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.train_denoiser import save_parts, train
from data.video.recipe.clip_text import build_text_tower, make_tokenizer, token_ids
from data.video.recipe.clips import FRAMES, caption, training_clip

# Not hidden matrices of the network: tables, embeddings, first and last layers. They learn with AdamW.
EDGES = ("pos_embed", "proj_out", "adaln_single", "scale_shift_table", "shared", "embed_tokens", "relative_attention")
Text = tuple[torch.Tensor, torch.Tensor]


class Mover(torch.nn.Module):
    """The text tower and the transformer as one module: latents, times and tokens go in, v comes out."""

    def __init__(self, transformer: LatteTransformer3DModel, text: T5EncoderModel) -> None:
        super().__init__()
        self.transformer, self.text = transformer, text

    def forward(self, latents: torch.Tensor, times: torch.Tensor, text: Text) -> Transformer2DModelOutput:
        """Return v, shaped like the latents (n, c, frames, h, w), for prompts given as ids and mask (n, tokens)."""
        states = self.text(input_ids=text[0], attention_mask=text[1])[0]
        both = self.transformer(latents, encoder_hidden_states=states, timestep=times).sample
        return Transformer2DModelOutput(sample=both.chunk(2, dim=1)[0])  # LattePipeline drops the other half


class ClipBatches:
    """Draws latents and captions at random; captions are made again from the clips' seeds.

    All captions of a batch have the same number of tokens, since LattePipeline uses no mask.
    """

    def __init__(self, stage: Stage, seed: int) -> None:
        self.work, self.tokenizer, self.size = stage.work, make_tokenizer(), int(stage.require("batch"))
        self.dropped, self.device = float(stage.table.get("dropped", 0.1)), stage.device
        self.rng = random.Random(seed)
        self.look()

    def look(self) -> None:
        """Take up all shards that are there now; more may have been encoded since the last look."""
        paths = shards(self.work)
        if not paths:
            raise RecipeError(f"{self.work}/latents has no shard. Run `python -m data.video.recipe.run encode` first.")
        self.parts = [np.load(path, mmap_mode="r") for path in paths]
        self.where, self.captions = [], []
        for number, path in enumerate(paths):
            first = int(path.stem.removeprefix("shard-"))
            for i in range(len(self.parts[number])):
                clip = training_clip(first + i)
                self.where.append((number, i))
                self.captions.append(caption(clip.thing, clip.motion))
        self.lengths = [len(ids) for ids in self.tokenizer(self.captions).input_ids]

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, frames, height and width of the latents."""
        return tuple(self.parts[0].shape[1:])

    def _pass(self) -> list[list[int]]:
        """Return batches of equal caption length that hold every clip once."""
        batches = []
        for length in sorted(set(self.lengths)):
            order = [i for i, own in enumerate(self.lengths) if own == length]
            self.rng.shuffle(order)
            order += order[: -len(order) % self.size]  # the last batch is filled up
            batches += [order[i : i + self.size] for i in range(0, len(order), self.size)]
        self.rng.shuffle(batches)
        return batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Text, None]]:
        """Yield latents (b, c, frames, h, w) with token ids and mask (b, tokens) for ever; all places count alike."""
        while True:
            self.look()
            for chosen in self._pass():
                latents = np.stack([self.parts[number][i] for number, i in (self.where[c] for c in chosen)])
                texts = ["" if self.rng.random() < self.dropped else self.captions[c] for c in chosen]
                ids, mask = token_ids(self.tokenizer, texts, self.lengths[chosen[0]])
                text = ids.to(self.device), mask.to(self.device)
                yield torch.from_numpy(latents).float().to(self.device), text, None


def build_transformer(table: dict[str, Any], shape: tuple[int, ...], text_width: int) -> LatteTransformer3DModel:
    """Return an untrained transformer for latents of a shape (channels, frames, height, width)."""
    inner = table["heads"] * table["head_width"]
    transformer = LatteTransformer3DModel(
        num_attention_heads=table["heads"],
        attention_head_dim=table["head_width"],
        in_channels=shape[0],
        out_channels=2 * shape[0],
        num_layers=table["layers"],
        cross_attention_dim=inner,
        attention_bias=True,
        sample_size=shape[-1],
        patch_size=table["patch"],
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=text_width,
        video_length=FRAMES,
    )
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    return transformer


def build(stage: Stage, shape: tuple[int, ...]) -> Mover:
    """Return the module to train."""
    text = build_text_tower(stage.require("text"), len(make_tokenizer()))
    transformer = build_transformer(stage.table, shape, text.config.d_model)
    if stage.device.type == "cpu":
        for module in transformer.modules():
            if isinstance(module, Attention):
                module.set_processor(AttnProcessor())  # plain products, which are quicker for so few tokens
        text.set_attn_implementation("eager")
    return Mover(transformer, text).to(stage.device).train()


def save(mover: Mover, ema: Ema, folders: tuple[Path, Path]) -> None:
    """Write the running mean of the weights as a transformer folder and a text tower folder."""
    transformer = LatteTransformer3DModel.from_config(mover.transformer.config)
    text = T5EncoderModel(mover.text.config)
    ema.copy_to(Mover(transformer, text))
    save_parts((transformer, text), folders)


def run(stage: Stage, pause: Pause | None = None) -> float:
    """Train at a steady rate and write `work/transformer` and `work/text_encoder`; returns the running error of v."""
    batches = ClipBatches(stage, stage.seed)
    mover = build(stage, batches.shape)
    learner = Learner(
        mover,
        MuonWithAdamW(mover, stage.require("learning_rate"), edges=EDGES),
        stage.table,
        stage.path("checkpoints/denoiser.pt"),
        ema_decay=0.995,
        warmup_steps=50,
        hold=1.0,
        save_every=60 * stage.table.get("save_minutes", 3.0),
    )
    batches.rng.seed(stage.seed + learner.budget.step)
    torch.manual_seed(stage.seed + learner.budget.step)
    save_now = partial(save, mover, learner.ema, _folders(stage))
    return train(stage.table, mover, batches, learner, save_now, pause or Pause(), "clips")


def finish(stage: Stage, pause: Pause | None = None) -> float:
    """Train on from the steady training's weights with a rate that falls to nothing."""
    table = second_table(stage.table, "finish")
    if table is None:
        raise RecipeError("[denoiser] has no 'finish' table; video_64.toml has one.")
    batches = ClipBatches(stage, stage.seed + 1)
    mover = build(stage, batches.shape)
    state = torch.load(stage.need("checkpoints/denoiser.pt", "run denoiser"), map_location="cpu", weights_only=True)
    mover.load_state_dict(state["model"])
    optimizer = MuonWithAdamW(mover, table["learning_rate"], edges=EDGES)
    optimizer.load_state_dict(state["optimizer"])
    path = stage.path("checkpoints/finish.pt")
    learner = Learner(mover, optimizer, table, path, ema_decay=0.99, warmup_steps=1)
    batches.rng.seed(stage.seed + 1 + state["step"] + learner.budget.step)
    save_now = partial(save, mover, learner.ema, _folders(stage))
    return train(table, mover, batches, learner, save_now, pause or Pause(), "clips")


def _folders(stage: Stage) -> tuple[Path, Path]:
    return stage.path("transformer"), stage.path("text_encoder")
