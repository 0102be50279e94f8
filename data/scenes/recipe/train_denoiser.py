"""The denoiser and its text tower, trained together on latents of scenes painted ahead."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from data.bundled.recipe.common import Ema, RecipeError, Stage, second_table
from data.bundled.recipe.dataset import tokenize
from data.bundled.recipe.learning import Learner
from data.bundled.recipe.train_denoiser import build_scheduler, build_unet, denoising_loss, load_text_tower, warm_start
from data.bundled.recipe.workers import Team, train_together
from data.scenes.recipe.encode import beside, shards
from data.scenes.recipe.grammar import sample_caption
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.scene import training_scene
from data.scenes.recipe.train_clip import make_tokenizer


class LatentBatches(Protocol):
    """Latents with their texts, for ever, `size` at a time."""

    size: int

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any, torch.Tensor | None]]:
        """Yield latents, what the module takes as text, and how much each place counts (None: all the same)."""


class Drawer(torch.nn.Module):
    """The text tower and the UNet as one module: latents, times and token ids go in, v comes out."""

    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, latents: torch.Tensor, times: torch.Tensor, ids: torch.Tensor) -> Any:
        """Return the UNet's output (with `sample`, shaped like the latents) for prompts given as ids (n, tokens)."""
        return self.unet(latents, times, self.text(ids)[0])


class SceneBatches:
    """Draws latents and captions at random; scenes and thus captions are made again from their seeds.

    Args:
        seed: of the order of pictures and of the captions' wording.
    """

    def __init__(self, stage: Stage, tokenizer: CLIPTokenizer, seed: int) -> None:
        self.work = stage.work
        self.look()
        self.tokenizer, self.size = tokenizer, int(stage.require("batch"))
        self.emphasis = float(stage.table.get("things", 1.0))
        self.dropped, self.device = float(stage.table.get("dropped", 0.1)), stage.device
        self.rng = random.Random(seed)

    def look(self) -> None:
        """Take up all shards that are there now; more may have been painted since the last look."""
        paths = shards(self.work)
        if not paths:
            raise RecipeError(f"{self.work}/latents has no shard. Run `python -m data.scenes.recipe.run encode` first.")
        self.parts = [np.load(path, mmap_mode="r") for path in paths]
        self.covered = [np.load(beside(path), mmap_mode="r") for path in paths]
        firsts = [int(path.stem.removeprefix("shard-")) for path in paths]
        self.seeds = [first + i for first, part in zip(firsts, self.parts, strict=True) for i in range(len(part))]
        self.where = [(number, i) for number, part in enumerate(self.parts) for i in range(len(part))]

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of the latents."""
        return tuple(self.parts[0].shape[1:])

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield latents (b, c, h, w), token ids (b, tokens) and weights (b, 1, h, w); each picture once per pass."""
        order: list[int] = []
        while True:
            while len(order) < self.size:
                self.look()
                passed = list(range(len(self.where)))
                self.rng.shuffle(passed)
                order += passed
            chosen, order = order[: self.size], order[self.size :]
            latents, covered = (
                torch.from_numpy(np.stack([kept[number][i] for number, i in (self.where[c] for c in chosen)])).float()
                for kept in (self.parts, self.covered)
            )
            scenes = [training_scene(self.seeds[c]) for c in chosen]
            texts = [sample_caption(scene, self.rng, self.dropped).text for scene in scenes]
            ids = tokenize(self.tokenizer, texts).to(self.device)
            weights = 1 + (self.emphasis - 1) * covered[:, None] / 255
            yield latents.to(self.device), ids, weights.to(self.device)


def build(stage: Stage, shape: tuple[int, ...], tokenizer: CLIPTokenizer) -> Drawer:
    """Return the module to train, begun from what the config's `start` and `text_start` name."""
    table = stage.table
    if table.get("text_start", "clip") == "clip":
        text = load_text_tower(stage)
    else:
        text = CLIPTextModel.from_pretrained(Path(table["text_start"]))
    if text.config.vocab_size != len(tokenizer):
        raise RecipeError(f"[denoiser] the text tower knows {text.config.vocab_size} tokens, not {len(tokenizer)}.")
    unet = build_unet(stage, shape[0], shape[-1], text.config.hidden_size)
    if folder := table.get("start"):
        print(f"begins with {warm_start(unet, Path(folder)):,} numbers of {folder}", flush=True)
    if stage.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # plain products: 78 pictures a second where fused ones gave 70
        text.set_attn_implementation("eager")
    return Drawer(unet, text.float().train().requires_grad_(True)).to(stage.device)


def save(drawer: Drawer, ema: Ema, folders: tuple[Path, Path]) -> None:
    """Write the running mean of the weights as a UNet folder and a text tower folder."""
    unet, text = UNet2DConditionModel.from_config(drawer.unet.config), CLIPTextModel(drawer.text.config)
    ema.copy_to(Drawer(unet, text))
    save_parts((unet, text), folders)


def save_parts(parts: Sequence[Any], folders: Sequence[Path]) -> None:
    """Write models into folders, each replaced as a whole."""
    for part, folder in zip(parts, folders, strict=True):
        partial_folder = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        part.save_pretrained(partial_folder)
        shutil.rmtree(folder, ignore_errors=True)
        partial_folder.rename(folder)


