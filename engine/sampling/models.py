"""Downloads models and loads them as unmodified diffusers pipelines."""

import importlib
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from engine.errors import LabError, ModelError
from engine.sampling.equipping import equip
from engine.sampling.room import is_out_of_memory
from engine.sampling.standins import denoisers
from engine.study.model_files import VARIANTS, read_json, skipped_parts, variant_of
from engine.study.source import ModelSource, find_model

Memory = Literal["standard", "low", "slicing"]


@dataclass(frozen=True)
class Model:
    """A loaded pipeline and where it came from.

    Attributes:
        offloaded: Whether only the active component is on the device.
    """

    source: ModelSource
    pipe: DiffusionPipeline
    device: str
    offloaded: bool = False

    @property
    def denoiser(self) -> torch.nn.Module:
        """The first denoiser."""
        return next(iter(denoisers(self.pipe).values()))

    @property
    def parameters(self) -> int:
        """Number of parameters of all components."""
        parts = [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    def take_turns(self) -> None:
        """Moves every component off the device if the model is offloaded, so that the next one has it for itself."""
        if self.offloaded:
            self.pipe.maybe_free_model_hooks()

    def turn_to_texts(self) -> None:
        """As `take_turns`, if a denoiser is on the device: text encoders would join it there."""
        parts = denoisers(self.pipe).values() if self.offloaded else ()
        if any(next(part.parameters()).device.type != "cpu" for part in parts):
            self.take_turns()


def fetch(source: ModelSource, dtype: str = "float32") -> ModelSource:
    """Downloads the safetensors and configuration files of a hub model that is not on this machine.

    Args:
        source: From `find_model`.
        dtype: Number format it will run in; for float16 the half-size variant is downloaded if there is one.

    Raises:
        ModelError: No network, no such model, or it has no safetensors files.
    """
    if source.fingerprint is not None:
        return source
    repo, _, revision = source.name.partition("@")
    quiet()
    try:
        _download(repo, revision, ("fp16", None, *VARIANTS) if dtype == "float16" else (None, *VARIANTS))
    except Exception as error:
        raise ModelError(
            f"Model '{source.name}' is not in the local cache and could not be downloaded: {_why_not_fetched(error)}. "
            f"Run `hf download {repo}` with network access, or give the folder of a local copy."
        ) from error
    fetched = find_model(source.name)
    if fetched.fingerprint is None:
        raise ModelError(
            f"Model '{source.name}' is incomplete in the local cache, and the rest could not be downloaded. Run "
            f"`hf download {repo}` with network access."
        )
    return fetched


def _download(repo: str, revision: str, variants: tuple[str | None, ...]) -> None:
    """Downloads a repository without its safety checker, in the first variant that has weights for every part."""
    for variant in variants:
        try:
            DiffusionPipeline.download(
                repo, revision=revision or None, use_safetensors=True, variant=variant, safety_checker=None
            )
        except (OSError, ValueError) as error:
            lacking = "safetensors" in str(error) or "variant" in str(error)
            if not lacking or variant == variants[-1]:
                raise
        else:
            return


# By the name of an error of huggingface_hub, its HTTP client or the system; the first one in the chain counts.
_NOT_FETCHED = {
    "OfflineModeIsEnabled": "offline mode is on (HF_HUB_OFFLINE is set); unset it",
    "GatedRepoError": "access is restricted; accept its terms on huggingface.co and run `hf auth login`",
    "RepositoryNotFoundError": "the hub has no such public model (for a private one run `hf auth login`)",
    "RevisionNotFoundError": "the model has no such revision",
    "TransportError": "the hub cannot be reached",
    "ConnectionError": "the hub cannot be reached",
    "TimeoutError": "the hub cannot be reached",
    "gaierror": "the hub cannot be reached",
}


def _why_not_fetched(error: BaseException) -> str:
    """Why a download failed, without the libraries' advice about their own options."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 20:
        chain.append(before)
    for each in chain:
        for kind in type(each).__mro__:
            if kind.__name__ in _NOT_FETCHED:
                return _NOT_FETCHED[kind.__name__]
    if "safetensors" in str(error):
        return "it has no safetensors weights, the only ones that are read"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200].rstrip('. ')}"


def load(source: ModelSource, device: str, dtype: str, memory: Memory = "standard") -> Model:
    """Loads a model.

    Args:
        source: From `find_model`, downloaded.
        device: "cuda", "mps" or "cpu".
        dtype: "float32", "float16" or "bfloat16".
        memory: "low" decodes one picture at a time, and on CUDA keeps only the active component on the GPU; "slicing"
            also slices attention, which is slower and takes more memory where torch has fused attention.

    Raises:
        ModelError: The pipeline can't be loaded, or doesn't fit into the memory of the device.
        LabError: The device or number format can't be used here.
    """
    check_device(device, dtype)
    quiet()
    if source.kind == "memory":
        from engine.sampling.loaded import loaded_pipeline

        return Model(source, loaded_pipeline(source, dtype), device)
    pipe = _built(source, getattr(torch, dtype))
    offloaded = memory != "standard" and device == "cuda"
    try:
        _place(pipe, device, memory, offloaded)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        remedy = "choose a smaller model" if memory != "standard" else "run with --memory low"
        raise ModelError(f"Model '{source.name}' does not fit into the memory of {device}: {remedy}.") from error
    return Model(source, pipe, device, offloaded)


def _built(source: ModelSource, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline of a source, on the CPU."""
    if source.family.builder:
        module, _, function = source.family.builder.partition(":")
        pipe: DiffusionPipeline = getattr(importlib.import_module(module), function)(dtype)
    else:
        pipe = _from_folder(source, dtype)
    if source.parts:
        pipe = equip(pipe, source.parts, dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _place(pipe: DiffusionPipeline, device: str, memory: Memory, offloaded: bool) -> None:
    if memory == "slicing":
        pipe.enable_attention_slicing()
    if memory != "standard" and hasattr(pipe.vae, "enable_slicing"):
        pipe.vae.enable_slicing()
    if offloaded:
        pipe.enable_model_cpu_offload()
    else:
        pipe.to(device)


def check_device(device: str, dtype: str) -> None:
    """Checks that torch can use the device with the number format.

    Raises:
        LabError: It cannot.
    """
    if not usable(device):
        raise LabError(
            f"This torch ({torch.__version__}) cannot use '{device}' here; run with --device cpu, or install a build "
            "of torch for it. `python -m engine doctor` shows what is available."
        )
    if device == "cpu" and dtype == "float16":
        raise LabError("float16 is for GPUs; on a CPU use dtype float32 or bfloat16.")


def usable(device: str) -> bool:
    """Whether this torch can use "cuda", "mps" or "cpu" here."""
    if device == "cuda":
        return torch.cuda.is_available()
    return device == "cpu" or torch.backends.mps.is_available()


def quiet() -> None:
    """Silences progress bars and notices of the libraries."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # SDXL's pipeline calls its own deprecated method whenever it decodes in float16.
    warnings.filterwarnings("ignore", "`upcast_vae` is deprecated", FutureWarning)
    # Brownian trees warn when float32 times differ from their own ends in the last digit.
    warnings.filterwarnings("ignore", r"Should have t[ab][<>]=t[01] but got", UserWarning)


def _from_folder(source: ModelSource, dtype: torch.dtype) -> DiffusionPipeline:
    assert source.folder is not None  # holds for every fetched source that is not computed
    index = read_json(source.folder / "model_index.json", source.name) or {}
    options: dict[str, Any] = dict.fromkeys(skipped_parts(index))
    try:
        with warnings.catch_warnings():
            # The pipeline warns when it updates an old configuration, which `as_the_pipeline_edits` takes into account.
            warnings.simplefilter("ignore", FutureWarning)
            if source.file is not None:
                kind: Any = getattr(diffusers, str(index.get("_class_name")))
                return kind.from_single_file(
                    str(source.file), config=str(source.folder), dtype=dtype, local_files_only=True, **options
                )
            return DiffusionPipeline.from_pretrained(
                source.folder,
                dtype=dtype,
                use_safetensors=True,
                variant=variant_of(source.folder, index),
                local_files_only=True,
                **options,
            )
    except Exception as error:
        raise ModelError(f"Model '{source.name}' does not load: {type(error).__name__}: {error}") from error
