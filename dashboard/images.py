"""Images from the cache as addresses that a browser can show; only real pictures of sensible size pass."""

import io

from PIL import Image

from engine.display.html import inline_image

FORMATS = ("PNG", "WEBP", "JPEG")
MAX_PIXELS = 8192 * 8192


def data_uri(image: bytes) -> str | None:
    """A data address of a PNG, WebP or JPEG; None for anything else, and for what unpacks to more than `MAX_PIXELS`.

    The head of the picture is read, its pixels are not.
    """
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as found:
            kind, (width, height) = found.format, found.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if kind is None or width * height > MAX_PIXELS:
        return None
    return inline_image(kind.lower(), image)
