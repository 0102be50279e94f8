"""Images from the cache as addresses that a browser can show; only real pictures of sensible size pass."""

from engine.display.html import inline_image
from engine.picture_files import open_picture


def data_uri(image: bytes) -> str | None:
    """A data address of a PNG, WebP or JPEG; None for anything else, and for what is far too large to show.

    The head of the picture is read, its pixels are not.
    """
    found = open_picture(image)
    return None if found is None or found.format is None else inline_image(found.format.lower(), image)
