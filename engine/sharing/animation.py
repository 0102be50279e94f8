"""Animations of how the pictures of all lanes form, side by side: GIF by Pillow, MP4 by ffmpeg."""

import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from engine.errors import LabError
from engine.sharing import lettering
from engine.sharing.pictures import CLIP_FRAME_MS, CellPictures, fitted

MARGIN, GAP, CAPTION, FOOT = 16, 10, 24, 14
TITLE_LINES, TITLE_STEP = 3, 21
INK, PALE, MISSING, BAR = (24, 28, 36), (104, 112, 126), (244, 245, 247), (42, 132, 156)
FRAME_MS, HOLD_MS = CLIP_FRAME_MS, 1800
MAX_COLUMNS = 4


@dataclass(frozen=True)
class Strip:
    """One lane of an animation."""

    label: str
    pictures: CellPictures


def draw_frames(title: str, strips: Sequence[Strip], count: int = 24) -> list[Image.Image]:
    """Draws the frames of an animation over progress, ending with the final pictures; of clips, their final frames.

    A lane shows the last stored step it has reached, so lanes with few steps visibly jump. Until it reaches its first
    stored step it shows that one, so that the animation does not start empty.

    Raises:
        LabError: There are no step pictures.
    """
    if length := max((len(strip.pictures.clip) for strip in strips), default=0):
        return [_frame(title, strips, (place + 1) / length, place) for place in range(length)]
    if not any(strip.pictures.steps for strip in strips):
        raise LabError(
            "There are no step pictures to animate; set [frames] count above 0 in the study and run it again."
        )
    moments = [(place + 1) / count for place in range(count)]
    return [_frame(title, strips, moment) for moment in moments] + [_frame(title, strips, None)]


def write_gif(frames: Sequence[Image.Image], path: Path) -> None:
    """Writes a looping GIF that holds the last frame."""
    # One palette for all frames avoids flickering colours; no dithering avoids crawling noise.
    sample = Image.new("RGB", (frames[0].width, frames[0].height * 3))
    for place, frame in enumerate((frames[len(frames) // 3], frames[2 * len(frames) // 3], frames[-1])):
        sample.paste(frame, (0, place * frame.height))
    palette = sample.quantize(256, Image.Quantize.MEDIANCUT)
    plain = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    times = [FRAME_MS] * (len(plain) - 1) + [HOLD_MS]
    plain[0].save(path, "GIF", save_all=True, append_images=plain[1:], duration=times, loop=0, optimize=False)


def write_mp4(frames: Sequence[Image.Image], path: Path) -> None:
    """Writes an H.264 video, playable in browsers and presentation programs, that holds the last frame.

    Raises:
        LabError: ffmpeg is missing or fails.
    """
    program = shutil.which("ffmpeg") or _packaged_ffmpeg()
    if program is None:
        raise LabError(
            "MP4 export needs ffmpeg, which is not on PATH. Install it (apt install ffmpeg, brew install ffmpeg), or "
            "use --format gif."
        )
    held = [*frames, *[frames[-1]] * math.ceil(HOLD_MS / FRAME_MS)]
    size = (frames[0].width // 2 * 2, frames[0].height // 2 * 2)  # 4:2:0 needs even sides
    command = [
        program,
        "-hide_banner",
        "-loglevel",
        "error",
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{size[0]}x{size[1]}",
        "-r",
        f"{1000 / FRAME_MS:.4f}",
        "-i",
        "-",
        "-an",
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv420p",
        "-crf",
        "16",
        "-movflags",
        "+faststart",
        "-f",
        "mp4",
        str(path),
    ]
    data = b"".join(frame.crop((0, 0, *size)).tobytes() for frame in held)
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=600)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise LabError(f"ffmpeg could not write {path}: {words[-1] if words else f'exit code {done.returncode}'}.")


def _packaged_ffmpeg() -> str | None:
    """The ffmpeg that comes with the package imageio-ffmpeg; None if that is not installed."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        return None
    try:
        return str(get_ffmpeg_exe())
    except RuntimeError:  # a build of the package without the program
        return None


def strips_of(labels: Mapping[str, str], cells: Mapping[str, str], pictures: Mapping[str, CellPictures]) -> list[Strip]:
    """The strips of lanes that have pictures; takes labels by lane, cells by lane, and pictures by cell."""
    found = [(label, pictures.get(cells.get(lane, ""))) for lane, label in labels.items()]
    return [Strip(label, mine) for label, mine in found if mine is not None and (mine.steps or mine.final)]


def _frame(title: str, strips: Sequence[Strip], moment: float | None, video_frame: int | None = None) -> Image.Image:
    side = _side(strips)
    columns = min(MAX_COLUMNS, len(strips))
    rows = -(-len(strips) // columns)
    width = 2 * MARGIN + columns * (side + GAP) - GAP
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    lines = lettering.wrapped(_ruler(), title, font, width - 2 * MARGIN, TITLE_LINES)
    head = TITLE_STEP * len(lines) + 9
    height = MARGIN + head + rows * (side + CAPTION + GAP) + FOOT + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN - 4 + TITLE_STEP * number), line, INK, font)
    for place, strip in enumerate(strips):
        left = MARGIN + place % columns * (side + GAP)
        top = MARGIN + head + place // columns * (side + CAPTION + GAP)
        clip = strip.pictures.clip
        if video_frame is None:
            image = _shown(strip.pictures, moment)
        else:
            image = clip[min(video_frame, len(clip) - 1)] if clip else None
        if image is None:
            draw.rectangle((left, top, left + side - 1, top + side - 1), MISSING)
        else:
            small_image = fitted(image, side, side)
            sheet.paste(small_image, (left + (side - small_image.width) // 2, top + (side - small_image.height) // 2))
        draw.text((left, top + side + 4), lettering.fitted(draw, strip.label, small, side), PALE, small)
    share, bottom = 1.0 if moment is None else moment, height - MARGIN
    draw.line((MARGIN, bottom, width - MARGIN, bottom), MISSING, 4)
    draw.line((MARGIN, bottom, MARGIN + share * (width - 2 * MARGIN), bottom), BAR, 4)
    return sheet


def _shown(pictures: CellPictures, moment: float | None) -> Image.Image | None:
    if moment is None:
        return pictures.final or (pictures.steps[-1][1] if pictures.steps else None)
    made = [image for progress, image in pictures.steps if progress <= moment + 1e-9]
    return made[-1] if made else pictures.steps[0][1] if pictures.steps else None


def _side(strips: Sequence[Strip]) -> int:
    """Side of a picture: twice its size if it is small, and at most 256 pixels."""
    kept = (strip.pictures.clip or tuple(image for _, image in strip.pictures.steps) for strip in strips)
    first = next(images[0] for images in kept if images)
    return min(256, max(128, 2 * max(first.size)))


def _ruler() -> ImageDraw.ImageDraw:
    """A drawing context to measure text with before the sheet exists."""
    return ImageDraw.Draw(Image.new("RGB", (1, 1)))
