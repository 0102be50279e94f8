"""Paints clips ahead and keeps them as pictures; a run that was cut off goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np

from data.bundled.recipe.common import Stage, write_json
from data.scenes.recipe.pause import Pause
from data.video.recipe.clip_painter import ClipPainter
from data.video.recipe.clips import FRAMES, training_clip

CHUNK = 100


def paint_many(painter: ClipPainter, seeds: Iterable[int]) -> np.ndarray:
    """Return the frames of the training clips of the seeds, one clip after the other, as uint8 (n, 3, side, side)."""
    return np.concatenate([painter.paint(training_clip(seed)) for seed in seeds])


def run(stage: Stage, pause: Pause | None = None) -> int:
    """Write `work/pictures.npy`, the frames of the first `pictures` clips; returns how many frames it has."""
    count, pause = int(stage.require("pictures")), pause or Pause()
    painter = ClipPainter.from_packages(stage)
    path, note = stage.path("pictures.npy"), stage.path("pictures.json")
    done = json.loads(note.read_text(encoding="utf-8"))["done"] if note.exists() and path.exists() else 0
    shape = (count * FRAMES, 3, painter.side, painter.side)
    pictures = np.lib.format.open_memmap(path, "r+" if done else "w+", np.uint8, shape)
    while done < count:
        pause.wait()
        end = min(done + CHUNK, count)
        pictures[done * FRAMES : end * FRAMES] = paint_many(painter, range(done, end))
        pictures.flush()
        done = end
        write_json(note, {"done": done})
    return len(pictures)
