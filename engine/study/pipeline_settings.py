"""The `[pipeline]` table of a study: further arguments of the pipeline call, and changes to the model.

It names local files, so it is read only from study files and the command line, never from a form of the dashboard.
Imports no torch.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from engine.study.model_parts import ModelParts, read_parts
from engine.study.reading import Table

# Arguments that a study sets elsewhere.
SAID_ELSEWHERE = {
    "prompt": "prompts",
    "negative_prompt": "negative_prompt",
    "num_inference_steps": "the steps of a lane",
    "guidance_scale": "guidance_scale",
    "width": "width",
    "height": "height",
    "generator": "seeds",
    "timesteps": "a [[lane]]",
    "sigmas": "a [[lane]]",
}
SET_BY_THE_LAB = frozenset(
    {"output_type", "return_dict", "latents", "callback", "callback_steps", "callback_on_step_end"}
    | {"callback_on_step_end_tensor_inputs", "num_images_per_prompt", "num_videos_per_prompt"}
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# What Pillow may take a file for; a picture may come from a stranger's cache.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
# (file name, SHA-256 or "") -> the file as a cache has kept it, or None.
FindPicture = Callable[[str, str], bytes | None]


@dataclass(frozen=True)
class PictureFile:
    """A picture that a pipeline starts from.

    Attributes:
        name: File name without its folder.
        digest: SHA-256 of the file.
        data: The file's contents when the study was read, which the digest identifies.
        remark: Where it came from, if not from the file that the study names.
    """

    name: str
    digest: str
    data: bytes = field(repr=False, compare=False)
    remark: str = field(default="", compare=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        with self.open() as picture:
            return ImageOps.exif_transpose(picture).size

    def open(self) -> Image.Image:
        """The picture, not decoded yet.

        Raises:
            OSError: It is not a picture, or its format is not one of `PICTURE_FORMATS`.
        """
        return Image.open(io.BytesIO(self.data), formats=PICTURE_FORMATS)


@dataclass(frozen=True)
class PipelineSettings:
    """Further arguments of the pipeline call.

    Attributes:
        arguments: Plain values by name.
        pictures: Picture files by name, e.g. `image` and `mask_image`.
        parts: Changes to the model, which are part of its fingerprint and therefore not of `identity`.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, PictureFile] = field(default_factory=dict)
    parts: ModelParts = field(default_factory=ModelParts)

    def __bool__(self) -> bool:
        """Whether there are arguments or pictures."""
        return bool(self.arguments or self.pictures)

    def clip_frames(self, usual: int) -> int:
        """Frames of a clip: as many as are asked for, else the usual number of the family; 1 for pictures."""
        asked = (self.arguments.get(name) for name in ("num_frames", "video_length"))
        return next((count for count in asked if isinstance(count, int)), usual)

    def identity(self) -> dict[str, Any]:
        """Everything that changes pixels: values, and the contents of files rather than their names."""
        return {**self.arguments, **{name: picture.digest for name, picture in self.pictures.items()}}

    @property
    def digest(self) -> str:
        """Of `identity`; empty without arguments and pictures."""
        text = json.dumps(self.identity(), sort_keys=True, ensure_ascii=False)
        return sha256(text.encode()).hexdigest()[:16] if self else ""

    def spec(self) -> dict[str, Any]:
        """As plain data, for the cache."""
        named = {name: {"file": picture.name, "sha256": picture.digest} for name, picture in self.pictures.items()}
        return {**self.arguments, **named, **self.parts.spec()}


def read_pipeline(table: Table, folder: Path | None, kept: FindPicture | None = None) -> PipelineSettings:
    """Reads `[pipeline]`.

    Args:
        table: The table, empty if the study has none.
        folder: Base of relative paths.
        kept: Finds pictures whose files are gone.

    Raises:
        StudyError: A key that is set elsewhere, a value that is not plain data, or a missing picture.
    """
    parts = read_parts(table, folder)
    arguments: dict[str, Any] = {}
    pictures: dict[str, PictureFile] = {}
    for name, value in table.rest().items():
        if name in SAID_ELSEWHERE:
            raise table.error(name, f"is set elsewhere in a study: {SAID_ELSEWHERE[name]}")
        if name in SET_BY_THE_LAB:
            raise table.error(name, "is set by the lab itself; remove it")
        if (named := _named_picture(name, value)) is not None:
            pictures[name] = _picture(table, name, *named, folder, kept)
            continue
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError):
            raise table.error(name, f"must be text, finite numbers, true or false, or lists, not {value!r}") from None
        arguments[name] = value
    table.finish()
    return PipelineSettings(arguments, pictures, parts)


def _named_picture(name: str, value: Any) -> tuple[str, str] | None:
    """File and digest of a value that names a picture: a file name, or what `PipelineSettings.spec` writes."""
    if isinstance(value, Mapping) and value.keys() == {"file", "sha256"} and all(map(_is_text, value.values())):
        return value["file"], value["sha256"]
    if _is_text(value) and (name.endswith("image") or value.lower().endswith(PICTURE_SUFFIXES)):
        return value, ""
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _picture(
    table: Table, key: str, name: str, digest: str, folder: Path | None, kept: FindPicture | None
) -> PictureFile:
    """The file of a picture, or else the copy that a cache has kept."""
    path, data, remark = (folder or Path.cwd()) / Path(name).expanduser(), None, ""
    try:
        data = path.read_bytes()
        wrong = f"{path} is another picture" if digest and sha256(data).hexdigest() != digest else ""
    except (OSError, ValueError) as error:
        wrong = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
    if wrong:
        data, remark = kept(path.name, digest) if kept else None, f"{wrong}; the copy in the cache is used."
    if data is None:
        named = f"with SHA-256 {digest}" if digest else "under that name for this study"
        lacking = f", and the cache keeps no picture {named}" if kept or digest else ""
        raise table.error(key, wrong + lacking)
    picture = PictureFile(path.name, sha256(data).hexdigest(), data, remark)
    try:
        with picture.open() as opened:
            opened.verify()
    except Exception as error:  # Pillow raises almost anything on what is no picture
        raise table.error(key, f"{path} is no picture that can be read: {error}") from error
    return picture
