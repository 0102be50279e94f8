"""Fits text into a drawn picture: truncated with dots, or wrapped."""

from PIL import ImageDraw, ImageFont

DOTS = "..."
# More than fits into any picture; measuring a text takes time proportional to its length.
MOST_LETTERS = 1000

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def fitted(draw: ImageDraw.ImageDraw, text: str, font: Font, width: float) -> str:
    """The text on one line, truncated with dots to fit into `width` pixels."""
    line = " ".join(text[:MOST_LETTERS].split())
    if draw.textlength(line, font) <= width:
        return line
    while line and draw.textlength(line + DOTS, font) > width:
        line = line[: max(0, len(line) - 1 - len(line) // 20)]
    return line.rstrip() + DOTS


def wrapped(draw: ImageDraw.ImageDraw, text: str, font: Font, width: float, most: int) -> list[str]:
    """The text wrapped at words to at most `most` lines of `width` pixels; the last one is truncated with dots."""
    words, lines = text[:MOST_LETTERS].split(), list[str]()
    while words and len(lines) < most - 1:
        count = next((n for n in range(len(words), 0, -1) if draw.textlength(" ".join(words[:n]), font) <= width), 0)
        if not count:  # a word longer than a line
            words[:1] = _broken(draw, words[0], font, width)
            count = 1
        lines.append(" ".join(words[:count]))
        words = words[count:]
    return [*lines, fitted(draw, " ".join(words), font, width)] if words else lines


def _broken(draw: ImageDraw.ImageDraw, word: str, font: Font, width: float) -> list[str]:
    """A word split in two, the first part filling a line."""
    end = next((n for n in range(len(word) - 1, 1, -1) if draw.textlength(word[:n], font) <= width), 1)
    return [word[:end], word[end:]] if word[end:] else [word]
