"""A small CLIP on scenes and their captions, where a caption fits every scene of which all that it states is true."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer

from data.bundled.recipe.build_dataset import train_tokenizer
from data.bundled.recipe.common import Stage
from data.bundled.recipe.dataset import tokenize
from data.bundled.recipe.learning import Learner
from data.bundled.recipe.train_clip import build_clip, save_clip
from data.scenes.recipe.grammar import Caption, all_words, sample_caption
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.scene import Scene, training_scene
from data.scenes.recipe.train_autoencoder import load_pictures


def make_tokenizer(stage: Stage) -> CLIPTokenizer:
    """Return the tokenizer of the grammar's words; any other word is split into known pieces, bytes at worst."""
    folder = stage.work / "tokenizer"
    if not folder.exists():
        words = [{"label": phrase, "tags": [], "style": "soft"} for phrase in all_words()]
        dataset = Stage("dataset", stage.config["dataset"], stage.config, stage.work, stage.device, stage.seed)
        train_tokenizer(dataset, words, folder)
    return CLIPTokenizer.from_pretrained(folder)


def fits(captions: list[Caption], scenes: list[Scene]) -> torch.Tensor:
    """Return bool (pictures, captions): whether all that the caption states is true of the scene."""
    truths = [scene.facts() for scene in scenes]
    return torch.tensor([[caption.facts <= truth for caption in captions] for truth in truths])


def matching_loss(logits: torch.Tensor, fitting: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the symmetric contrastive loss and the share of pictures whose best caption fits.

    Where several captions fit a picture they share its target evenly, and likewise the pictures of a caption.

    Args:
        logits: (pictures, captions), the i-th caption made for the i-th picture.
        fitting: bool of the same shape.
    """
    rows = fitting.float() / fitting.sum(1, keepdim=True)
    columns = fitting.T.float() / fitting.T.sum(1, keepdim=True)
    loss = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, columns)) / 2
    best = logits.argmax(1, keepdim=True)
    return loss, fitting.gather(1, best).float().mean().item()


def vary(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return pictures in -1 to 1 with a little noise, blur and other brightness, as drawn ones have them."""
    n = len(pictures)

    def draw(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

    small = F.avg_pool2d(pictures, 2)
    soft = F.interpolate(small, size=pictures.shape[-2:], mode="bilinear", align_corners=False)
    mixed = torch.lerp(pictures, soft, draw(-0.4, 1.0).clamp_min(0))
    noise = torch.randn(pictures.shape, generator=generator) * draw(-0.1, 0.15).clamp_min(0)
    return (mixed * draw(0.9, 1.1) + draw(-0.08, 0.08) + noise).clamp(-1, 1)


def run(stage: Stage, pause: Pause | None = None) -> float:
    """Train and write `work/clip`; returns the running share of pictures whose best caption in the batch fits."""
    table, pause = stage.table, pause or Pause()
    pictures, tokenizer = load_pictures(stage), make_tokenizer(stage)
    first = int(stage.config["dataset"].get("first_seed", 0))
    scenes = [training_scene(first + i) for i in range(len(pictures))]
    model = build_clip(stage, tokenizer, pictures.shape[-1])
    if start := table.get("start"):
        model.load_state_dict(CLIPModel.from_pretrained(Path(start)).float().state_dict())
    model = model.to(stage.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=table["learning_rate"], weight_decay=0.05, betas=(0.9, 0.98))
    learner = Learner(model, optimizer, table, stage.path("checkpoints/clip.pt"), ema_decay=0.99, warmup_steps=50)
    learner.clamp = lambda: model.logit_scale.data.clamp_(0, 4.6)  # a hundred at most, as in CLIP
    seed, accuracy = stage.seed + learner.budget.step, 0.0
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    while (factor := learner.factor()) > 0:
        pause.wait(learner)
        index = np.sort(torch.randint(len(pictures), (table["batch"],), generator=generator).numpy())
        seen = torch.from_numpy(pictures[index]).float().div(127.5).sub(1)
        captions = [sample_caption(scenes[i], rng) for i in index]
        fitting = fits(captions, [scenes[i] for i in index]).to(stage.device)
        ids = tokenize(tokenizer, [caption.text for caption in captions]).to(stage.device)
        with torch.autocast(stage.device.type, torch.bfloat16, enabled=table.get("bfloat16", False)):
            output = model(input_ids=ids, pixel_values=vary(seen, generator).to(stage.device))
        loss, hit = matching_loss(output.logits_per_image.float(), fitting)
        saved = learner.step(loss, factor)
        accuracy += (hit - accuracy) * max(0.02, 1 / learner.budget.step)
        if learner.budget.step % 10 == 0:
            step, seconds = learner.budget.step, learner.budget.seconds
            print(f"clip {step} {seconds:.0f}s loss {loss.item():.3f} fitting {accuracy:.3f}", flush=True)
        del saved
    learner.save()
    learner.ema.copy_to(model)
    shutil.rmtree(stage.work / "clip", ignore_errors=True)
    save_clip(model, tokenizer, stage.path("clip"))
    return accuracy
