"""Finding a model and saying what it is, from its files alone: no torch, no loading, no network."""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from engine.errors import ModelError, did_you_mean
from engine.paths import DATA
from engine.study.families import FAMILIES, Family, family_of

EXAMPLE_HUB_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"
BUNDLED = DATA / "bundled"
# Parts of a pipeline folder that the lab doesn't load: they don't change the pictures it measures.
SKIPPED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})


class _IncompleteError(ModelError):
    """Files of a model are missing."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from and what its files say.

    Attributes:
        name: As the study names it.
        kind: "folder" (bundled ones too), "hub", or "gaussian" for one that is computed and has no files.
        folder: Where its files lie; None for computed ones, and for hub models not fetched yet.
        revision: Commit of the hub, if one is known.
        fingerprint: Digest of all files that are loaded; None while they are not here.
        pipeline: Pipeline class name.
        size: Width and height in pixels of the model's own pictures.
        scheduler_config: The scheduler configuration that came with it.
        bytes: Size of its weights.
    """

    name: str
    kind: Literal["folder", "hub", "gaussian"]
    folder: Path | None
    revision: str
    fingerprint: str | None
    pipeline: str
    size: tuple[int, int] | None
    scheduler_config: dict[str, Any]
    bytes: int = 0

    @property
    def family(self) -> Family:
        """The table's entry for this kind of model."""
        return FAMILIES[self.name] if self.kind == "gaussian" else family_of(self.pipeline, self.scheduler_config)

    @property
    def model_id(self) -> str:
        """Stable id: the first half of the fingerprint."""
        if self.fingerprint is None:
            raise ModelError(f"Model '{self.name}' has not been fetched yet.")
        return self.fingerprint[:16]


