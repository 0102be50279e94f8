"""The swap pass: runs whose prompt is swapped, rated by CLIP and written pair by pair."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.cache import swap_tables
from engine.cache.connection import Connection
from engine.cache.swap_tables import SwapRow, write_swaps
from engine.measuring import clip
from engine.measuring.evidence import Subject, Unmeasurable
from engine.passes.context import PassContext, PassOutcome
from engine.study.prompt_swaps import Swap

if TYPE_CHECKING:
    from engine.sampling.swapped_cells import SwapSample


def missing_swaps(db: Connection | None, swaps: Sequence[Swap]) -> list[Swap]:
    """The swaps that a cache lacks; all of them without a cache."""
    if db is None or not swaps:
        return list(swaps)
    have = swap_tables.swapped(db, [swap.swap_id for swap in swaps])
    return [swap for swap in swaps if swap.swap_id not in have]


def make_swaps(context: PassContext, swaps: Sequence[Swap]) -> PassOutcome:
    """Runs prompt swaps and commits each pair of prompts and seed separately.

    Without a CLIP for the model's pictures, only distances in latent space are measured.
    """
    from engine.sampling.swapped_cells import run_swaps

    progress, judge = context.progress, _clip_edition(context)
    clip.judge_on(context.environment.device)
    done = failed = 0
    progress.start("commitment", len(swaps), "runs")
    for group in run_swaps(context.model, swaps, context.max_batch([swaps[0].first])):
        rows = [_row(sample, context, judge) for sample in group]
        write_swaps(context.cache, rows)
        for row in rows:
            if row.error is None:
                done += 1
            else:
                failed += 1
                progress.note(f"Failed: prompt swap on {row.lane}: {row.error}")
            progress.advance(1, row.lane)
    return PassOutcome(done, failed)


def _clip_edition(context: PassContext) -> str | None:
    try:
        return clip.edition(Subject(context.source))
    except Unmeasurable:
        return None


def _row(sample: "SwapSample", context: PassContext, judge: str | None) -> SwapRow:
    from engine.sampling.room import raise_if_lost

    swap, first = sample.swap, sample.swap.first
    row = SwapRow(
        swap_id=swap.swap_id,
        environment_id=context.makes_in.environment_id,
        model_id=context.source.model_id,
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
        try:
            probability = float(clip.preference(context.source, sample.picture[None], texts)[0])
        except Exception as error:  # weights that cannot be read, or too little memory; the others go on
            raise_if_lost(error)
            return replace(row, error=f"CLIP failed: {type(error).__name__}: {error}"[:2000])
    return replace(
        row,
        calls=sample.calls,
        swap_call=sample.swap_call,
        progress=sample.swap_call / sample.calls,
        log_snr=sample.log_snr,
        first_distance=sample.first_distance,
        second_distance=sample.second_distance,
        first_probability=probability,
        judge=judge,
        image=_webp(sample.picture),
    )


def _webp(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=90, method=2)
    return stream.getvalue()
