"""Finds and describes models from their files alone: no torch, no loading, no network."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import ModelError, did_you_mean
from engine.paths import DATA
from engine.study.families import FAMILIES, Family, family_of
from engine.study.model_files import (
    IncompleteError,
    check_whole,
    configurations,
    file_digest,
    is_part,
    loaded_files,
    parts_of,
    read_json,
)

if TYPE_CHECKING:
    from engine.study.model_parts import ModelParts

EXAMPLE_HUB_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"
BUNDLED = DATA / "bundled"
BUNDLED_VIDEO = DATA / "video"
# Models that are part of the project, by name.
SHIPPED = {"bundled": BUNDLED, "bundled_video": BUNDLED_VIDEO}
# Pipelines whose constructor updates old configurations.
MENDED = frozenset(
    f"StableDiffusion{kind}Pipeline" for kind in ("", "Img2Img", "Inpaint", "PAG", "PAGImg2Img", "PAGInpaint")
)
# Schedulers with a `steps_offset` (0 by default), and those that clip by default.
WITH_OFFSET = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDPM", "PNDM", "LCM", "TCD", "SASolver", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete"),
        *("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverMultistep", "DPMSolverSDE"),
        *("DEISMultistep", "UniPCMultistep"),
    )
)
CLIPPING = frozenset({"DDIMScheduler", "DDPMScheduler"})


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, and what its files say.

    Attributes:
        name: Its name in the study.
        kind: "folder" (also bundled models), "hub", "gaussian" for a computed model without files, "memory" for a
            pipeline that a program has loaded, or "file" for a single-file checkpoint.
        folder: Folder of its files, or of the configurations of a single file; None for computed models and for hub
            models that are not downloaded.
        revision: Commit on the hub, if known.
        fingerprint: Digest of all files that are loaded; None if they are not downloaded.
        pipeline: Pipeline class name.
        size: Native width and height in pixels.
        scheduler_config: Its own scheduler configuration.
        bytes: Size of its weights.
        prompted: Whether it takes text or a picture.
        parts: Changes of the study to it.
        file: The single-file checkpoint.
    """

    name: str
    kind: Literal["folder", "hub", "gaussian", "memory", "file"]
    folder: Path | None
    revision: str
    fingerprint: str | None
    pipeline: str
    size: tuple[int, int] | None
    scheduler_config: dict[str, Any]
    bytes: int = 0
    prompted: bool = True
    parts: "ModelParts | None" = None
    file: Path | None = None

    @property
    def family(self) -> Family:
        """The registered family of this model."""
        return FAMILIES[self.name] if self.kind == "gaussian" else family_of(self.pipeline, self.scheduler_config)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels on a side of one latent pixel; 8 where no autoencoder says otherwise."""
        return (_pixels_per_latent(self.folder, self.name) if self.folder else None) or 8

    @property
    def model_id(self) -> str:
        """Stable id: the first 16 digits of the fingerprint.

        Raises:
            ModelError: The model is not downloaded.
        """
        if self.fingerprint is None:
            raise ModelError(f"Model '{self.name}' is not downloaded yet.")
        return self.fingerprint[:16]


# Pipelines loaded by a program (engine/sampling/loaded.py), by the name they get there.
IN_MEMORY: dict[str, ModelSource] = {}


def find_model(name: str) -> ModelSource:
    """Finds a model: `bundled`, `gaussian`, a diffusers folder or single file, or a hub id `owner/name[@revision]`.

    Raises:
        ModelError: It is missing, damaged, not a pipeline folder, or has only pickled weights.
    """
    if name in IN_MEMORY:
        return IN_MEMORY[name]
    if name in FAMILIES and FAMILIES[name].builder:
        return _computed(FAMILIES[name])
    if name in SHIPPED:
        return _from_folder(name, SHIPPED[name], "folder", "")
    try:
        path = Path(name).expanduser()
        if path.is_file() and path.suffix == ".safetensors":
            return _from_file(path)
        if path.exists():
            return _from_folder(str(path), path.resolve(), "folder", "")
    except (OSError, RuntimeError) as error:  # a name too long for a path, no home folder
        raise ModelError(f"No model '{name[:200]}': {error}.") from error
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        known = did_you_mean(name, [*SHIPPED, "gaussian"])
        raise ModelError(
            f"No model '{name}'.{known} Give 'bundled', 'bundled_video', 'gaussian', a diffusers folder, or a hub id "
            f"such as '{EXAMPLE_HUB_ID}'."
        )
    repo, _, revision = name.partition("@")
    index = hub_file(repo, "model_index.json", revision or "main")
    snapshot = index.parent if index is not None else None
    if snapshot is None:
        return ModelSource(name, "hub", None, revision, None, "", None, {})
    try:
        return _from_folder(name, snapshot, "hub", snapshot.name)
    except IncompleteError:
        # An interrupted download, which a run continues.
        return ModelSource(name, "hub", None, revision, None, "", None, {})


def _from_file(path: Path) -> ModelSource:
    """A single-file checkpoint; most of its properties are unknown without configurations."""
    check_whole(path)
    size = path.stat().st_size
    return ModelSource(str(path), "file", None, "", file_digest(path), "", None, {}, size, file=path.resolve())


def configured(source: ModelSource, folder: Path) -> ModelSource:
    """A single-file checkpoint with the configurations of a model folder, whose weights are not read.

    Raises:
        ModelError: The folder is not a model folder.
    """
    described = _from_folder(source.name, folder, "folder", "", weights=False)
    identity = sha256(f"{source.fingerprint}\0{described.fingerprint}".encode()).hexdigest()
    return replace(described, kind="file", fingerprint=identity, bytes=source.bytes, file=source.file)


def _from_folder(
    name: str, folder: Path, kind: Literal["folder", "hub"], revision: str, *, weights: bool = True
) -> ModelSource:
    index = read_json(folder / "model_index.json", name) if folder.is_dir() else None
    if index is None:
        raise ModelError(f"{folder} is not a diffusers pipeline folder: it has no model_index.json.")
    pipeline = str(index.get("_class_name", ""))
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json", name) or {}
    family = family_of(pipeline, scheduler)
    denoiser = next((part for part in family.denoisers if is_part(index.get(part))), None)
    if denoiser is None:
        raise ModelError(f"{folder}: {pipeline} has no denoiser ({' or '.join(family.denoisers)}).")
    digest, size = sha256(), 0
    for file in loaded_files(folder, index) if weights else configurations(folder, index):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file_digest(file)}\n".encode())
        size += file.stat().st_size if file.suffix == ".safetensors" else 0
    config = read_json(folder / denoiser / "config.json", name) or {}
    scheduler, sample = as_the_pipeline_edits(pipeline, scheduler, config)
    return ModelSource(
        name=name,
        kind=kind,
        folder=folder,
        revision=revision,
        fingerprint=digest.hexdigest(),
        pipeline=pipeline,
        size=family.size or _native_size(folder, sample, name),
        scheduler_config=scheduler,
        bytes=size,
        prompted=any(part.startswith(("text_encoder", "tokenizer", "image_encoder")) for part in parts_of(index)),
    )


def as_the_pipeline_edits(
    pipeline: str, scheduler_config: Mapping[str, Any], denoiser_config: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Scheduler configuration and sample size after the pipeline's constructor, which updates those of old folders.

    Args:
        pipeline: Class name.
        scheduler_config: As in the model's files.
        denoiser_config: As in the model's files.
    """
    config, sample = dict(scheduler_config), denoiser_config.get("sample_size")
    if pipeline not in MENDED:
        return config, sample
    if "steps_offset" in config or config.get("_class_name") in WITH_OFFSET:
        config["steps_offset"] = 1
    if config.get("clip_sample", config.get("_class_name") in CLIPPING) is True:
        config["clip_sample"] = False
    release = re.match(r"0\.(\d+)\.", str(denoiser_config.get("_diffusers_version", "")))
    if release and int(release[1]) < 9 and isinstance(sample, int) and sample < 64:
        sample = 64
    return config, sample


def _native_size(folder: Path, sample: Any, name: str) -> tuple[int, int] | None:
    factor = _pixels_per_latent(folder, name)
    if sample is None or factor is None:
        return None
    height, width = sample if isinstance(sample, list) else (sample, sample)
    return width * factor, height * factor


def _pixels_per_latent(folder: Path, name: str) -> int | None:
    channels = (read_json(folder / "vae" / "config.json", name) or {}).get("block_out_channels")
    return 2 ** (len(channels) - 1) if channels else None


def hub_file(repo: str, name: str, revision: str = "main") -> Path | None:
    """A file of a hub repository if it is downloaded, else None.

    Raises:
        ModelError: The repository name is invalid.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, name, revision=revision)
    except HFValidationError as error:
        raise ModelError(f"No model '{repo}': {str(error).partition(':')[0]}.") from error
    return Path(found) if isinstance(found, str) else None


def _computed(family: Family) -> ModelSource:
    """A model built by a function of the project."""
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
