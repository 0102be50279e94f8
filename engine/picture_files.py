"""Picture files from a cache, validated before they are decoded: format, size in bytes and pixels, and metadata."""

import io
import struct
from collections.abc import Iterator

from PIL import Image

from engine.errors import CacheError

# An honest PNG of 4096 x 4096 pixels has at most 50 MB.
PICTURE_BYTES = 64 * 2**20
PICTURE_PIXELS = 4096 * 4096
# Colour profiles and comments of a PNG. Pictures written by the lab have none.
PICTURE_EXTRAS = 65_536
FORMATS = ("PNG", "WEBP", "JPEG")
_PNG = b"\x89PNG\r\n\x1a\n"
# Of a PNG: comments and colour profiles, which Pillow unpacks on opening; a thousand times their size is possible.
_PACKED = (b"zTXt", b"iTXt", b"iCCP")
_BYTES_PER_PIXEL = 4
_FAULTS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def open_picture(data: bytes) -> Image.Image | None:
    """Opens a picture without decoding it; None if its format is not one we write, or it is damaged or too large.

    Pillow unpacks colour profiles and comments on opening, and a few bytes can unpack to megabytes, so all metadata is
    looked at first. The lab writes none that is packed.
    """
    if len(data) > PICTURE_BYTES or _extras(data) > PICTURE_EXTRAS or _is_packed(data):
        return None
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except _FAULTS:
        return None
    pixels = image.width * image.height
    return None if pixels > PICTURE_PIXELS or len(data) > _BYTES_PER_PIXEL * pixels + PICTURE_EXTRAS else image


def decoded(data: bytes) -> Image.Image | None:
    """The decoded picture as RGB, or None as in `open_picture`."""
    image = open_picture(data)
    try:
        return None if image is None else image.convert("RGB")
    except _FAULTS:
        return None


def required(data: bytes) -> Image.Image:
    """The decoded picture as RGB.

    Raises:
        CacheError: It cannot be opened, as in `open_picture`.
    """
    found = decoded(data)
    if found is None:
        raise CacheError(
            "A picture cannot be decoded, or is too large. `python -m engine check` counts such pictures; after "
            "`repair`, `run` makes them again."
        )
    return found


def _extras(data: bytes) -> int:
    """Size of all chunks of a PNG other than its pixels (bytes); 0 for other formats."""
    return sum(size for kind, size in _chunks(data) if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"))


def _is_packed(data: bytes) -> bool:
    return any(kind in _PACKED for kind, _ in _chunks(data))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    place = len(_PNG) if data.startswith(_PNG) else len(data)
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        yield kind, size
        place += len(data) if kind == b"IEND" else size + 12
