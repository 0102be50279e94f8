"""Changes of a study to a model: another pipeline class, a ControlNet, LoRA files. Imports no torch."""

import re
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.study.model_files import check_whole, file_digest, own_variant, weight_files
from engine.study.reading import Table
from engine.study.source import ModelSource, configured, hub_file


@dataclass(frozen=True)
class PartFile:
    """A file or folder that is added to a model.

    Attributes:
        path: Absolute path.
        digest: SHA-256 of the files that are loaded.
        scale: Weight of a LoRA.
    """

    path: str
    digest: str
    scale: float = 1.0


@dataclass(frozen=True)
class ModelParts:
    """Changes to a model, which make it another model.

    Attributes:
        pipeline: Name of the diffusers pipeline class to use instead of the model's own.
        controlnet: A ControlNet.
        lora: LoRA files.
        config: Folder with the configurations of a single-file checkpoint.
    """

    pipeline: str = ""
    controlnet: PartFile | None = None
    lora: tuple[PartFile, ...] = ()
    config: Path | None = None

    def __bool__(self) -> bool:
        """Whether there are any changes."""
        return bool(self.pipeline or self.controlnet or self.lora or self.config)

    def spec(self) -> dict[str, Any]:
        """As plain data, for the cache."""
        found: dict[str, Any] = {"class": self.pipeline} if self.pipeline else {}
        if self.controlnet:
            found["controlnet"] = {"name": Path(self.controlnet.path).name, "sha256": self.controlnet.digest}
        if self.lora:
            found["lora"] = [{"name": Path(f.path).name, "sha256": f.digest, "scale": f.scale} for f in self.lora]
        if self.config:
            found["config"] = self.config.name
        return found


def read_parts(table: Table, folder: Path | None) -> ModelParts:
    """Reads `class`, `controlnet`, `lora` and `config` of a `[pipeline]` table.

    Raises:
        StudyError: A value of the wrong kind, or a missing file.
        ModelError: Weights are missing, damaged or pickled.
    """
    name = table.text("class", "")
    if name and not re.fullmatch(r"[A-Za-z0-9]+Pipeline", name):
        raise table.error("class", f"must name a diffusers pipeline class, not {name!r}")
    controlnet, config = table.text("controlnet", ""), table.text("config", "")
    if controlnet and not name:
        raise table.error("controlnet", 'also needs a class, e.g. class = "StableDiffusionControlNetPipeline"')
    return ModelParts(
        name,
        part_folder(table, "controlnet", controlnet, folder) if controlnet else None,
        tuple(_lora(table, text, folder) for text in table.strings("lora", ())),
        _folder(table, "config", "model_index.json", config, folder) if config else None,
    )


def equipped(source: ModelSource, parts: ModelParts) -> ModelSource:
    """A model with the changes applied, which is another model; a single file gets its configurations.

    Raises:
        ModelError: A single file without configurations, or configurations for another kind of model.
    """
    if source.kind == "file" and source.folder is None:
        if not parts.config:
            raise ModelError(
                f"Model '{source.name}' is a single file. Add a table [pipeline] with config = \"folder or hub id\": "
                "a diffusers folder of the same model; it needs no weights."
            )
        source = configured(source, parts.config)
        parts = replace(parts, config=None)
    if parts.config:
        raise ModelError(f"[pipeline] config is for single files, and model '{source.name}' is a {source.kind}.")
    if not parts or source.fingerprint is None:
        return replace(source, parts=parts) if parts else source
    changed = "\0".join([source.fingerprint, repr(parts.spec())])
    return replace(
        source,
        parts=parts,
        pipeline=parts.pipeline or source.pipeline,
        fingerprint=sha256(changed.encode()).hexdigest(),
    )


def part_folder(table: Table, key: str, text: str, folder: Path | None) -> PartFile:
    """The folder of a part that a study names, or that of a downloaded hub model.

    Raises:
        StudyError: It is neither.
        ModelError: Its weights are missing, damaged or pickled.
    """
    place = _folder(table, key, "config.json", text, folder)
    files = [place / "config.json", *weight_files(place, own_variant(place))]
    return PartFile(str(place), sha256("\n".join(map(file_digest, files)).encode()).hexdigest())


def _folder(table: Table, key: str, file: str, text: str, folder: Path | None) -> Path:
    """The folder that a study names, or that of a downloaded hub model."""
    place = (folder or Path.cwd()) / Path(text).expanduser()
    if place.is_dir():
        return place.resolve()
    found = hub_file(text, file) if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else None
    if found is None:
        raise table.error(key, f"'{text}' is neither a folder nor a hub model on this machine")
    return found.parent


def _lora(table: Table, text: str, folder: Path | None) -> PartFile:
    match = re.fullmatch(r"(.+?\.safetensors)(?::([+-]?[0-9.]+))?", text)
    if match is None:
        raise table.error("lora", f"should read 'file.safetensors' or 'file.safetensors:0.8', not {text!r}")
    file = ((folder or Path.cwd()) / Path(match[1]).expanduser()).resolve()
    if not file.is_file():
        raise table.error("lora", f"there is no file {file}")
    try:
        scale = float(match[2] or 1.0)
    except ValueError:
        raise table.error("lora", f"{match[2]!r} is not a number") from None
    try:
        check_whole(file)
    except ModelError as error:
        raise table.error("lora", str(error).rstrip(".")) from error
    return PartFile(str(file), file_digest(file), scale)
