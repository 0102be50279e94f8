"""The `[pipeline]` table of a study: further arguments of the pipeline's call, and what is put into the model.

It names files of this machine, so it is read from study files and the command line only, never from a field of a page.
Imports no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from engine.study.model_parts import ModelParts, read_parts
from engine.study.reading import Table

# What a study says elsewhere, what the lab sets itself, and what is no plain value.
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
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class PictureFile:
    """A picture that a pipeline starts from.

    Attributes:
        path: Where it lies.
        digest: SHA-256 of the file.
    """

    path: str
    digest: str


@dataclass(frozen=True)
class PipelineSettings:
    """Further arguments of the pipeline's call.

    Attributes:
        arguments: Plain values by name.
        pictures: Picture files by name, e.g. `image` and `mask_image`.
        parts: What is put into the model; it makes another model, so it is no part of `identity`.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, PictureFile] = field(default_factory=dict)
    parts: ModelParts = field(default_factory=ModelParts)

    def __bool__(self) -> bool:
        """Whether there are arguments or pictures."""
        return bool(self.arguments or self.pictures)

    def identity(self) -> dict[str, Any]:
        """What of it changes pixels: values, and the contents of files rather than their names."""
        return {**self.arguments, **{name: picture.digest for name, picture in self.pictures.items()}}

    def spec(self) -> dict[str, Any]:
        """As plain data, for the cache."""
        named = {
            name: {"file": Path(picture.path).name, "sha256": picture.digest} for name, picture in self.pictures.items()
        }
        return {**self.arguments, **named, **self.parts.spec()}


def read_pipeline(table: Table, folder: Path | None) -> PipelineSettings:
    """Reads `[pipeline]`.

    Args:
        table: The table, empty if the study has none.
        folder: Where relative paths start.

    Raises:
        StudyError: A key that is said elsewhere, a value that is no plain data, or a picture that is not there.
    """
    parts = read_parts(table, folder)
    arguments: dict[str, Any] = {}
    pictures: dict[str, PictureFile] = {}
    for name, value in table.rest().items():
        if name in SAID_ELSEWHERE:
            raise table.error(name, f"is said elsewhere in a study: {SAID_ELSEWHERE[name]}")
        if name in SET_BY_THE_LAB:
            raise table.error(name, "is set by the lab itself; leave it out")
        if isinstance(value, str) and value.lower().endswith(PICTURE_SUFFIXES):
            pictures[name] = _picture(table, name, value, folder)
            continue
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError):
            raise table.error(name, f"must be text, finite numbers, true or false, or lists, not {value!r}") from None
        arguments[name] = value
    table.finish()
    return PipelineSettings(arguments, pictures, parts)


def _picture(table: Table, name: str, value: str, folder: Path | None) -> PictureFile:
    path = ((folder or Path.cwd()) / Path(value).expanduser()).resolve()
    try:
        return PictureFile(str(path), sha256(path.read_bytes()).hexdigest())
    except OSError as error:
        raise table.error(name, f"{path} cannot be read: {error.strerror}") from error
