"""Puts the parts that a study names into a loaded pipeline: another class, a ControlNet, LoRA files."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from engine.errors import ModelError, did_you_mean
from engine.study.model_files import read_json
from engine.study.model_parts import ModelParts, PartFile


def equip(pipe: DiffusionPipeline, parts: ModelParts, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline with the parts in it.

    Raises:
        ModelError: There is no such class, or something doesn't fit the model.
    """
    try:
        if parts.pipeline:
            more = {"controlnet": _controlnet(parts.controlnet, dtype)} if parts.controlnet else {}
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
        raise ModelError(f"{type(pipe).__name__} doesn't take its [pipeline] table: {error}.{lacking}") from error
    return pipe


def _pipeline_class(name: str) -> Any:
    found = getattr(diffusers, name, None)
    if not isinstance(found, type) or not issubclass(found, DiffusionPipeline):
        known = [each for each in dir(diffusers) if each.endswith("Pipeline")]
        raise ModelError(f"diffusers has no pipeline class '{name}'.{did_you_mean(name, known)}")
    return found


def _controlnet(part: PartFile, dtype: torch.dtype) -> Any:
    name = str((read_json(Path(part.path) / "config.json", part.path) or {}).get("_class_name"))
    kind: Any = getattr(diffusers, name, None)
    if kind is None or "ControlNet" not in name:
        raise ModelError(f"{part.path} is no ControlNet of diffusers: its config.json names {name!r}.")
    return kind.from_pretrained(part.path, dtype=dtype, use_safetensors=True, local_files_only=True)
