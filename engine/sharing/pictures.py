"""Pictures out of a cache, checked: what is no picture, or far too large a one, is left out."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image

from engine.cache import queries
from engine.cache.connection import Connection

FORMATS = ("PNG", "WEBP", "JPEG")
MAX_PIXELS = 4096 * 4096
CELLS_AT_ONCE = 32


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


def load_pictures(db: Connection, ids: Sequence[str], kind: str, most: int | None = None) -> dict[str, CellPictures]:
    """The pictures of cells: their final ones, and `kind` ("x0" or "xt") step by step.

    Args:
        db: An open connection.
        ids: Trajectories.
        kind: Of the steps; "" for none.
        most: Steps to read of each cell, evenly spread; all unless given.
    """
    found: dict[str, CellPictures] = {}
    for start in range(0, len(ids), CELLS_AT_ONCE):
        some = list(ids[start : start + CELLS_AT_ONCE])
        frames = queries.frames(db, some, ["final", kind] if kind else ["final"])
        frames = frames[frames["video_frame"] == 0]
        found |= {key: _of_cell(frames[frames["trajectory_id"] == key], kind, most) for key in some}
    return found


def _of_cell(frames: pd.DataFrame, kind: str, most: int | None) -> CellPictures:
    rows = frames[frames["kind"] == kind].sort_values("step_index") if kind else frames.head(0)
    if most is not None and len(rows) > most:
        rows = rows.iloc[sorted({round(place * (len(rows) - 1) / max(most - 1, 1)) for place in range(most)})]
    pairs = zip(rows["progress"], rows["image"], strict=True)
    steps = [(float(progress), opened(bytes(data))) for progress, data in pairs]
    finals = [opened(bytes(data)) for data in frames[frames["kind"] == "final"]["image"]]
    return CellPictures(
        tuple((progress, image) for progress, image in steps if image is not None), next(iter(finals), None)
    )


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture scaled to fit into a box, as large as it gets; small ones are enlarged without inventing detail."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(
        size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)  # fmt: skip


def encoded(image: Image.Image, quality: int = 80) -> bytes:
    """As WebP, which every browser of today shows."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()
