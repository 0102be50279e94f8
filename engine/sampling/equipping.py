"""Applies a study's changes to a loaded pipeline: another class, a ControlNet, LoRA files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from engine.errors import ModelError, did_you_mean
from engine.study.model_files import own_variant, read_json
from engine.study.model_parts import ModelParts, PartFile

Loader = Callable[[type[Any], Path, torch.dtype], torch.nn.Module]


def from_folder(kind: type[Any], folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Loads a part with its weights."""
    part: torch.nn.Module = kind.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, variant=own_variant(folder)
    )
    return part


def equip(
    pipe: DiffusionPipeline, parts: ModelParts, dtype: torch.dtype, load: Loader = from_folder
) -> DiffusionPipeline:
    """The pipeline with the changes applied.

    Args:
        pipe: The pipeline of the model.
        parts: The changes.
        dtype: Number format.
        load: Loads a part, given its class and folder.

    Raises:
        ModelError: There is no such class, or a part doesn't fit the model.
    """
    try:
        if parts.pipeline:
            more = {"controlnet": _controlnet(parts.controlnet, dtype, load)} if parts.controlnet else {}
            pipe = _pipeline_class(parts.pipeline).from_pipe(pipe, dtype=dtype, **more)
        for number, adapter in enumerate(parts.lora):
            file = Path(adapter.path)
            pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name=f"lora_{number}")
        if parts.lora:
            names = [f"lora_{number}" for number in range(len(parts.lora))]
            pipe.set_adapters(names, adapter_weights=[adapter.scale for adapter in parts.lora])
    except ModelError:
        raise
    except Exception as error:
        lacking = " LoRA files need the package peft." if "PEFT" in str(error) else ""
        raise ModelError(f"{type(pipe).__name__} rejects the [pipeline] table: {error}.{lacking}") from error
    return pipe


def _pipeline_class(name: str) -> Any:
    found = getattr(diffusers, name, None)
    if not isinstance(found, type) or not issubclass(found, DiffusionPipeline):
        known = [each for each in dir(diffusers) if each.endswith("Pipeline")]
        raise ModelError(f"diffusers has no pipeline class '{name}'.{did_you_mean(name, known)}")
    return found


def _controlnet(part: PartFile, dtype: torch.dtype, load: Loader) -> Any:
    name = str((read_json(Path(part.path) / "config.json", part.path) or {}).get("_class_name"))
    kind: Any = getattr(diffusers, name, None)
    if kind is None or "ControlNet" not in name:
        raise ModelError(f"{part.path} is not a diffusers ControlNet: its config.json names {name!r}.")
    return load(kind, Path(part.path), dtype)
