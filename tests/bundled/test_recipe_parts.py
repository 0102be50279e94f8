"""The recipe's building blocks, each alone: optimiser, loss weight, augmentation, captions, budget."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from data.bundled.recipe import common, train_autoencoder, train_clip, train_denoiser
from data.bundled.recipe.augment import augment
from data.bundled.recipe.dataset import CaptionMix, Concept, Dataset
from data.bundled.recipe.learning import Learner
from data.bundled.recipe.muon import orthogonalize


def test_muon_makes_updates_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 24, 64)))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_loss_weight_is_one_at_high_noise_and_falls_at_low_noise() -> None:
    scheduler = train_denoiser.build_scheduler()
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    weight = train_denoiser.loss_weight(scheduler, torch.tensor([0, 999]), 5.0)
    assert torch.allclose(weight, torch.tensor([5 / (snr[0] + 1), 1.0]))


def test_augmented_pictures_differ_but_stay_in_range_on_white() -> None:
    pictures = torch.ones(8, 3, 32, 32)
    pictures[:, :, 12:20, 12:20] = -1
    changed = augment(pictures, torch.Generator().manual_seed(0))
    assert changed.abs().max() <= 1
    assert changed[:, :, :2, :2].mean() > 0.8
    assert not torch.allclose(changed[0], changed[1])
    assert (changed.flatten(1).min(1).values < -0.3).sum() >= 6  # the object is still there


def test_captions_keep_their_shares_and_name_the_concept() -> None:
    concept, rng = Concept("red apple", ("fruit", "food"), "3d"), random.Random(0)
    mix = CaptionMix(label=0.5, label_and_tag=0.2, tags=0.2, style=0.0)
    captions = [mix.sample(concept, rng) for _ in range(2000)]
    assert 0.45 < captions.count("red apple") / 2000 < 0.55
    assert 0.07 < captions.count("") / 2000 < 0.13
    assert {c for c in captions if "," in c} == {"red apple, fruit", "red apple, food"}
    led = CaptionMix(label=1.0, label_and_tag=0.0, tags=0.0, style=1.0, lead=1.0)
    assert all(led.sample(concept, rng).endswith(" red apple, 3d style") for _ in range(20))


def test_a_caption_names_the_style_when_it_must() -> None:
    concept, rng = Concept("red apple", ("fruit",), "3d"), random.Random(0)
    mix = CaptionMix(label=0.4, label_and_tag=0.2, tags=0.2)
    captions = {mix.sample(concept, rng, name_style=True) for _ in range(200)}
    expected = {"red apple, 3d style", "red apple, fruit, 3d style", "fruit, 3d style", "3d style"}
    assert captions == expected


def test_pictures_of_one_concept_in_a_batch_have_captions_with_their_styles() -> None:
    concepts = tuple(Concept(label, (), style) for label in ("owl", "fox") for style in ("3d", "noto"))
    dataset = Dataset(torch.zeros(4, 3, 8, 8), concepts)
    mix = CaptionMix(label=1.0, label_and_tag=0.0, tags=0.0)
    index, captions = train_clip.draw_batch(dataset, 4, mix, random.Random(0))
    assert sorted(index) == [0, 1, 2, 3]
    assert sorted(captions) == ["fox, 3d style", "fox, noto style", "owl, 3d style", "owl, noto style"]
    assert train_clip.draw_batch(dataset, 1, mix, random.Random(0))[1][0] in {"owl", "fox"}


def test_varied_pictures_are_shifted_mirrored_or_recoloured_without_resampling() -> None:
    torch.manual_seed(0)
    picture = torch.ones(3, 16, 16)
    picture[0, 6:10, 6:9] = -1.0
    varied = train_autoencoder.vary(picture.expand(40, -1, -1, -1), reach=4)
    assert set(varied.unique().tolist()) == {-1.0, 1.0}
    assert (varied < 0).sum((1, 2, 3)).tolist() == [12] * 40
    assert len({tuple(p.flatten().tolist()) for p in varied}) > 20


def test_learner_clamps_before_the_mean_sees_the_weights_and_resumes(tmp_path: Path) -> None:
    def learner(steps: int) -> Learner:
        module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(module.weight)
        table = {"steps": steps, "learning_rate": 1.0, "warmup_steps": 1}
        optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
        made = Learner(module, optimizer, table, tmp_path / "state.pt", ema_decay=0.9, warmup_steps=50)
        made.clamp = lambda: module.weight.data.clamp_(-0.25, 0.25)
        return made

    first = learner(4)
    while (factor := first.factor()) > 0:
        first.step(first.module(torch.ones(1, 1)).sum(), factor)
    assert first.module.weight.item() == -0.25  # each step would have moved it by up to 1
    assert -0.25 <= first.ema.shadow[0].item() < 0
    first.save()
    again = learner(6)
    assert again.resumed
    assert again.budget.step == 4
    assert again.module.weight.item() == -0.25


def test_budget_ends_by_steps_and_warms_up_then_falls() -> None:
    budget = common.Budget(minutes=None, steps=10)
    rates = []
    while budget.progress < 1:
        rates.append(budget.rate(warmup_steps=2, hold=0.5))
        budget.tick()
    assert len(rates) == 10
    assert rates[0] == 0.5
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.2)
    assert budget.rate(2) == 0.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_both_optimisers_lower_the_error_of_a_fixed_batch(tmp_path: Path, optimizer: str) -> None:
    table: dict[str, Any] = {
        "optimizer": optimizer,
        "learning_rate": 3e-3,
        "channels": [32, 64],
        "attention": [False, True],
    }
    table |= {"layers": 1, "head_width": 16}
    settings = common.open_stage("denoiser", {"denoiser": table}, tmp_path, "cpu")
    torch.manual_seed(0)
    unet: UNet2DConditionModel = train_denoiser.build_unet(settings, 4, 8, 32)
    optimiser = train_denoiser.make_optimizer(settings, unet)
    latents, text = torch.randn(4, 4, 8, 8), torch.randn(4, 8, 32)
    errors = []
    for _ in range(8):
        torch.manual_seed(1)
        loss, error = train_denoiser.denoising_loss(unet, train_denoiser.build_scheduler(), latents, text, 5.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(error)
    assert errors[-1] < 0.9 * errors[0]


def test_the_error_counts_where_it_is_said_to_count() -> None:
    class Silent(torch.nn.Module):
        def forward(self, latents: torch.Tensor, times: torch.Tensor, text: torch.Tensor) -> Any:
            return SimpleNamespace(sample=torch.zeros_like(latents))

    def losses(places: torch.Tensor | None) -> tuple[float, float]:
        torch.manual_seed(0)
        scheduler = train_denoiser.build_scheduler()
        loss, error = train_denoiser.denoising_loss(Silent(), scheduler, latents, latents, 5.0, places=places)
        return float(loss), error

    torch.manual_seed(1)
    latents = torch.randn(4, 2, 4, 4)
    latents[..., :2] *= 5
    left = torch.ones(4, 1, 4, 4)
    left[..., 2:] = 0
    assert losses(3 * torch.ones(4, 1, 4, 4)) == pytest.approx(losses(None))
    assert losses(left)[0] > 1.3 * losses(None)[0] > 1.3 * losses(1 - left)[0]
    assert losses(left)[1] == losses(None)[1], "the error that is reported stays the plain one"
