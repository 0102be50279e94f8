"""The commitment pass: runs whose prompt changes on the way, judged and written, pair by pair."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.cache.swap_tables import SwapRow, write_swaps
from engine.measuring import clip
from engine.measuring.evidence import Subject, Unmeasurable
from engine.outline import Outline
from engine.progress import Progress

if TYPE_CHECKING:
    from engine.sampling.commitment import SwapSample
    from engine.sampling.models import Model


def commit(plan: Outline, model: "Model", cache: Path, max_batch: int, progress: Progress) -> tuple[int, int]:
    """Makes the changes of prompt that a cache lacks; returns how many were done and how many failed.

    Each pair of prompts and seed is committed by itself. Without a CLIP that knows the model's pictures, the distances
    in latent space are all that is measured.
    """
    from engine.sampling.commitment import run_swaps

    judge = _edition(plan)
    done = failed = 0
    progress.start("commitment", len(plan.missing_swaps), "runs")
    for group in run_swaps(model, plan.missing_swaps, max_batch):
        write_swaps(cache, [_row(sample, plan, judge) for sample in group])
        for sample in group:
            if sample.error is None:
                done += 1
            else:
                failed += 1
                progress.note(f"Failed: change of prompt on {sample.swap.first.lane.key}: {sample.error}")
            progress.advance(1, sample.swap.first.lane.key)
    return done, failed


def _edition(plan: Outline) -> str | None:
    try:
        return clip.edition(Subject(plan.source))
    except Unmeasurable:
        return None


def _row(sample: "SwapSample", plan: Outline, judge: str | None) -> SwapRow:
    swap, first = sample.swap, sample.swap.first
    row = SwapRow(
        swap_id=swap.swap_id,
        environment_id=plan.environment.environment_id,
        model_id=plan.source.model_id,
        lane=first.lane.key,
        first_id=first.trajectory_id,
        second_id=swap.second.trajectory_id,
        first_prompt=first.prompt,
        second_prompt=swap.second.prompt,
        seed=first.seed,
        guidance_scale=first.guidance_scale,
        share=swap.share,
        error=sample.error,
    )
    if sample.picture is None:
        return row
    probability = None
    if judge is not None:
        texts = (first.prompt, swap.second.prompt)
        probability = float(clip.preference(plan.source, sample.picture[None], texts)[0])
    changes = {
        "calls": sample.calls,
        "swap_call": sample.swap_call,
        "progress": sample.swap_call / sample.calls,
        "log_snr": sample.log_snr,
        "first_distance": sample.first_distance,
        "second_distance": sample.second_distance,
        "first_probability": probability,
        "judge": judge,
        "image": _shown(sample.picture),
    }
    return SwapRow(**{**vars(row), **changes})


def _shown(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=90, method=2)
    return stream.getvalue()
