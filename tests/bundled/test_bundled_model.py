"""The shipped model loads with plain diffusers, is small enough to ship, and draws what it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from data.bundled.recipe.evaluate import read_prompts
from data.bundled.recipe.judge import Judge, draw, load_pipeline

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "data/bundled"
PROMPTS = ["red apple", "owl", "rocket", "red heart", "pizza", "sunflower", "crown", "dog face"]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(BUNDLE / "clip", read_prompts(BUNDLE / "vocabulary.txt"))


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline(BUNDLE, torch.device("cpu"))


def test_folder_stays_below_60_mb_and_each_file_below_15_mb() -> None:
    sizes = {p.name: p.stat().st_size for p in BUNDLE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert sum(sizes.values()) <= 60e6
    assert not [name for name, size in sizes.items() if size > 15e6]


def test_it_loads_with_plain_diffusers_with_and_without_the_safety_argument() -> None:
    for options in ({}, {"safety_checker": None}):
        loaded = StableDiffusionPipeline.from_pretrained(BUNDLE, **options)
        assert loaded.safety_checker is None
        assert loaded.unet.config.sample_size * loaded.vae_scale_factor == 64


def test_weights_are_half_precision_safetensors_without_code() -> None:
    assert not list(BUNDLE.rglob("*.bin"))
    assert not list(BUNDLE.rglob("*.pt"))
    for path in BUNDLE.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            names = list(weights.keys())
            kinds = {weights.get_slice(name).get_dtype() for name in names}
        assert kinds <= {"F16", "I64"}, path
    index = json.loads((BUNDLE / "model_index.json").read_text(encoding="utf-8"))
    assert {v[0] for v in index.values() if isinstance(v, list)} <= {"diffusers", "transformers", None}


def test_text_tower_of_clip_is_the_text_encoder(pipeline: StableDiffusionPipeline, judge: Judge) -> None:
    ids = pipeline.tokenizer(["red apple"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        ours = pipeline.text_encoder(ids)[0]
        clips = judge.model.text_model(input_ids=ids)[0]
    assert torch.allclose(ours, clips, atol=1e-3)


def test_prompts_are_drawn_so_that_clip_recognises_them(pipeline: StableDiffusionPipeline, judge: Judge) -> None:
    pictures = draw(pipeline, PROMPTS, guidance=3.0, steps=12, first_seed=0)
    result = judge.recognise(pictures, PROMPTS)
    assert result.top5 >= 7 / 8, result.missed
    assert result.top1 >= 6 / 8, result.missed
    shuffled = judge.recognise(pictures, PROMPTS[1:] + PROMPTS[:1])
    assert shuffled.top1 == 0.0  # the judge does not say yes to everything


def test_same_seed_gives_the_same_picture_and_another_seed_another(pipeline: StableDiffusionPipeline) -> None:
    first, again = (draw(pipeline, ["fox"], 3.0, 6, first_seed=3) for _ in range(2))
    other = draw(pipeline, ["fox"], 3.0, 6, first_seed=4)
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.05


@pytest.mark.parametrize(("name", "count"), [("bundled_96.txt", 96), ("bundled_24.txt", 24)])
def test_prompt_sets_name_known_concepts_once(name: str, count: int) -> None:
    prompts = read_prompts(ROOT / "data/prompts" / name)
    known = read_prompts(BUNDLE / "vocabulary.txt")
    assert len(prompts) == len(set(prompts)) == count
    assert not set(prompts) - set(known)
