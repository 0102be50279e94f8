"""Paints pictures ahead; a run that was cut off goes on where it stopped."""

from __future__ import annotations

import json

import numpy as np

from data.bundled.recipe.common import Stage, write_json
from data.scenes.recipe.painter import Painter
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.scene import training_scene
from data.scenes.recipe.sprites import Sprites

CHUNK = 500


def paint_many(painter: Painter, seeds: range, size: int) -> np.ndarray:
    """Return the training scenes of the seeds as uint8 (n, 3, size, size)."""
    pictures = np.empty((len(seeds), 3, size, size), dtype=np.uint8)
    for place, seed in enumerate(seeds):
        pictures[place] = painter.paint(training_scene(seed)).transpose(2, 0, 1)
    return pictures


def run(stage: Stage, pause: Pause | None = None) -> int:
    """Write `work/pictures.npy`; returns how many pictures it has."""
    size, count, pause = int(stage.require("size")), int(stage.require("pictures")), pause or Pause()
    path, note, first = stage.path("pictures.npy"), stage.path("pictures.json"), int(stage.table.get("first_seed", 0))
    done = json.loads(note.read_text(encoding="utf-8"))["done"] if note.exists() and path.exists() else 0
    mode = "r+" if done else "w+"
    pictures = np.lib.format.open_memmap(path, mode, np.uint8, (count, 3, size, size))
    painter = Painter(Sprites.from_packages(stage), size) if done < count else None
    while painter is not None and done < count:
        pause.wait()
        end = min(done + CHUNK, count)
        pictures[done:end] = paint_many(painter, range(first + done, first + end), size)
        pictures.flush()
        done = end
        write_json(note, {"done": done})
        print(f"painted {done} of {count}", flush=True)
    return count
