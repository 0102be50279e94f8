"""Metrics based on a CLIP model. Torch is imported only when a picture is measured.

The CLIP model is the one in the model's own folder (`clip/`, as in the bundled model), else the largest of OpenAI's in
the local hub cache. Its name and a digest of its weights are part of the metric's version, since scores of different
CLIP models are not comparable. The labels of "recognised" come from `vocabulary.txt` in the model's folder, else from
the bundled one.
"""

import functools
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.measuring.evidence import Evidence, Pictures, Subject, Unmeasurable
from engine.study.source import BUNDLED, BUNDLED_VIDEO, ModelSource

if TYPE_CHECKING:
    from engine.measuring.clip_model import ClipModel

HUB_CLIPS = ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch16", "openai/clip-vit-base-patch32")
# Cached vectors, enough for the steps of a few runs, so that all metrics of a picture share them; 16 frames of 768
# numbers take 48 KiB.
REMEMBERED = 64
_remembered: dict[tuple["ClipModel", tuple[int, ...], bytes], np.ndarray] = {}
_judging = {"device": ""}  # the best there is
ATTRIBUTES = "attributes.json"  # in a model's folder: what its prompts may name; see `attributes.py`
NEEDED = ("config.json", "model.safetensors", "tokenizer_config.json")


def edition(subject: Subject) -> str:
    """Name and digest of the CLIP model used for a model's pictures.

    Raises:
        Unmeasurable: There is none.
    """
    folder = find_clip(subject.model)
    name = folder.parents[1].name.removeprefix("models--").replace("--", "/") if _is_hub(folder) else "own clip"
    return f"{name} {digest(folder / 'model.safetensors')}"


def vocabulary_edition(subject: Subject) -> str:
    """As `edition`, with a digest of the labels.

    Raises:
        Unmeasurable: There is no CLIP model, or there are no labels.
    """
    path = vocabulary_path(subject.model)
    return f"{edition(subject)}, labels {digest(path)}"


def clip_score(evidence: Evidence) -> float:
    """100 max(0, cos(picture, prompt)), mean over frames (Hessel et al. 2021, arXiv:2104.08718; scaled to 100)."""
    judge = judge_of(evidence.subject.model)
    cosines = embedded(judge, evidence.pictures) @ judge.text(evidence.prompt)
    return float(100 * np.maximum(cosines, 0).mean())


