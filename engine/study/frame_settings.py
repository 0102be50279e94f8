"""The `[frames]` table: which steps are stored as pictures, and what decodes them. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from engine.study.model_files import read_json
from engine.study.model_parts import ModelParts, PartFile, equipped, part_folder
from engine.study.reading import Table
from engine.study.source import SHIPPED, ModelSource, find_model

FrameKind = Literal["x0", "xt"]
Decoder = Literal["full", "tiny"]
FULL: Decoder = "full"


@dataclass(frozen=True)
class FrameSettings:
    """Which steps are stored as pictures: at most `count` evenly spaced steps of each kind; 0 stores none.

    Attributes:
        tiny: A small autoencoder that decodes them, faster and less exactly; None for the model's own. Final pictures
            are always decoded by the model's own.
    """

    count: int = 12
    kinds: tuple[FrameKind, ...] = ("x0", "xt")
    tiny: PartFile | None = None

    @property
    def decoder(self) -> str:
        """What decodes the steps, as it is stored with a cell: "full", or "tiny" and a digest of its files."""
        return f"tiny {self.tiny.digest[:16]}" if self.tiny else FULL

    def spec(self) -> dict[str, Any]:
        """As plain data, for the cache."""
        plain: dict[str, Any] = {"count": self.count, "kinds": list(self.kinds)}
        if self.tiny:
            plain |= {"decoder": "tiny", "tiny": {"name": Path(self.tiny.path).name, "sha256": self.tiny.digest}}
        return plain


def read_frames(table: Table, model: str, parts: ModelParts, folder: Path | None) -> FrameSettings:
    """Reads `[frames]`.

    Args:
        table: The table.
        model: Name of the study's model, whose family says which small autoencoder suits it.
        parts: What the study changes in it.
        folder: What paths are relative to.

    Raises:
        StudyError: A value is out of bounds, or there is no such decoder.
        ModelError: Its weights are missing, damaged or pickled.
    """
    count = table.integer("count", 12, low=0, high=1000)
    kinds = tuple(dict.fromkeys(table.choices("kinds", ("x0", "xt"), get_args(FrameKind))))
    decoder, named = table.choice("decoder", FULL, get_args(Decoder)), table.text("tiny", "")
    table.finish()
    if decoder == FULL:
        if named:
            raise table.error("tiny", 'names a decoder that is not used; add decoder = "tiny", or remove it')
        return FrameSettings(count, kinds)
    return FrameSettings(count, kinds, _tiny(table, named, equipped(find_model(model), parts), folder))


def _tiny(table: Table, named: str, model: ModelSource, folder: Path | None) -> PartFile:
    """The small autoencoder that a study names, or that of the model's family.

    Raises:
        StudyError: There is none on this machine, it is none, or it does not fit the model.
    """
    text = named or ("" if model.name in SHIPPED else model.family.tiny)  # those have latents of their own
    if not text:
        raise table.error("decoder", f'is "tiny", and none is known for {model.name}; add tiny = "folder or hub id"')
    if model.family.frames > 1:
        raise table.error("decoder", 'may be "tiny" for models of single pictures only')
    found = part_folder(table, "tiny", text, folder)
    config = read_json(Path(found.path) / "config.json", found.path) or {}
    if (kind := config.get("_class_name")) != "AutoencoderTiny":
        raise table.error("tiny", f"'{text}' is no AutoencoderTiny: its config.json names {kind!r}")
    own, its = _channels(model.folder), int(config.get("latent_channels", 4))
    if own is not None and own != its:
        raise table.error("tiny", f"'{text}' decodes latents of {its} channels, and those of {model.name} have {own}")
    return found


def _channels(folder: Path | None) -> int | None:
    """Channels of a model's latents, if its files say so."""
    config = read_json(folder / "vae" / "config.json", str(folder)) if folder is not None else None
    channels = (config or {}).get("latent_channels")
    return int(channels) if isinstance(channels, int) else None
