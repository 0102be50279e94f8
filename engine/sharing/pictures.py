"""Loads pictures from a cache; invalid and oversized ones are left out."""

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd
from PIL import Image

from engine.cache import queries
from engine.cache.connection import Connection
from engine.cache.limits import ANSWER_BYTES, DOCUMENT_PIXELS, in_groups, refuse_bytes
from engine.picture_files import decoded, open_picture
from engine.study.cells import evenly_spaced

DECODERS = 2
CLIP_FRAME_MS = 140


@dataclass(frozen=True)
class CellPictures:
    """The pictures of one cell.

    Attributes:
        steps: (progress, picture) of its steps of one kind, in order of progress.
        final: The final picture; None if there is none. Of a clip, its first frame.
        clip: All frames of a final clip; empty for pictures.
    """

    steps: tuple[tuple[float, Image.Image], ...] = ()
    final: Image.Image | None = None
    clip: tuple[Image.Image, ...] = ()


class StoredPictures(Mapping[str, CellPictures]):
    """Pictures by cell, decoded and scaled down on first access.

    The cache can thus be closed before anything is decoded, and only two pictures at a time are in memory at full size.
    After `DOCUMENT_PIXELS` pixels have been decoded, further pictures are left out.
    """

    def __init__(self, stored: Mapping[str, "_Stored"], side: int, step_side: int) -> None:
        """Stores encoded pictures; final ones are scaled down to at most `side` pixels, steps to `step_side`."""
        self._stored, self._sides = dict(stored), (side, step_side)
        self._decoded: dict[str, CellPictures] = {}
        self._pixels_left = DOCUMENT_PIXELS

    def __getitem__(self, cell: str) -> CellPictures:
        if cell not in self._decoded:
            self._decoded[cell] = self._decode(self._stored[cell])
            self._stored[cell] = _Stored()
        return self._decoded[cell]

    def _decode(self, stored: "_Stored") -> CellPictures:
        side, step_side = self._sides
        finals = stored.clip or (() if stored.final is None else (stored.final,))
        every = [(data, side) for data in finals] + [(data, step_side) for _, data in stored.steps]
        kept = [(data, side) if self._is_affordable(data) else (b"", side) for data, side in every]
        with ThreadPoolExecutor(DECODERS) as pool:  # Pillow decodes and scales without the interpreter's lock
            images = list(pool.map(_small, *zip(*kept, strict=True))) if kept else []
        shown, steps = images[: len(finals)], images[len(finals) :]
        progress = (place for place, _ in stored.steps)
        return CellPictures(
            tuple((place, image) for place, image in zip(progress, steps, strict=True) if image is not None),
            shown[0] if shown else None,
            tuple(image for image in shown if image is not None) if stored.clip else (),
        )

    def _is_affordable(self, data: bytes) -> bool:
        head = open_picture(data)
        if head is None or head.width * head.height > self._pixels_left:
            return False
        self._pixels_left -= head.width * head.height
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


@dataclass(frozen=True)
class _Stored:
    """The encoded pictures of one cell."""

    steps: tuple[tuple[float, bytes], ...] = ()
    final: bytes | None = None
    clip: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """Size in memory (bytes)."""
        return sum(len(data) for data in (*(data for _, data in self.steps), self.final or b"", *self.clip))


def load_pictures(
    db: Connection,
    ids: Sequence[str],
    kind: str,
    side: int,
    most: int | None = None,
    step_side: int | None = None,
    *,
    every: bool = True,
) -> StoredPictures:
    """Loads the final pictures of cells, and those of their steps.

    Args:
        db: An open connection; the result does not depend on it.
        ids: Trajectory ids.
        kind: Kind of the step pictures, "x0" or "xt"; "" for none.
        side: Maximum length of the longer edge (px).
        most: Number of steps to load per cell, evenly spaced; None: all.
        step_side: As `side`, for step pictures; None: `side`.
        every: Whether all are needed; otherwise those of the last cells are left out where they are too large in total.

    Raises:
        CacheRefused: The pictures are too large in total.
    """
    found: dict[str, _Stored] = {}
    used, kinds = 0, ["final", kind] if kind else ["final"]
    for some in in_groups(queries.frame_bytes(db, ids, kinds)):
        index = queries.frame_index(db, some, kinds)
        frames = queries.framed(db, index[(index["video_frame"] == 0) | (index["kind"] == "final")])
        new = {key: _of_cell(frames[frames["trajectory_id"] == key], kind, most) for key in some}
        used += sum(stored.size for stored in new.values())
        if used > ANSWER_BYTES and not every:
            break
        refuse_bytes(used, ANSWER_BYTES)
        found |= new
    return StoredPictures({key: found.get(key, _Stored()) for key in ids}, side, step_side or side)


def _of_cell(frames: pd.DataFrame, kind: str, most: int | None) -> _Stored:
    rows = frames[frames["kind"] == kind].sort_values("step_index") if kind else frames.head(0)
    if most is not None and len(rows) > most:
        rows = rows.iloc[evenly_spaced(len(rows), most)]
    steps = tuple(
        (float(progress), bytes(data)) for progress, data in zip(rows["progress"], rows["image"], strict=True)
    )
    finals = [bytes(data) for data in frames[frames["kind"] == "final"].sort_values("video_frame")["image"]]
    return _Stored(steps, finals[0] if finals else None, tuple(finals) if len(finals) > 1 else ())


def _small(data: bytes, side: int) -> Image.Image | None:
    image = decoded(data)
    return None if image is None else fitted(image, min(side, image.width), min(side, image.height))


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture scaled to fit into a box; larger ones are reduced (Lanczos), smaller ones enlarged (bicubic)."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return (
        image
        if size == image.size
        else image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC, reducing_gap=3.0)
    )


def encoded(image: Image.Image, quality: int = 80, more: Sequence[Image.Image] = ()) -> bytes:
    """The picture as WebP; with `more` frames, as an animation that loops."""
    stream = io.BytesIO()
    moving = {"save_all": True, "append_images": list(more), "duration": CLIP_FRAME_MS, "loop": 0} if more else {}
    image.save(stream, "WEBP", quality=quality, method=4, **moving)
    return stream.getvalue()
