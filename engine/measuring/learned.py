"""Metrics based on networks that are not bundled: LPIPS, PickScore, aesthetic score.

Each one is used if its packages are installed and its weights are on disk; nothing is downloaded. Otherwise its edition
raises `Unmeasurable`, which says what is missing and how to get it. Torch is imported only when a picture is measured.
"""

import functools
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from engine.measuring import clip
from engine.measuring.evidence import Evidence, Subject, Unmeasurable

ALEXNET = "alexnet-owt-7be5be79.pth"
PICK_MODEL = "yuvalkirstain/PickScore_v1"
PICK_TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PICK_FILES = ("config.json", "model.safetensors")
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
AESTHETIC_MODEL, AESTHETIC_FILE = "trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth"
AESTHETIC_CLIP = "openai/clip-vit-large-patch14"


def lpips_edition(subject: Subject) -> str:
    """Networks and weights of LPIPS.

    Raises:
        Unmeasurable: A package or the weights are missing.
    """
    natural(subject)
    need_packages("LPIPS", "torchmetrics", "torchvision")
    weights = checkpoint("LPIPS", ALEXNET, f"https://download.pytorch.org/models/{ALEXNET}")
    return f"alexnet {clip.digest(weights)}, torchmetrics {version('torchmetrics')}"


def lpips(evidence: Evidence) -> float:
    """Learned perceptual distance to the reference, mean over frames (Zhang et al. 2018, arXiv:1801.03924, AlexNet).

    Raises:
        Unmeasurable: There is no reference, or pictures are too small for AlexNet.
    """
    import torch

    pairs = list(evidence.both_pictures())
    if min(evidence.pictures.shape[1:3]) < 32:
        raise Unmeasurable("LPIPS needs pictures of at least 32 pixels")
    network, found = _lpips(), []
    for pair in pairs:
        tensors = [torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255 for picture in pair]
        with torch.no_grad():
            found.append(float(network(*tensors)))
        network.reset()  # it would keep a running mean
    return float(np.mean(found))


def pick_score_edition(subject: Subject) -> str:
    """Weights of PickScore.

    Raises:
        Unmeasurable: They are not in the local hub cache.
    """
    natural(subject)
    return f"{PICK_MODEL} {clip.digest(_pick_folders()[0] / 'model.safetensors')}"


def pick_score(evidence: Evidence) -> float:
    """Scaled cosine of picture and prompt in the CLIP of PickScore, mean over frames (Kirstain et al. 2023,
    arXiv:2305.01569)."""
    judge = clip.load_judge(*_pick_folders())
    return judge.scale * float((clip.embedded(judge, evidence.pictures) @ judge.text(evidence.prompt)).mean())


def aesthetic_edition(subject: Subject) -> str:
    """Weights of the aesthetic score and of its CLIP.

    Raises:
        Unmeasurable: They are not in the local hub cache.
    """
    natural(subject)
    folder, head = _aesthetic_files()
    return f"{AESTHETIC_MODEL} {clip.digest(head)}, {AESTHETIC_CLIP} {clip.digest(folder / 'model.safetensors')}"


def aesthetic(evidence: Evidence) -> float:
    """LAION's aesthetic predictor V2 (Schuhmann et al. 2022, arXiv:2210.08402), mean over frames.

    Its layers have no activation between them, so they are one affine map of the CLIP vector.
    """
    folder, head = _aesthetic_files()
    weights, bias = _affine(head)
    return float((clip.embedded(clip.load_judge(folder), evidence.pictures) @ weights + bias).mean())


def natural(subject: Subject) -> None:
    """Refuses a model that does not generate natural pictures.

    Raises:
        Unmeasurable: It does not.
    """
    if subject.model.kind == "gaussian":
        raise Unmeasurable("not available: no network was trained on the patterns of the model 'gaussian'")


def need_packages(what: str, *names: str) -> None:
    """Checks that packages are installed, without importing them.

    Raises:
        Unmeasurable: Some are missing; the message names them.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        names = tuple(name.replace("_", "-") for name in missing)
        raise Unmeasurable(f"not available: {what} needs {' and '.join(names)}; `pip install {' '.join(names)}`")


def checkpoint(what: str, name: str, url: str) -> Path:
    """A file in torch's download cache whose name ends with the first digits of its SHA-256.

    Raises:
        Unmeasurable: It is missing, or its digest is wrong (torch unpickles it).
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    folder = Path(os.environ.get("TORCH_HOME") or cache).expanduser() / "hub" / "checkpoints"
    if not (folder / name).is_file():
        raise Unmeasurable(
            f"not available: {what} needs {folder / name}; run `curl --create-dirs -Lo {folder / name} {url}`"
        )
    if not Path(name).stem.endswith(f"-{clip.digest(folder / name)}"):
        raise Unmeasurable(
            f"not available: {folder / name} is damaged or a different file; remove it and download it from {url}"
        )
    return folder / name


def _pick_folders() -> tuple[Path, Path]:
    return _hub("PickScore", PICK_MODEL, PICK_FILES), _hub("PickScore", PICK_TOKENIZER, TOKENIZER_FILES)


def _aesthetic_files() -> tuple[Path, Path]:
    head = _hub("the aesthetic score", AESTHETIC_MODEL, (AESTHETIC_FILE,))
    return _hub("the aesthetic score", AESTHETIC_CLIP, clip.NEEDED), head / AESTHETIC_FILE


def _hub(what: str, repo: str, names: tuple[str, ...]) -> Path:
    folder = clip.in_hub_cache(repo, names)
    if folder is None:
        raise Unmeasurable(
            f"not available: {what} needs {repo} in the local hub cache; run `hf download {repo} {' '.join(names)}`"
        )
    return folder


@functools.cache
def _lpips() -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)


@functools.cache
def _affine(head: Path) -> tuple[np.ndarray, float]:
    """Weights (D,) and bias of the composed linear layers."""
    import torch

    state = torch.load(head, map_location="cpu", weights_only=True)
    names = sorted({int(name.split(".")[1]) for name in state})
    layers = [(state[f"layers.{n}.weight"].double().numpy(), state[f"layers.{n}.bias"].double().numpy()) for n in names]
    weights, bias = layers[0]
    for weight, offset in layers[1:]:
        weights, bias = weight @ weights, weight @ bias + offset
    return weights[0], float(bias[0])