def find_model(name: str) -> ModelSource:
    """Finds a model: `bundled`, `gaussian`, a diffusers folder, or a hub id `owner/name[@revision]`.

    Raises:
        ModelError: It is missing, damaged, holds pickled weights only, or is no pipeline folder.
    """
    if name in FAMILIES and FAMILIES[name].builder:
        return _computed(FAMILIES[name])
    if name == "bundled":
        return _from_folder(name, BUNDLED, "folder", "")
    try:
        path = Path(name).expanduser()
        if path.exists():
            return _from_folder(str(path), path.resolve(), "folder", "")
    except (OSError, RuntimeError) as error:  # a name too long for a path, no home folder
        raise ModelError(f"No model '{name[:200]}': {error}.") from error
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        known = did_you_mean(name, ["bundled", "gaussian"])
        raise ModelError(
            f"No model '{name}'.{known} Give 'bundled', 'gaussian', a diffusers folder, or a hub id such as "
            f"'{EXAMPLE_HUB_ID}'."
        )
    repo, _, revision = name.partition("@")
    snapshot = _hub_snapshot(repo, revision or "main")
    if snapshot is None:
        return ModelSource(name, "hub", None, revision, None, "", None, {})
    try:
        return _from_folder(name, snapshot, "hub", snapshot.name)
    except _IncompleteError:
        # A download that was interrupted; fetching goes on from there.
        return ModelSource(name, "hub", None, revision, None, "", None, {})


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a component folder: the plain ones, else those of the fp16 variant.

    Raises:
        ModelError: Only pickled weights are there.
    """
    files = sorted(folder.glob("*.safetensors"))
    plain = [file for file in files if not re.search(r"\.(fp16|bf16|fp32|non_ema)\b", file.name)]
    half = [file for file in files if ".fp16" in file.name]
    if plain or half:
        return plain or half
    pickled = [file.name for pattern in ("*.bin", "*.ckpt", "*.pt", "*.pth") for file in sorted(folder.glob(pattern))]
    if pickled:
        raise ModelError(
            f"{folder} holds only pickled weights ({pickled[0]}), which can run code when loaded; only safetensors "
            "are read. Convert them: load the pipeline once where you trust it and call save_pretrained()."
        )
    return []


def variant_of(folder: Path) -> str | None:
    """The weight variant diffusers has to be asked for: "fp16" if a component has no other, else None."""
    for config in folder.glob("*/config.json"):
        if any(".fp16" in file.name for file in weight_files(config.parent)):
            return "fp16"
    return None


def _from_folder(name: str, folder: Path, kind: Literal["folder", "hub"], revision: str) -> ModelSource:
    index = _json(folder / "model_index.json", name) if folder.is_dir() else None
    if index is None:
        raise ModelError(f"{folder} is no diffusers pipeline folder: it should hold a model_index.json.")
    pipeline = str(index.get("_class_name", ""))
    family = family_of(pipeline)
    denoiser = next((part for part in family.denoisers if _is_part(index.get(part))), None)
    if denoiser is None:
        raise ModelError(f"{folder}: {pipeline} has no {' or '.join(family.denoisers)} to watch.")
    digest, size = sha256(), 0
    for file in _loaded_files(folder, index):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{_file_digest(file)}\n".encode())
        size += file.stat().st_size if file.suffix == ".safetensors" else 0
    return ModelSource(
        name=name,
        kind=kind,
        folder=folder,
        revision=revision,
        fingerprint=digest.hexdigest(),
        pipeline=pipeline,
        size=family.size or _native_size(folder, denoiser, name),
        scheduler_config=_json(folder / "scheduler" / "scheduler_config.json", name) or {},
        bytes=size,
    )


def _loaded_files(folder: Path, index: dict[str, Any]) -> Iterator[Path]:
    """The files that are loaded, checked to be whole, in a fixed order."""
    yield folder / "model_index.json"
    for part, value in sorted(index.items()):
        if part.startswith("_") or part in SKIPPED or not _is_part(value):
            continue
        if not (folder / part).is_dir():
            raise _IncompleteError(
                f"{folder}: the folder '{part}' named in model_index.json is missing; fetch it again."
            )
        yield from sorted(file for file in (folder / part).iterdir() if file.suffix in {".json", ".txt", ".model"})
        weights = weight_files(folder / part)
        if not weights and (folder / part / "config.json").is_file():
            raise _IncompleteError(f"{folder / part} holds no weights (*.safetensors); fetch the model again.")
        for index_file in (folder / part).glob("*.safetensors.index.json"):
            for shard in set(((_json(index_file, folder.name) or {}).get("weight_map") or {}).values()):
                if not (folder / part / shard).exists():
                    raise _IncompleteError(f"{folder / part} lacks '{shard}'; fetch the model again.")
        for file in weights:
            _check_whole(file)
            yield file


def _is_part(value: object) -> bool:
    """Whether an entry of model_index.json names a part: [library, class], not a setting and not [null, null]."""
    return isinstance(value, list) and len(value) == 2 and all(value)


def _check_whole(file: Path) -> None:
    """Compares a safetensors file's header with its length, which finds files cut short."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: Any = json.loads(stream.read(length)) if length < 200_000_000 else None
        ends = [int(value["data_offsets"][1]) for key, value in header.items() if key != "__metadata__"]
    except (struct.error, ValueError, OSError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: no safetensors header ({error}). Fetch it again.") from error
    end = max(ends, default=0)
    if file.stat().st_size != 8 + length + end:
        raise ModelError(
            f"{file} is damaged: {file.stat().st_size:,} bytes instead of {8 + length + end:,}. Fetch it again."
        )


def _file_digest(file: Path) -> str:
    """SHA-256 of a file; in the hub's cache large files are links to blobs named by it."""
    blob = file.resolve().name
    if file.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    with file.open("rb") as stream:
        digest = sha256()
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _json(path: Path, name: str) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"Model '{name}': {path} cannot be read: {error}.") from error
    return data if isinstance(data, dict) else None


def _native_size(folder: Path, denoiser: str, name: str) -> tuple[int, int] | None:
    sample = (_json(folder / denoiser / "config.json", name) or {}).get("sample_size")
    channels = (_json(folder / "vae" / "config.json", name) or {}).get("block_out_channels")
    if sample is None or not channels:
        return None
    height, width = sample if isinstance(sample, list) else (sample, sample)
    factor = 2 ** (len(channels) - 1)
    return width * factor, height * factor


def _hub_snapshot(repo: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, "model_index.json", revision=revision)
    except HFValidationError as error:
        raise ModelError(f"No model '{repo}': {str(error).partition(':')[0]}.") from error
    return Path(found).parent if isinstance(found, str) else None


def _computed(family: Family) -> ModelSource:
    """A model that a function of ours makes."""
    return ModelSource(
        name=family.key,
        kind="gaussian",
        folder=None,
        revision="",
        fingerprint=sha256(f"{family.key} {family.version}".encode()).hexdigest(),
        pipeline=family.pipelines[0],
        size=family.size,
        scheduler_config=dict(family.scheduler_config),
    )
