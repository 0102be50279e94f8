"""Pipelines loaded by the user's program: their identity, and their use without changing them."""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from engine.errors import LabError
from engine.sampling.standins import family, model_config, with_parts
from engine.study.source import IN_MEMORY, ModelSource

_PIPELINES: dict[str, DiffusionPipeline] = {}


def register_pipeline(pipe: DiffusionPipeline) -> ModelSource:
    """Registers a loaded pipeline as a model, identified by a digest of its weights and configurations.

    Adapters such as LoRA and their scales are part of it. The pipeline is not changed. Changing its weights makes it
    another model, which must be registered again.

    Returns:
        Its source, which `find_model` then finds by `source.name`.

    Raises:
        LabError: It is on another GPU than the first.
    """
    if pipe.device.type == "cuda" and pipe.device.index not in {None, 0}:
        raise LabError(
            f"The pipeline is on {pipe.device}, and name, clock and energy are told of cuda:0. "
            f"Hide the other GPUs: set CUDA_VISIBLE_DEVICES={pipe.device.index} before Python starts."
        )
    digest, size = sha256(), 0
    for line in _identity(pipe):
        digest.update(line)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            size += sum(tensor.numel() * tensor.element_size() for tensor in part.state_dict().values())
    fingerprint = digest.hexdigest()
    source = ModelSource(
        name=f"memory:{type(pipe).__name__}:{fingerprint[:12]}",
        kind="memory",
        folder=None,
        revision="",
        fingerprint=fingerprint,
        pipeline=type(pipe).__name__,
        size=family(pipe).size or _native_size(pipe),
        scheduler_config=json.loads(json.dumps(model_config(pipe), default=str)),
        bytes=size,
    )
    IN_MEMORY[source.name], _PIPELINES[source.name] = source, pipe
    return source


def loaded_pipeline(source: ModelSource, dtype: str) -> DiffusionPipeline:
    """A copy of a registered pipeline that shares its weights and shows no progress bars.

    Raises:
        LabError: It has another number format than requested.
    """
    pipe = _PIPELINES[source.name]
    if str(pipe.dtype) != f"torch.{dtype}":
        raise LabError(
            f"The pipeline is in {str(pipe.dtype).removeprefix('torch.')}, but the study asks for {dtype}; set dtype "
            "in the study, or convert the pipeline."
        )
    twin = with_parts(pipe)
    vars(twin)["_progress_bar_config"] = {"disable": True}
    return twin


def _identity(pipe: DiffusionPipeline) -> Iterator[bytes]:
    """Everything in a pipeline that affects pictures, as bytes in a fixed order."""
    yield type(pipe).__name__.encode()
    for name, part in sorted(pipe.components.items()):
        yield f"\0{name} {type(part).__name__} {_configuration(part)}".encode()
        if not isinstance(part, nn.Module):
            continue
        for key, tensor in sorted(part.state_dict().items()):
            yield f"\0{key} {tuple(tensor.shape)} {tensor.dtype}".encode()
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for key, module in part.named_modules():
            if getattr(module, "scaling", None) and hasattr(module, "active_adapters"):
                state = [module.scaling, list(module.active_adapters), getattr(module, "merged_adapters", [])]
                yield f"\0{key} {state}".encode()


def _configuration(part: Any) -> str:
    config: Any = getattr(part, "config", None)
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config) if config else {}
    kept = {key: value for key, value in plain.items() if not str(key).startswith("_")}
    return json.dumps(kept, sort_keys=True, default=str)


def _native_size(pipe: Any) -> tuple[int, int] | None:
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    sample, factor = (
        getattr(getattr(denoiser, "config", None), "sample_size", None),
        getattr(pipe, "vae_scale_factor", 0),
    )
    if sample is None or not factor:
        return None
    height, width = sample if isinstance(sample, list | tuple) else (sample, sample)
    return int(width) * factor, int(height) * factor
