"""A small CLIP on scenes and their captions, where a caption fits every scene of which all that it states is true."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer

from data.bundled.recipe.build_dataset import train_tokenizer
from data.bundled.recipe.common import Stage
from data.bundled.recipe.dataset import to_unit, tokenize
from data.bundled.recipe.learning import Learner
from data.bundled.recipe.train_clip import build_clip, save_clip
from data.scenes.recipe.attributes import KINDS, Asked, questions
from data.scenes.recipe.grammar import Caption, all_words, full_caption, sample_caption
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.scene import Scene, training_scene
from data.scenes.recipe.train_autoencoder import load_pictures


def make_tokenizer(stage: Stage) -> CLIPTokenizer:
    """Return the tokenizer of the grammar's words; any other word is split into known pieces, bytes at worst.

    The config's `tokenizer` names a saved one, which weights that go on being trained need.
    """
    folder, given = stage.work / "tokenizer", stage.config["dataset"].get("tokenizer")
    if not folder.exists() and given:
        shutil.copytree(given, folder)
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


def choose_questions(scenes: list[Scene], rng: random.Random, most: dict[str, int]) -> list[tuple[int, Asked]]:
    """Return questions with the index of their scene: of each kind all that can be asked, or as many as `most` says.

    Colours have other texts for each thing, so that only some of them are worth their cost in every step.
    """
    asked = [(i, question) for i, scene in enumerate(scenes) for question in questions(full_caption(scene))]
    rng.shuffle(asked)
    chosen: list[tuple[int, Asked]] = []
    for kind in KINDS:
        own = [pair for pair in asked if pair[1].kind == kind]
        chosen += own[: most.get(kind, len(own))]
    return chosen


def question_loss(
    pictures: torch.Tensor,
    texts: torch.Tensor,
    place: dict[str, int],
    asked: list[tuple[int, Asked]],
    scale: float,
) -> tuple[torch.Tensor, float]:
    """Return the mean cross-entropy of the questions, each kind counting the same, and the share answered right.

    Args:
        pictures: unit vectors (n, d).
        texts: unit vectors (m, d) of all the questions' texts.
        place: text to its row in `texts`.
        asked: index of the picture and the question.
        scale: what cosines are multiplied by.
    """
    groups: dict[tuple[str, ...], list[tuple[int, Asked]]] = {}
    for pair in asked:
        groups.setdefault(pair[1].texts, []).append(pair)
    losses: dict[str, list[torch.Tensor]] = {}
    hits = 0
    for shared, pairs in groups.items():
        rows = torch.tensor([place[text] for text in shared], device=texts.device)
        index = torch.tensor([i for i, _ in pairs], device=texts.device)
        target = torch.tensor([question.right for _, question in pairs], device=texts.device)
        logits = scale * pictures[index] @ texts[rows].T
        losses.setdefault(pairs[0][1].kind, []).append(F.cross_entropy(logits, target, reduction="none"))
        hits += int((logits.argmax(1) == target).sum())
    return torch.stack([torch.cat(own).mean() for own in losses.values()]).mean(), hits / len(asked)


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


def warm_start(model: CLIPModel, folder: Path) -> int:
    """Copy the weights of a saved CLIP that fit by name and shape; returns how many numbers were copied."""
    own, copied = model.state_dict(), 0
    for name, weight in CLIPModel.from_pretrained(folder).state_dict().items():
        if name in own and own[name].shape == weight.shape:
            own[name].copy_(weight)
            copied += weight.numel()
    return copied


def pooled(output: Any) -> torch.Tensor:
    """Return the projected vectors, whatever this version of transformers wraps them in."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def embed_texts(model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return projected vectors (n, d) of texts, padded only to the longest of them."""
    ids = tokenize(tokenizer, texts)
    longest = int((ids != tokenizer.eos_token_id).sum(1).max()) + 1
    return pooled(model.get_text_features(input_ids=ids[:, :longest].to(model.device)))


def step_loss(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    pictures: torch.Tensor,
    scenes: list[Scene],
    rng: random.Random,
    bf16: bool,
) -> tuple[torch.Tensor, float]:
    """Return the loss of a batch, half captions and half questions, and the share of questions answered right."""
    captions = [sample_caption(scene, rng) for scene in scenes]
    asked = choose_questions(scenes, rng, {"colour": 14})
    texts = sorted({text for _, question in asked for text in question.texts})
    with torch.autocast(pictures.device.type, torch.bfloat16, enabled=bf16):
        seen = model.get_image_features(pixel_values=pictures)
        stated = embed_texts(model, tokenizer, [caption.text for caption in captions])
        known = embed_texts(model, tokenizer, texts)
    vectors = [F.normalize(x.float(), dim=-1) for x in (pooled(seen), stated, known)]
    scale = model.logit_scale.exp()
    matching, _ = matching_loss(scale * vectors[0] @ vectors[1].T, fits(captions, scenes).to(pictures.device))
    place = {text: row for row, text in enumerate(texts)}
    answering, right = question_loss(vectors[0], vectors[2], place, asked, scale)
    return (matching + answering) / 2, right


def run(stage: Stage, pause: Pause | None = None) -> float:
    """Train and write `work/clip`; returns the running share of questions answered right."""
    table, pause = stage.table, pause or Pause()
    pictures, tokenizer = load_pictures(stage), make_tokenizer(stage)
    first = int(stage.config["dataset"].get("first_seed", 0))
    model = build_clip(stage, tokenizer, pictures.shape[-1])
    if start := table.get("start"):
        print(f"begins with {warm_start(model, Path(start)):,} numbers of {start}", flush=True)
    model = model.to(stage.device).train()
    model.set_attn_implementation("eager")  # plain products: going back through them takes half the time on a CPU
    optimizer = torch.optim.AdamW(model.parameters(), lr=table["learning_rate"], weight_decay=0.05, betas=(0.9, 0.98))
    learner = Learner(model, optimizer, table, stage.path("checkpoints/clip.pt"), ema_decay=0.99, warmup_steps=30)
    learner.clamp = lambda: model.logit_scale.data.clamp_(0, 4.6)  # a hundred at most, as in CLIP
    seed, accuracy = stage.seed + learner.budget.step, 0.0
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    while (factor := learner.factor()) > 0:
        pause.wait(learner)
        index = np.sort(torch.randint(len(pictures), (table["batch"],), generator=generator).numpy())
        seen = vary(to_unit(torch.from_numpy(pictures[index])), generator).to(stage.device)
        scenes = [training_scene(first + i) for i in index.tolist()]
        loss, right = step_loss(model, tokenizer, seen, scenes, rng, table.get("bfloat16", False))
        learner.step(loss, factor)
        accuracy += (right - accuracy) * max(0.05, 1 / learner.budget.step)
        if learner.budget.step % 10 == 0:
            step, seconds = learner.budget.step, learner.budget.seconds
            print(f"clip {step} {seconds:.0f}s loss {loss.item():.3f} right {accuracy:.3f}", flush=True)
    learner.save()
    learner.ema.copy_to(model)
    shutil.rmtree(stage.work / "clip", ignore_errors=True)
    save_clip(model, tokenizer, stage.path("clip"))
    return accuracy
