"""The recipe's building blocks, each alone: optimiser, loss weight, augmentation, captions, budget."""

from __future__ import annotations

import random

import pytest
import torch

from data.bundled.recipe import common, train_denoiser
from data.bundled.recipe.augment import augment
from data.bundled.recipe.dataset import CaptionMix, Concept
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