def middle_clip_score(evidence: Evidence) -> float:
    """The CLIP score of frame F // 2 of F."""
    judge = judge_of(evidence.subject.model)
    middle = embedded(judge, evidence.pictures)[len(evidence.pictures) // 2]
    return float(100 * max(middle @ judge.text(evidence.prompt), 0))


def temporal_consistency(evidence: Evidence) -> float:
    """Mean cosine between the CLIP vectors of consecutive frames."""
    vectors = embedded(judge_of(evidence.subject.model), evidence.pictures)
    return float((vectors[1:] * vectors[:-1]).sum(axis=1).mean())


def similarity_to_final(evidence: Evidence) -> float:
    """Cosine between the CLIP vectors of a step's x0 and the final picture, mean over video frames."""
    judge = judge_of(evidence.subject.model)
    return float((embedded(judge, evidence.pictures) * embedded(judge, evidence.final())).sum(axis=1).mean())


def vectors(subject: Subject, pictures: Pictures) -> np.ndarray:
    """Unit vectors (N, D) of pictures (N, H, W, 3), for metrics of whole lanes.

    Raises:
        Unmeasurable: There is no CLIP model.
    """
    return judge_of(subject.model).pictures(pictures)


def recognised(evidence: Evidence) -> float:
    """1.0 if the prompt's concept is the nearest of all labels, else 0.0 (videos: share of frames).

    Raises:
        Unmeasurable: The prompt does not name a concept of the vocabulary.
    """
    labels = vocabulary(vocabulary_path(evidence.subject.model))
    wanted = labels.index(concept(evidence.prompt, labels))
    judge = judge_of(evidence.subject.model)
    similarity = embedded(judge, evidence.pictures) @ np.stack([judge.text(label) for label in labels]).T
    return float(np.mean(similarity.argmax(axis=1) == wanted))


def check_prompt(subject: Subject, prompt: str) -> None:
    """Checks that a prompt names a concept of the vocabulary.

    Raises:
        Unmeasurable: It doesn't.
    """
    concept(prompt, vocabulary(vocabulary_path(subject.model)))


def preference(model: ModelSource, pictures: Pictures, texts: tuple[str, str]) -> np.ndarray:
    """Softmax probability (N,) of the first text against the second for pictures (N, H, W, 3).

    Raises:
        Unmeasurable: There is no CLIP model.
    """
    judge = judge_of(model)
    first, second = (embedded(judge, pictures) @ np.stack([judge.text(text) for text in texts]).T).T
    return np.asarray(1 / (1 + np.exp(-judge.scale * (first - second))))


def concept(prompt: str, labels: tuple[str, ...]) -> str:
    """The label named by a prompt: the whole prompt, or the part before its first comma.

    Raises:
        Unmeasurable: Neither is a label.
    """
    for text in (prompt, prompt.partition(",")[0]):
        if (name := text.strip().lower()) in labels:
            return name
    raise Unmeasurable("the prompt names no concept of vocabulary.txt")


def judge_of(model: ModelSource) -> "ClipModel":
    """The CLIP model used for a model's pictures, loaded once.

    Raises:
        Unmeasurable: There is none.
    """
    return load_judge(find_clip(model))


def find_clip(model: ModelSource) -> Path:
    """The folder of the CLIP model used for a model's pictures.

    Raises:
        Unmeasurable: There is none; the message says how to get one.
    """
    if model.kind == "gaussian":
        raise Unmeasurable("not available: no CLIP model was trained on the patterns of the model 'gaussian'")
    home = BUNDLED if model.folder == BUNDLED_VIDEO else model.folder
    if home is not None and (home / "clip").is_dir():
        folder = home / "clip"
        missing = [name for name in NEEDED if not (folder / name).is_file()]
        if missing:
            raise Unmeasurable(f"not available: {folder} lacks {', '.join(missing)}; fetch the model again")
        return folder
    for repo in HUB_CLIPS:
        if found := in_hub_cache(repo):
            return found
    raise Unmeasurable(f"not available: no CLIP model in the local hub cache; run `hf download {HUB_CLIPS[-1]}`")


def vocabulary_path(model: ModelSource) -> Path:
    """The file with the labels of a model.

    Raises:
        Unmeasurable: There is none.
    """
    own = model.folder / "vocabulary.txt" if model.folder else None
    if own is not None and own.with_name(ATTRIBUTES).is_file():
        raise Unmeasurable("not available: the model's prompts name attributes, not one concept")
    for path in (own, BUNDLED / "vocabulary.txt"):
        if path is not None and path.is_file():
            return path
    raise Unmeasurable(f"not available: {BUNDLED / 'vocabulary.txt'} is missing")


@functools.cache
def vocabulary(path: Path) -> tuple[str, ...]:
    """The labels in a file, one per line."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line)


def in_hub_cache(repo: str, names: Sequence[str] = NEEDED) -> Path | None:
    """The folder of a repository in the local hub cache; None unless all the named files are there."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repo, name) for name in names]
    return Path(str(found[0])).parent if all(isinstance(path, str) for path in found) else None


def digest(path: Path) -> str:
    """First 8 characters of a file's SHA-256; in the hub cache, large files link to blobs named by theirs."""
    blob = path.resolve()
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return blob.name[:8]
    stat = path.stat()
    return _digest_of(blob, stat.st_size, stat.st_mtime_ns)


def judge_on(device: str) -> None:
    """Judges on a device from now on: that of the run, not the best there is."""
    if device != _judging["device"]:
        load_judge.cache_clear()
        _judging["device"] = device


@functools.lru_cache(maxsize=3)
def load_judge(folder: Path, tokenizer: Path | None = None) -> "ClipModel":
    """Loads a CLIP model once; its tokenizer may be in another folder."""
    from engine.measuring.clip_model import ClipModel

    return ClipModel(folder, tokenizer, _judging["device"])


def embedded(judge: "ClipModel", pictures: Pictures) -> np.ndarray:
    """Unit vectors of pictures, cached for other metrics of the same pictures."""
    key = (judge, pictures.shape, sha256(pictures.tobytes()).digest())
    if key not in _remembered:
        while len(_remembered) >= REMEMBERED:
            del _remembered[next(iter(_remembered))]
        _remembered[key] = judge.pictures(pictures)
    return _remembered[key]


def _is_hub(folder: Path) -> bool:
    return folder.parent.name == "snapshots"


@functools.cache
def _digest_of(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        found = sha256()
        while chunk := stream.read(1 << 22):
            found.update(chunk)
    return found.hexdigest()[:8]