def make_optimizer(drawer: Drawer, table: dict[str, Any]) -> torch.optim.Optimizer:
    """Return AdamW over both parts."""
    options: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 0.01, "fused": True}
    return torch.optim.AdamW(drawer.parameters(), lr=table["learning_rate"], **options)


def train(
    table: dict[str, Any],
    module: torch.nn.Module,
    batches: LatentBatches,
    learner: Learner,
    save: Callable[[], None],
    pause: Pause,
    unit: str = "pictures",
) -> float:
    """Train until the learner's budget is used; returns the running mean square error of v.

    Args:
        table: `gamma` and `bfloat16` of the config.
        module: Text tower and denoiser as one.
        batches: Latents with their texts, for ever.
        learner: Of the module.
        save: Writes the running mean of the weights; called at each checkpoint and at the end.
        pause: Waits while it should.
        unit: What the latents are of.
    """
    scheduler: DDPMScheduler = build_scheduler()
    options = {"gamma": table.get("gamma", 5.0), "bfloat16": table.get("bfloat16", False)}
    mean = math.nan
    for latents, text, weights in batches:
        if learner.due_to_meet and learner.team.leads:
            pause.wait(learner)  # the others wait for the leader
        if (factor := learner.factor()) <= 0:
            break
        loss, error = denoising_loss(module, scheduler, latents, text, **options, places=weights)
        saved = learner.step(loss, factor)
        mean = error if math.isnan(mean) else mean + 0.02 * (error - mean)
        step, seconds, team = learner.budget.step, learner.budget.seconds, learner.team
        if step % 25 == 0 and team.leads:
            seen = step * batches.size * team.size
            print(f"denoiser {step} {seconds:.0f}s error {mean:.4f} {unit} {seen}", flush=True)
        if saved:
            save()
    learner.save()
    if learner.team.leads:
        save()
    return mean


def run(stage: Stage, pause: Pause | None = None) -> None:
    """Train at a steady rate, in as many processes as `workers` says, and write `denoiser` and `text_encoder`."""
    make_tokenizer(stage)
    train_together(stage, partial(_run, pause=pause or Pause()))


def _run(stage: Stage, team: Team, pause: Pause) -> float:
    tokenizer = make_tokenizer(stage)
    batches = SceneBatches(stage, tokenizer, stage.seed)
    drawer = build(stage, batches.shape, tokenizer)
    team.share_weights(drawer)
    learner = Learner(
        drawer,
        make_optimizer(drawer, stage.table),
        stage.table,
        stage.path("checkpoints/denoiser.pt"),
        ema_decay=0.999,
        warmup_steps=200,
        hold=1.0,
        save_every=60 * stage.table.get("save_minutes", 5.0),
        team=team,
    )
    if learner.resumed and team.leads:
        print(f"resumed at step {learner.budget.step}, {learner.budget.seconds:.0f} s", flush=True)
    _scatter(batches, stage.seed + learner.budget.step, team)
    save_now = partial(save, drawer, learner.ema, _folders(stage))
    return train(stage.table, drawer, batches, learner, save_now, pause)


def finish(stage: Stage, pause: Pause | None = None) -> None:
    """Train on from the running mean of the steady training with a rate that falls to nothing.

    Raises:
        RecipeError: the config has no `finish` table, or there was no steady training.
    """
    if second_table(stage.table, "finish") is None:
        raise RecipeError("[denoiser] has no 'finish' table; scenes_64.toml has one.")
    stage.need("checkpoints/denoiser.pt", "run denoiser")
    train_together(stage, partial(_finish, pause=pause or Pause()))


def _finish(stage: Stage, team: Team, pause: Pause) -> float:
    table = second_table(stage.table, "finish") or {}
    tokenizer = make_tokenizer(stage)
    batches = SceneBatches(stage, tokenizer, stage.seed + 1)
    drawer = build(stage, batches.shape, tokenizer)
    state = torch.load(stage.need("checkpoints/denoiser.pt", "run denoiser"), map_location="cpu", weights_only=True)
    drawer.load_state_dict(state["model"])
    optimizer = make_optimizer(drawer, table)
    optimizer.load_state_dict(state["optimizer"])
    path = stage.path("checkpoints/finish.pt")
    learner = Learner(drawer, optimizer, table, path, ema_decay=0.995, warmup_steps=1, team=team)
    _scatter(batches, stage.seed + 1 + state["step"] + learner.budget.step, team)
    save_now = partial(save, drawer, learner.ema, _folders(stage))
    return train(table, drawer, batches, learner, save_now, pause)


def _scatter(batches: SceneBatches, seed: int, team: Team) -> None:
    """Give each member of a team another order of pictures, captions, times and noise."""
    batches.rng.seed(seed + 1_000_003 * team.rank)
    torch.manual_seed(seed + 1_000_003 * team.rank)


def _folders(stage: Stage) -> tuple[Path, Path]:
    return stage.path("denoiser"), stage.path("text_encoder")
