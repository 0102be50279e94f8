"""Pictures out of a cache, checked: what is no picture, or far too large a one, is left out."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image

from engine.cache import queries
from engine.cache.connection import Connection
from engine.study.cells import evenly_spaced

FORMATS = ("PNG", "WEBP", "JPEG")
MAX_PIXELS = 4096 * 4096
CELLS_AT_ONCE = 8


@dataclass(frozen=True)
class CellPictures:
    """The pictures of one cell.

    Attributes:
        steps: (progress, picture) of its steps of one kind, ascending.
        final: None if there is none.
    """

    steps: tuple[tuple[float, Image.Image], ...] = ()
    final: Image.Image | None = None


def opened(data: bytes) -> Image.Image | None:
    """The picture in some bytes as RGB, or None if it is none of the formats we write, damaged, or too large."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


class StoredPictures(Mapping[str, CellPictures]):
    """Pictures by cell, as the cache holds them: a cell is decoded when it is first asked for, and kept small.

    So the cache can be closed before anything is decoded, and no more than one picture is in memory at its full size.
    """

    def __init__(self, stored: Mapping[str, "_Stored"], side: int, step_side: int) -> None:
        """Final pictures with a longer edge than `side` pixels are scaled down to it, and steps to `step_side`."""
        self._stored, self._sides = dict(stored), (side, step_side)
        self._decoded: dict[str, CellPictures] = {}

    def __getitem__(self, cell: str) -> CellPictures:
        if cell not in self._decoded:
            self._decoded[cell] = _decoded(self._stored[cell], *self._sides)
            self._stored[cell] = _Stored()
        return self._decoded[cell]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


@dataclass(frozen=True)
class _Stored:
    """The files of one cell's pictures."""

    steps: tuple[tuple[float, bytes], ...] = ()
    final: bytes | None = None


def load_pictures(
    db: Connection, ids: Sequence[str], kind: str, side: int, most: int | None = None, step_side: int | None = None
) -> StoredPictures:
    """The pictures of cells: their final ones, and `kind` ("x0" or "xt") step by step.

    Args:
        db: An open connection; the pictures need it no longer.
        ids: Trajectories.
        kind: Of the steps; "" for none.
        side: Pixels of the longer edge that are enough.
        most: Steps to read of each cell, evenly spread; all unless given.
        step_side: Pixels that are enough for a step; `side` unless given.
    """
    found: dict[str, _Stored] = {}
    for start in range(0, len(ids), CELLS_AT_ONCE):
        some = list(ids[start : start + CELLS_AT_ONCE])
        frames = queries.frames(db, some, ["final", kind] if kind else ["final"])
        frames = frames[frames["video_frame"] == 0]
        found |= {key: _of_cell(frames[frames["trajectory_id"] == key], kind, most) for key in some}
    return StoredPictures(found, side, step_side or side)


def _of_cell(frames: pd.DataFrame, kind: str, most: int | None) -> _Stored:
    rows = frames[frames["kind"] == kind].sort_values("step_index") if kind else frames.head(0)
    if most is not None and len(rows) > most:
        rows = rows.iloc[evenly_spaced(len(rows), most)]
    steps = tuple(
        (float(progress), bytes(data)) for progress, data in zip(rows["progress"], rows["image"], strict=True)
    )
    return _Stored(steps, next((bytes(data) for data in frames[frames["kind"] == "final"]["image"]), None))


def _decoded(stored: _Stored, side: int, step_side: int) -> CellPictures:
    steps = ((progress, _small(data, step_side)) for progress, data in stored.steps)
    return CellPictures(
        tuple((progress, image) for progress, image in steps if image is not None),
        None if stored.final is None else _small(stored.final, side),
    )


def _small(data: bytes, side: int) -> Image.Image | None:
    image = opened(data)
    return None if image is None else fitted(image, min(side, image.width), min(side, image.height))


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture scaled to fit into a box, as large as it gets; small ones are enlarged without inventing detail."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return (
        image
        if size == image.size
        else image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    )


def encoded(image: Image.Image, quality: int = 80) -> bytes:
    """As WebP, which every browser of today shows."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()
