"""The video model as it ships: it is small, it loads, its clips move, and its CLIP is the bundled model's."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import LattePipeline
from diffusers.utils import logging

from engine.measuring.clip import find_clip
from engine.study.source import BUNDLED, BUNDLED_VIDEO, find_model


def test_the_folder_is_small_and_lists_ten_held_out_captions() -> None:
    weights = [path.stat().st_size for path in BUNDLED_VIDEO.rglob("*.safetensors")]
    assert 0 < sum(weights) < 8e6
    listed = json.loads((BUNDLED_VIDEO / "held_out.json").read_text(encoding="utf-8"))
    assert len(set(listed)) == 10
    pool = (Path(BUNDLED_VIDEO).parent / "prompts/video_50.txt").read_text(encoding="utf-8").splitlines()
    assert set(listed) < set(pool)


def test_it_is_found_by_name_and_judged_by_the_bundled_clip() -> None:
    source = find_model("bundled_video")
    assert (source.family.key, source.size) == ("latte", (64, 64))
    assert find_clip(source) == BUNDLED / "clip"


def test_a_clip_of_a_held_out_caption_has_eight_frames_and_grows() -> None:
    logging.set_verbosity_error()
    pipe = LattePipeline.from_pretrained(BUNDLED_VIDEO)
    pipe.set_progress_bar_config(disable=True)
    options = {"video_length": 8, "width": 64, "height": 64, "clean_caption": False, "output_type": "pt"}
    generator = torch.Generator().manual_seed(0)
    frames = pipe("a pear grows", num_inference_steps=8, guidance_scale=3.0, generator=generator, **options).frames[0]
    assert frames.shape == (8, 3, 64, 64)
    assert float(frames.diff(dim=0).abs().mean()) > 0.01
    ink = (frames < 0.8).any(1).float().mean((1, 2))  # what is not white
    assert ink[-1] > 1.5 * ink[0], "it grows"
