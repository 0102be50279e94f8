"""The scenes recipe runs from emoji packages to a loadable pipeline, at tiny sizes and without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data.bundled.recipe import common
from data.scenes.recipe import encode, paint, train_autoencoder, train_clip, train_denoiser
from data.scenes.recipe.vocabulary import STYLES, THINGS

TINY: dict[str, Any] = {
    "seed": 0,
    "dataset": {
        "size": 16,
        "sprite_size": 16,
        "caption_tokens": 24,
        "vocabulary_size": 560,
        "pictures": 8,
        "latents": 12,
        "shard": 8,
        "source": [{"package": "pictures@1", "folder": "png", "suffix": ".png", "style": style} for style in STYLES],
    },
    "autoencoder": {
        "steps": 2,
        "batch": 2,
        "learning_rate": 1e-3,
        "channels": [8, 16],
        "layers": 1,
        "latent_channels": 4,
        "kl_weight": 1e-4,
    },
    "clip": {
        "steps": 2,
        "batch": 4,
        "learning_rate": 1e-3,
        "projection": 16,
        "text": {"width": 32, "layers": 1, "heads": 2},
        "image": {"width": 32, "layers": 1, "heads": 2, "patch": 8},
    },
    "denoiser": {
        "steps": 2,
        "batch": 4,
        "learning_rate": 1e-3,
        "channels": [32, 64],
        "attention": [False, True],
        "layers": 1,
        "head_width": 16,
        "finish": {"steps": 1, "hold": 0.0},
    },
}


def make_packages(work: Path) -> None:
    """Write a package with a picture of every thing as `npm pack` would leave it."""
    folder = work / "packages/pictures@1/png"
    folder.mkdir(parents=True)
    for number, thing in enumerate(THINGS.values()):
        image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
        ImageDraw.Draw(image).ellipse((4, 4, 27, 27), fill=(number * 37 % 256, number * 91 % 256, 80))
        image.save(folder / f"{thing.code}.png")


def stage(name: str, work: Path, **changes: Any) -> common.Stage:
    return common.open_stage(name, TINY | {name: TINY[name] | changes}, work, "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after a few steps of every stage."""
    work = tmp_path_factory.mktemp("scenes")
    make_packages(work)
    paint.run(stage("dataset", work))
    train_autoencoder.run(stage("autoencoder", work))
    train_clip.run(stage("clip", work))
    encode.run(stage("dataset", work))
    train_denoiser.run(stage("denoiser", work))
    train_denoiser.finish(stage("denoiser", work))
    return work


def test_every_stage_leaves_its_part(trained: Path) -> None:
    assert np.load(trained / "pictures.npy").shape == (8, 3, 16, 16)
    latents = [np.load(path) for path in encode.shards(trained)]
    assert [part.shape for part in latents] == [(8, 4, 8, 8), (4, 4, 8, 8)]
    for part in ("autoencoder", "clip", "denoiser", "text_encoder"):
        assert (trained / part / "config.json").is_file()
