"""Image bytes from the cache as addresses a browser can show. Only what starts like a known picture passes."""

import base64


def data_uri(image: bytes) -> str | None:
    """A data address of a PNG, WebP or JPEG, told by its first bytes; None for anything else."""
    kind = _kind(image)
    return None if kind is None else f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def _kind(image: bytes) -> str | None:
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return "jpeg" if image.startswith(b"\xff\xd8\xff") else None
