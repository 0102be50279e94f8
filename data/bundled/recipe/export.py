"""Put the trained parts together as one diffusers folder in half precision, replacing files in place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel

from data.bundled.recipe.common import BUNDLED_DIR, RecipeError, Stage, stage_from_command_line, write_json
from data.bundled.recipe.dataset import load_dataset, load_tokenizer
from data.bundled.recipe.train_denoiser import build_scheduler, load_text_tower


def assemble(stage: Stage) -> StableDiffusionPipeline:
    """Return the pipeline made of what the stages left in the work folder."""
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(stage.need("autoencoder", "train_autoencoder")),
        text_encoder=load_text_tower(stage),
        tokenizer=load_tokenizer(stage),
        unet=UNet2DConditionModel.from_pretrained(stage.need("denoiser", "train_denoiser")),
        scheduler=DDIMScheduler.from_config(build_scheduler().config, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def load_in_float32(config_file: Path) -> None:
    """Make transformers turn the half-precision weights into float32 on loading, as diffusers does by default.

    Otherwise a pipeline loaded without `torch_dtype` would mix both and fail at its first step.
    """
    config = json.loads(config_file.read_text(encoding="utf-8"))
    for table in (config, *(v for v in config.values() if isinstance(v, dict))):
        if "dtype" in table:
            table["dtype"] = "float32"
    write_json(config_file, config)


def forget_origin(config_file: Path) -> None:
    """Drop the folder on the trainer's disk that diffusers notes in a config."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    write_json(config_file, config)


def check_sizes(folder: Path, largest_file_mb: float, largest_folder_mb: float) -> None:
    """Raise RecipeError if a file or the folder is larger than allowed, in megabytes of a million bytes."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    for path, size in sizes.items():
        if size > largest_file_mb * 1e6:
            raise RecipeError(f"{path.name} has {size:,} bytes, over {largest_file_mb} MB; lower [export] shard_size.")
    if (total := sum(sizes.values())) > largest_folder_mb * 1e6:
        raise RecipeError(f"{folder} has {total:,} bytes, over {largest_folder_mb} MB; make the model smaller.")


def replace_files(source: Path, target: Path) -> None:
    """Move every file of `source` over `target`, weights first, and drop weights that are no longer there."""
    files = sorted((p for p in source.rglob("*") if p.is_file()), key=lambda p: p.suffix != ".safetensors")
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o644)
        os.replace(path, place)
    kept = {path.relative_to(source) for path in files}
    for folder in {path.parent for path in kept if path.parent != Path(".")}:
        for old in (target / folder).iterdir():
            if old.is_file() and old.relative_to(target) not in kept:
                old.unlink()


def run(stage: Stage, target: Path | None = None) -> Path:
    """Write the pipeline, CLIP and the vocabulary to `target` (the bundled folder unless given)."""
    target = target or Path(stage.table.get("target", BUNDLED_DIR))
    target.mkdir(parents=True, exist_ok=True)
    shard = stage.require("shard_size")
    temporary = Path(tempfile.mkdtemp(dir=target, prefix=".export-"))
    try:
        pipeline = assemble(stage).to(dtype=torch.float16)
        pipeline.save_pretrained(temporary, max_shard_size=shard)
        clip = CLIPModel.from_pretrained(stage.need("clip", "train_clip")).half()
        clip.save_pretrained(temporary / "clip", max_shard_size=shard)
        load_tokenizer(stage).save_pretrained(temporary / "clip")
        for part in ("text_encoder", "clip"):
            load_in_float32(temporary / part / "config.json")
        for part in ("unet", "vae"):
            forget_origin(temporary / part / "config.json")
        vocabulary = "\n".join(load_dataset(stage).labels) + "\n"
        (temporary / "vocabulary.txt").write_text(vocabulary, encoding="utf-8")
        check_sizes(temporary, stage.require("largest_file_mb"), stage.require("largest_folder_mb"))
        replace_files(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


if __name__ == "__main__":
    print(run(stage_from_command_line("export")))
