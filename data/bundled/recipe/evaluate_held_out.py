"""How well the autoencoder gives back pictures, also ones it has never seen; part of stage 5."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from data.bundled.recipe.build_dataset import fetch_package, find_asset, read_picture
from data.bundled.recipe.common import RecipeError, Stage
from data.bundled.recipe.dataset import to_unit
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


def unseen_pictures(stage: Stage, groups: list[int]) -> Iterator[np.ndarray]:
    """Yield the pictures of `groups` in the first source that are neither in the dataset nor in the `seen` list.

    `stage` is the dataset's; entries whose label has one of the words `leave_out` are left out.
    """
    table = stage.config["evaluate"]["held_out"]
    if not (listed := Path(table["seen"])).is_file():
        raise RecipeError(f"No file {listed}; [evaluate.held_out] 'seen' names the labels that training has used.")
    seen = set(listed.read_text(encoding="utf-8").splitlines()) | set(stage.require("concepts"))
    source, size = stage.require("source")[0], stage.require("size")
    folder = fetch_package(stage, source["package"])
    entries = json.loads((fetch_package(stage, stage.require("labels")) / "en/data.json").read_text(encoding="utf-8"))
    for entry in entries:
        label, path = entry["label"], find_asset(folder, source, entry["hexcode"].lower())
        left_out = any(word in label for word in table.get("leave_out", []))
        if path and entry.get("group") in groups and label not in seen and not left_out:
            yield read_picture(path, size)


def reconstruction(autoencoder: AutoencoderKL, stage: Stage, pictures: torch.Tensor) -> dict[str, Any]:
    """Return PSNR on the training pictures and on each named list of groups of `[evaluate.held_out]`."""
    report = {"training": summary(psnr_of_each(autoencoder, pictures))}
    for name, groups in stage.config["evaluate"].get("held_out", {}).get("groups", {}).items():
        unseen = list(unseen_pictures(stage, groups))
        if not unseen:
            raise RecipeError(f"[evaluate.held_out.groups] '{name}': no picture is left that training has not used.")
        report[name] = summary(psnr_of_each(autoencoder, torch.from_numpy(np.stack(unseen))))
        print(f"PSNR on {name}: {report[name]['mean']:.2f} dB, {report[name]['n']} pictures", flush=True)
    return report
