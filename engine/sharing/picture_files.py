"""Picture files out of a cache, looked at before they are decoded: format, bytes, pixels, and what else is in them."""

import io
import struct
from collections.abc import Iterator

from PIL import Image

from engine.cache.limits import PICTURE_BYTES, PICTURE_EXTRAS, PICTURE_PIXELS

FORMATS = ("PNG", "WEBP", "JPEG")
_PNG = b"\x89PNG\r\n\x1a\n"
_BYTES_A_PIXEL = 4
_FAULTS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def looked_at(data: bytes) -> Image.Image | None:
    """The picture, its pixels not read yet; None if it is of no format we write, damaged, or far too large.

    A few bytes of colour profiles or comments can unpack to megabytes each, which Pillow does on opening. So what a
    file holds beside pixels is measured first.
    """
    if len(data) > PICTURE_BYTES or _extras(data) > PICTURE_EXTRAS:
        return None
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except _FAULTS:
        return None
    pixels = image.width * image.height
    return None if pixels > PICTURE_PIXELS or len(data) > _BYTES_A_PIXEL * pixels + PICTURE_EXTRAS else image


def decoded(data: bytes) -> Image.Image | None:
    """The same with its pixels, as RGB."""
    image = looked_at(data)
    try:
        return None if image is None else image.convert("RGB")
    except _FAULTS:
        return None


def _extras(data: bytes) -> int:
    """Bytes of the chunks of a PNG that are none of its pixels; 0 for other formats."""
    return sum(size for kind, size in _chunks(data) if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    place = len(_PNG) if data.startswith(_PNG) else len(data)
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        yield kind, size
        place += len(data) if kind == b"IEND" else size + 12
