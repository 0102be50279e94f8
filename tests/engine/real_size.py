"""Stable Diffusion 1.5 in its real size, through the engine and through plain diffusers, in a child of its own."""

import importlib
import io
import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from engine.cache.connection import reading
from engine.environment import fast_bfloat16
from engine.measuring.formulas import relative_distance
from engine.passes.run import run_study
from engine.rehearsal.configurations import REHEARSED
from engine.rehearsal.on_paper import built
from engine.sampling.loaded import register_pipeline
from engine.study.study import Study, parse_study
from tests.engine.miniatures import SD_SCHEDULER, clip_tokenizer

LANES = {"ddim:2": "DDIMScheduler", "euler:2": "EulerDiscreteScheduler"}
PROMPT, PIXELS = "red apple", 128
# A CPU without a unit for it convolves bfloat16 a hundred times slower than float32 (0.3 and 43 GFLOP/s, measured).
DTYPE = "bfloat16" if fast_bfloat16() else "float32"


def compare(folder: Path, answer: Path) -> None:
    """Makes two cells with plain diffusers, alone and beside another seed, and with the engine, alone and merged.

    Writes for each lane whether the engine's latents and picture are the plain ones bit by bit, how far (relative L2)
    merging moves the latents in the engine and in plain diffusers, and how far the lanes are apart; and the peak memory
    of the process in bytes.
    """
    pipe = _pipeline()
    source = register_pipeline(pipe)
    study = _study(source.name)
    alone = _engine(study, folder / "alone.duckdb", 1)
    merged = _engine(study, folder / "merged.duckdb", 2)
    found: dict[str, Any] = {}
    for lane, kind in LANES.items():
        latents, picture = _plain(pipe, kind, 1)
        beside, _ = _plain(pipe, kind, 2)
        found[lane] = {
            "equal_latents": bool(np.array_equal(alone[lane][0], latents)),
            "equal_picture": bool(np.array_equal(alone[lane][1], picture)),
            "merged_in_engine": relative_distance(merged[lane][0], latents),
            "merged_in_diffusers": relative_distance(beside, latents),
            "contrast": float(picture.std()),
        }
    one, other = (alone[lane][0] for lane in LANES)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    answer.write_text(json.dumps({"lanes": found, "between": relative_distance(one, other), "peak_bytes": peak}))


def _pipeline() -> StableDiffusionPipeline:
    """Random weights; the texts are those of a small vocabulary, and pictures have contrast."""
    torch.manual_seed(0)
    model = REHEARSED["sd15"]
    parts = [built(part, "cpu", getattr(torch, DTYPE)) for part in (model.denoiser, model.autoencoder, *model.encoders)]
    unet, vae, text_encoder = parts
    with torch.no_grad():
        drawn = vae.decode(torch.randn(1, 4, 8, 8).to(vae.dtype) / vae.config.scaling_factor).sample
        vae.decoder.conv_out.weight /= 2 * drawn.std()
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=_scheduler("PNDMScheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _scheduler(kind: str) -> Any:
    return getattr(importlib.import_module("diffusers"), kind).from_config(SD_SCHEDULER)


def _study(model: str) -> Study:
    return parse_study(
        {
            "name": "real",
            "model": model,
            "prompts": [PROMPT],
            "lanes": list(LANES),
            "dtype": DTYPE,
            "width": PIXELS,
            "height": PIXELS,
            "frames": {"count": 0},
            "timing": {"repeats": 0},
        }
    )


def _engine(study: Study, cache: Path, max_batch: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Final latents and picture of each lane, as the cache has them."""
    assert run_study(study, cache, device="cpu", max_batch=max_batch).done == len(LANES)
    with reading(cache) as db:
        rows = db.execute(
            "SELECT lane, shape, data, image FROM trajectories JOIN latents USING (trajectory_id) "
            "JOIN frames USING (trajectory_id) WHERE frames.kind = 'final'"
        ).fetchall()
    return {
        lane: (
            np.frombuffer(data, "<f4").reshape([int(side) for side in shape.split("x")]),
            np.asarray(Image.open(io.BytesIO(image)).convert("RGB")),
        )
        for lane, shape, data, image in rows
    }


def _plain(pipe: StableDiffusionPipeline, kind: str, pictures: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Final latents of seed 0 by plain diffusers in a call for so many seeds, and the picture if it is alone."""
    own = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    own.scheduler = _scheduler(kind)
    own.set_progress_bar_config(disable=True)
    kept: list[torch.Tensor] = []

    def keep(pipe: Any, step: int, timestep: Any, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept.append(values["latents"])
        return values

    drawn = own(
        [PROMPT] * pictures,
        num_inference_steps=2,
        width=PIXELS,
        height=PIXELS,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(pictures)],
        output_type="pil" if pictures == 1 else "latent",
        callback_on_step_end=keep,
    ).images
    return kept[-1][0].float().numpy(), np.asarray(drawn[0]) if pictures == 1 else None
