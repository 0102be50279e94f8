"""Paints pictures ahead; a run that was cut off goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from data.bundled.recipe.common import Stage, write_json
from data.scenes.recipe.painter import Painter
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.scene import training_scene
from data.scenes.recipe.sprites import Sprites

CHUNK = 500


def paint_each(painter: Painter, seeds: range) -> Iterator[np.ndarray]:
    """Yield the training scene of each seed as uint8 (3, size, size)."""
    for seed in seeds:
        yield painter.paint(training_scene(seed)).transpose(2, 0, 1)


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
        pictures[done:end] = np.stack(list(paint_each(painter, range(first + done, first + end))))
        pictures.flush()
        done = end
        write_json(note, {"done": done})
        print(f"painted {done} of {count}", flush=True)
    return count
