"""Takes up a finished model into a work folder, so that any stage can go on from it."""

from __future__ import annotations

import shutil
from pathlib import Path

from data.bundled.recipe.common import RecipeError, Stage
from data.scenes.recipe.pause import Pause

PARTS = {"vae": "autoencoder", "unet": "denoiser"} | {name: name for name in ("clip", "text_encoder", "tokenizer")}


def run(stage: Stage, pause: Pause | None = None) -> list[str]:
    """Copy the parts of the folder `model` that the work folder does not have; returns the names of those copied."""
    del pause
    source = Path(stage.require("model"))
    copied = []
    for part, name in PARTS.items():
        if not (source / part).is_dir():
            raise RecipeError(f"{source} has no {part}; [begin] 'model' should name a finished model.")
        if not (stage.work / name).exists():
            shutil.copytree(source / part, stage.path(name))
            copied.append(name)
    return copied
