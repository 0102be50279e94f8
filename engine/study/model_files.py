"""Which files of a pipeline folder diffusers loads, and whether they are complete. Imports no torch."""

import ast
import importlib.util
import json
import re
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from engine.errors import ModelError

# Names under which the libraries look for weights; other safetensors in a folder are never loaded.
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>[A-Za-z0-9_]+))?"
    r"(?P<shard>-\d{5}-of-\d{5})?(?:\.(?P<late>[A-Za-z0-9_]+))?\.safetensors"
)
_PICKLED = ("*.bin", "*.ckpt", "*.pt", "*.pth")
# Tried in this order if parts have no plain weights.
VARIANTS = ("fp16", "bf16", "fp32", "non_ema", "ema")


class IncompleteError(ModelError):
    """Files of a model are missing."""


def parts_of(index: Mapping[str, Any]) -> list[str]:
    """Names of the pipeline parts that are loaded, according to `model_index.json`."""
    left_out, taken = set(skipped_parts(index)), arguments_of(str(index.get("_class_name")))
    named = (name for name, value in index.items() if is_part(value) and name not in left_out)
    return sorted(name for name in named if taken is None or name in taken)


@lru_cache(maxsize=32)
def arguments_of(pipeline: str, method: str = "__init__") -> frozenset[str] | None:
    """The parameters of a pipeline class, read from the source of diffusers without importing it; None if unknown.

    Args:
        pipeline: Name of the class.
        method: "__init__", which takes the parts that are loaded, or "__call__".
    """
    package = importlib.util.find_spec("diffusers")
    for root in (package.submodule_search_locations if package else None) or ():
        for file in Path(root, "pipelines").rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            if f"class {pipeline}(" not in text:
                continue
            kind = next(node for node in ast.parse(text).body if getattr(node, "name", "") == pipeline)
            for node in ast.iter_child_nodes(kind):
                if isinstance(node, ast.FunctionDef) and node.name == method:
                    return frozenset(argument.arg for argument in (*node.args.args, *node.args.kwonlyargs))
    return None


def is_part(value: object) -> bool:
    """Whether an entry of model_index.json is a part, [library, class], and not a setting or [null, null]."""
    return isinstance(value, list) and len(value) == 2 and all(value)


def skipped_parts(index: Mapping[str, Any]) -> list[str]:
    """Parts that are passed as None: the safety checker, its encoder, and those the model was saved without."""
    checked = {"safety_checker", "feature_extractor", "image_encoder"} if "safety_checker" in index else set[str]()
    without = {name for name, value in index.items() if value == [None, None]}
    return sorted((checked & index.keys()) | without)


def variant_of(folder: Path, index: Mapping[str, Any]) -> str | None:
    """The `variant` with which diffusers finds the weights of every part; None for plain weights."""
    found = {part: _variants(folder / part) for part in parts_of(index)}
    lacking = [set(variants) for variants in found.values() if variants and None not in variants]
    if not lacking:
        return None
    everywhere = set.intersection(*lacking)
    return next((name for name in (*VARIANTS, *sorted(filter(None, everywhere))) if name in everywhere), None)


def own_variant(folder: Path) -> str | None:
    """The weight variant of a part that is loaded by itself; None for plain weights."""
    found = _variants(folder)
    if None in found:
        return None
    return next((name for name in (*VARIANTS, *sorted(filter(None, found))) if name in found), None)


def loaded_files(folder: Path, index: Mapping[str, Any]) -> Iterator[Path]:
    """The files that are loaded, checked for completeness, in a fixed order.

    Raises:
        ModelError: A file is damaged, or there are only pickled weights.
        IncompleteError: Files are missing.
    """
    variant = variant_of(folder, index)
    yield folder / "model_index.json"
    for part in parts_of(index):
        here = folder / part
        if not here.is_dir():
            raise IncompleteError(
                f"{folder}: the folder '{part}' named in model_index.json is missing; download the model again."
            )
        yield from _settings(here)
        for file in weight_files(here, variant):
            check_whole(file)
            yield file


def configurations(folder: Path, index: Mapping[str, Any]) -> Iterator[Path]:
    """The configuration files of the parts, without weights, in a fixed order."""
    yield folder / "model_index.json"
    for part in parts_of(index):
        if (folder / part).is_dir():
            yield from _settings(folder / part)


def _settings(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in {".json", ".txt", ".model"})


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files of a part: those of the variant if any, else the plain ones; empty if it needs none.

    Raises:
        ModelError: There are only pickled weights.
        IncompleteError: Weights are missing.
    """
    by_variant = _variants(folder)
    files = by_variant.get(variant) or by_variant.get(None)
    if files:
        _check_shards(folder, variant if variant in by_variant else None)
        return files
    pickled = [file.name for pattern in _PICKLED for file in sorted(folder.glob(pattern))]
    if pickled:
        raise ModelError(
            f"{folder} has only pickled weights ({pickled[0]}), which can run code when loaded; only safetensors files "
            "are read. To convert them, load the pipeline where you trust it and call save_pretrained()."
        )
    if (folder / "config.json").is_file():
        others = ", ".join(file.name for file in sorted(folder.glob("*.safetensors"))[:3])
        known = f" (diffusers does not load {others})" if others else ""
        if by_variant:
            known = f" of a variant that every other part has ({others})"
        raise IncompleteError(f"{folder} has no weights (*.safetensors){known}; download the model again.")
    return []


def check_whole(file: Path) -> None:
    """Compares the header of a safetensors file with its length, which finds truncated files.

    Raises:
        ModelError: They don't agree.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: Any = json.loads(stream.read(length)) if length < 200_000_000 else None
        ends = [int(value["data_offsets"][1]) for key, value in header.items() if key != "__metadata__"]
    except (struct.error, ValueError, OSError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: no safetensors header ({error}). Download it again.") from error
    end = max(ends, default=0)
    if file.stat().st_size != 8 + length + end:
        raise ModelError(
            f"{file} is damaged: {file.stat().st_size:,} bytes instead of {8 + length + end:,}. Download it again."
        )


def file_digest(file: Path) -> str:
    """SHA-256 of a file; large files of the hub cache are links to blobs named by it, and not read."""
    blob = file.resolve().name
    if file.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    with file.open("rb") as stream:
        digest = sha256()
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def read_json(path: Path, name: str) -> dict[str, Any] | None:
    """A JSON object of a model; None if the file is missing or holds no object.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"Model '{name}': {path} cannot be read: {error}.") from error
    return data if isinstance(data, dict) else None


def _variants(folder: Path) -> dict[str | None, list[Path]]:
    """Weight files of a part by variant; if one has both whole files and shards, those that diffusers loads."""
    whole: dict[str | None, list[Path]] = {}
    shards: dict[str | None, list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        match = _WEIGHTS.fullmatch(file.name)
        if match is not None:
            kind = shards if match["shard"] else whole
            kind.setdefault(match["variant"] or match["late"], []).append(file)
    first_shards = any(file.name.startswith("diffusion_pytorch_model") for file in folder.glob("*.index*.json"))
    return {**whole, **shards} if first_shards else {**shards, **whole}


def _check_shards(folder: Path, variant: str | None) -> None:
    for index_file in folder.glob("*.safetensors.index*.json"):
        if index_file.name.endswith("index.json") != (variant is None):
            continue
        for shard in set(((read_json(index_file, folder.name) or {}).get("weight_map") or {}).values()):
            if not (folder / shard).exists():
                raise IncompleteError(f"{folder} lacks '{shard}'; download the model again.")
