"""Stage 3: a small CLIP on augmented pictures; its text tower conditions the denoiser, all of it scores pictures."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from data.bundled.recipe.augment import augment
from data.bundled.recipe.common import Stage, second_table, stage_from_command_line
from data.bundled.recipe.dataset import CaptionMix, Dataset, load_dataset, load_tokenizer, to_unit, tokenize
from data.bundled.recipe.learning import Learner


def build_clip(stage: Stage, tokenizer: CLIPTokenizer, size: int) -> CLIPModel:
    """Return an untrained CLIPModel with the sizes of the config."""
    text, image = stage.require("text"), stage.require("image")
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    special["pad_token_id"] = tokenizer.pad_token_id

    def tower(table: dict[str, int]) -> dict[str, int]:
        sizes = {"hidden_size": table["width"], "intermediate_size": 4 * table["width"]}
        return sizes | {"num_hidden_layers": table["layers"], "num_attention_heads": table["heads"]}

    projection = stage.require("projection")
    text_config = tower(text) | special | {"vocab_size": len(tokenizer), "projection_dim": projection}
    text_config["max_position_embeddings"] = tokenizer.model_max_length
    vision_config = tower(image) | {"image_size": size, "patch_size": image["patch"], "projection_dim": projection}
    return CLIPModel(CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=projection))


@torch.no_grad()
def reconstructions(stage: Stage, pictures: torch.Tensor, noise_levels: list[float]) -> torch.Tensor:
    """Return uint8 (levels, n, 3, h, w): pictures through the autoencoder with noise added to their latents."""
    autoencoder = AutoencoderKL.from_pretrained(stage.need("autoencoder", "train_autoencoder")).eval()
    generator = torch.Generator().manual_seed(stage.seed)
    levels = []
    for level in noise_levels:
        decoded = []
        for chunk in pictures.split(64):
            latents = autoencoder.encode(to_unit(chunk)).latent_dist.mean
            noise = torch.randn(latents.shape, generator=generator) * latents.std()
            decoded.append(autoencoder.decode(latents + level * noise).sample.clamp(-1, 1))
        levels.append(torch.cat(decoded).add(1).mul(127.5).round().to(torch.uint8))
    return torch.stack(levels)


def contrastive_loss(model: CLIPModel, pictures: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the symmetric CLIP loss of n pairs and the share of pictures matched to their own caption."""
    output = model(input_ids=ids, pixel_values=pictures)
    logits = output.logits_per_image
    target = torch.arange(len(logits), device=logits.device)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return loss, (logits.argmax(1) == target).float().mean().item()


def draw_batch(dataset: Dataset, size: int, mix: CaptionMix, rng: random.Random) -> tuple[list[int], list[str]]:
    """Return indices of different pictures and their captions.

    Where a concept comes in several styles, its captions say which, so that no caption fits two pictures.
    """
    index = rng.sample(range(len(dataset)), min(size, len(dataset)))
    seen = Counter(dataset.concepts[i].label for i in index)
    concepts = [dataset.concepts[i] for i in index]
    return index, [mix.sample(c, rng, name_style=seen[c.label] > 1) for c in concepts]


def save_clip(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the model and its tokenizer so that readers never see half of it."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


@dataclass(frozen=True)
class ClipLeg:
    """A part of the training: its table in the config and whether the text tower learns."""

    name: str
    table: dict[str, Any]
    text_learns: bool

    def checkpoint(self, stage: Stage) -> Path:
        """Return where the leg keeps its state."""
        return stage.path(f"checkpoints/{self.name}.pt")


def legs(stage: Stage) -> list[ClipLeg]:
    """Return both towers together first, then, if the config has `judge`, the image tower alone.

    The denoiser depends on the text tower, so only the first leg changes it.
    """
    both = ClipLeg("clip", stage.table, text_learns=True)
    judge = second_table(stage.table, "judge")
    return [both] if judge is None else [both, ClipLeg("clip_judge", judge, text_learns=False)]


def train_leg(stage: Stage, leg: ClipLeg, model: CLIPModel, tokenizer: CLIPTokenizer, views: torch.Tensor) -> float:
    """Train `model` in place, ending with the mean of its weights; returns the running accuracy within a batch.

    Args:
        views: uint8 (versions, n, 3, h, w), the dataset's pictures as they are and as the autoencoder returns them.
    """
    dataset = load_dataset(stage)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(leg.text_learns or not name.startswith(("text_model", "text_projection")))
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=leg.table["learning_rate"], weight_decay=0.05, betas=(0.9, 0.98))
    learner = Learner(model, optimizer, leg.table, leg.checkpoint(stage), ema_decay=0.99, warmup_steps=50)
    learner.clamp = lambda: model.logit_scale.data.clamp_(0, 4.6)  # a hundred at most, as in CLIP
    mix, accuracy = CaptionMix(**leg.table["captions"]), 0.0
    rng = random.Random(stage.seed + learner.budget.step)
    generator = torch.Generator().manual_seed(stage.seed + learner.budget.step)
    while (factor := learner.factor()) > 0:
        index, captions = draw_batch(dataset, leg.table["batch"], mix, rng)
        chosen = views[torch.randint(len(views), (len(index),), generator=generator), index]
        pictures = augment(to_unit(chosen).to(stage.device), generator, leg.table.get("strength", 1.0))
        loss, hit = contrastive_loss(model, pictures, tokenize(tokenizer, captions).to(stage.device))
        learner.step(loss, factor)
        step = learner.budget.step
        accuracy += (hit - accuracy) * max(0.02, 1 / step)
        if step % 20 == 0:
            print(f"{leg.name} {step} {learner.budget.seconds:.0f}s accuracy {accuracy:.3f}", flush=True)
    learner.save()
    learner.ema.copy_to(model)
    return accuracy


def run(stage: Stage) -> float:
    """Train and write `work/clip` after each leg; returns the last running accuracy within a batch."""
    dataset, tokenizer = load_dataset(stage), load_tokenizer(stage)
    model = build_clip(stage, tokenizer, dataset.pictures.shape[-1])
    if start := stage.table.get("start"):
        model = CLIPModel.from_pretrained(Path(start)).float()
    model = model.to(stage.device).train()
    accuracy, planned = 0.0, legs(stage)
    for leg, following in zip(planned, [*planned[1:], None], strict=True):
        views = dataset.pictures[None]
        if levels := leg.table.get("latent_noise"):
            views = torch.cat([views, reconstructions(stage, dataset.pictures, levels)])
        accuracy = train_leg(stage, leg, model, tokenizer, views)
        if following is None or not following.checkpoint(stage).exists():  # a resumed run keeps the later result
            save_clip(model, tokenizer, stage.path("clip"))
    return accuracy


if __name__ == "__main__":
    run(stage_from_command_line("train_clip"))
