"""How well the autoencoder gives back pictures, also ones it has never seen; part of stage 5."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from data.bundled.recipe.common import RecipeError, Stage
from data.bundled.recipe.dataset import Dataset, to_unit
from data.bundled.recipe.judge import BATCH, quartiles


@torch.no_grad()
def psnr_of_each(autoencoder: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Return each picture's peak signal-to-noise ratio in dB after encoding and decoding; pictures are uint8."""
    autoencoder, values = autoencoder.float().eval(), []
    for chunk in pictures.split(BATCH):
        x = to_unit(chunk).to(autoencoder.device)
        decoded = autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        values += [10 * math.log10(4 / max(e, 1e-10)) for e in (decoded - x).square().mean((1, 2, 3)).tolist()]
    return torch.tensor(values)


def summary(values: torch.Tensor) -> dict[str, Any]:
    """Return number, mean and quartiles."""
    return {"n": len(values), "mean": values.mean().item(), "quartiles": quartiles(values)}


def by_style(values: torch.Tensor, styles: list[str]) -> dict[str, Any]:
    """Return the summary of all values and that of each style's."""
    report = {"all": summary(values)}
    for style in dict.fromkeys(styles):
        report[style] = summary(values[[i for i, other in enumerate(styles) if other == style]])
    return report


def read_rows(stage: Stage, name: str) -> list[dict[str, Any]]:
    """Return what `build_dataset` wrote about the pictures in `dataset/name`."""
    rows: list[dict[str, Any]] = json.loads(
        stage.need(f"dataset/{name}.json", "build_dataset").read_text(encoding="utf-8")
    )
    return rows


def held_out_pictures(stage: Stage, listed: Path) -> tuple[torch.Tensor, list[str]]:
    """Return the pictures that no training has used and their styles.

    Raises:
        RecipeError: their concepts are not the ones the file `listed` records, or one is in the training pictures.
    """
    rows = read_rows(stage, "held_out")
    codes = {f"{row['code']} {row['label']}" for row in rows}
    if not listed.is_file() or codes != set(listed.read_text(encoding="utf-8").splitlines()):
        raise RecipeError(f"The held-out concepts are not those of {listed}; rebuild the dataset with the same config.")
    used = {row["code"] for name in ("concepts", "more") for row in read_rows(stage, name)}
    if both := sorted(used & {row["code"] for row in rows}):
        raise RecipeError(f"Held out but also trained on: {', '.join(both)}.")
    return torch.from_numpy(np.load(stage.work / "dataset/held_out.npy")), [row["style"] for row in rows]


def reconstruction(autoencoder: AutoencoderKL, stage: Stage, dataset: Dataset, listed: Path) -> dict[str, Any]:
    """Return PSNR on the vocabulary's own pictures and on the held-out ones, of all styles and of each."""
    held_out, styles = held_out_pictures(stage, listed)
    own = psnr_of_each(autoencoder, dataset.pictures)
    report = {"vocabulary": by_style(own, [concept.style for concept in dataset.concepts])}
    report["held_out"] = by_style(psnr_of_each(autoencoder, held_out), styles)
    for name, point in report["held_out"].items():
        print(f"PSNR on held-out pictures, {name}: {point['mean']:.2f} dB, {point['n']} pictures", flush=True)
    return report
