"""The scenes model as it ships: it loads, draws what its prompt asks in places and times, and its CLIP tells them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

pytest.importorskip("skia", reason="skia-python needs libEGL and libGL", exc_type=ImportError)

from data.bundled.recipe.dataset import to_unit, tokenize
from data.bundled.recipe.judge import decode, draw_latents, load_pipeline
from data.scenes.recipe.evaluate_variety import pair_distance
from data.scenes.recipe.judge import SceneJudge
from data.scenes.recipe.painter import Painter
from data.scenes.recipe.prompts import README, captions_of, fresh_scenes
from data.scenes.recipe.scene import held_out_pairs
from data.scenes.recipe.sprites import plain_sprites

FOLDER = Path(__file__).parents[2] / "data/scenes"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline(FOLDER, torch.device("cpu"))


@pytest.fixture(scope="module")
def judge() -> SceneJudge:
    return SceneJudge(FOLDER / "clip")


def test_the_folder_is_small_and_lists_what_is_held_out() -> None:
    weights = [path.stat().st_size for path in FOLDER.rglob("*.safetensors")]
    assert sum(weights) < 48e6
    assert max(weights) < 10e6
    listed = json.loads((FOLDER / "held_out.json").read_text(encoding="utf-8"))
    assert [tuple(pair) for pair in listed] == held_out_pairs()


def test_clip_tells_places_and_times_of_painted_scenes(judge: SceneJudge) -> None:
    painter = Painter(plain_sprites(), 64)
    scenes = [replace(scene, items=()) for scene in fresh_scenes(48)]
    pictures = torch.from_numpy(np.stack([painter.paint(scene).transpose(2, 0, 1) for scene in scenes]))
    found = judge.attributes(to_unit(pictures), captions_of(scenes))
    assert found.by_kind["place"][0] >= 0.95
    assert found.by_kind["time"][0] >= 0.95
    assert found.chance < 0.2


def test_drawn_places_and_times_are_found_and_seeds_differ(
    pipeline: StableDiffusionPipeline, judge: SceneJudge
) -> None:
    captions = captions_of([replace(scene, items=()) for scene in fresh_scenes(10)])
    prompts = [caption.text for caption in captions]
    made = [draw_latents(pipeline, prompts, 3.0, 8, seed) for seed in (0, 1000)]
    assert judge.attributes(decode(pipeline, made[0]), captions).found >= 0.9
    assert (pair_distance(*made) > 10).all()


def test_the_first_snippets_prompt_draws_a_garden(pipeline: StableDiffusionPipeline, judge: SceneJudge) -> None:
    pictures = decode(pipeline, draw_latents(pipeline, [README.text] * 4, 3.0, 10, 0))
    assert pictures.shape == (4, 3, 64, 64)
    assert judge.attributes(pictures, [README] * 4).by_kind["place"][0] >= 0.75


def test_unknown_words_are_split(pipeline: StableDiffusionPipeline) -> None:
    ids = tokenize(pipeline.tokenizer, ["a zeppelin over Übersee ☃", "an owl on a beach"])
    assert ids.shape == (2, 32)
    assert ids.max() < pipeline.text_encoder.config.vocab_size
    assert len(set(ids[0].tolist())) > 8
