"""What the finished model does, in figures and as a contact sheet of captions that training never showed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LattePipeline

from data.bundled.recipe.common import Stage, write_json
from data.bundled.recipe.dataset import to_unit
from data.scenes.recipe.judge import SceneJudge
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.sheets import sheet
from data.video.recipe.clip_judge import draw_clips, frames_of, load_clip_pipeline, motion_of, words_found
from data.video.recipe.clip_painter import ClipPainter
from data.video.recipe.clips import FRAMES, FRESH, HELD_OUT, LEARNT, MOTIONS, caption, clip_of
from data.video.recipe.encode_clips import encode_clips

Pairs = tuple[tuple[str, str], ...]


def run(stage: Stage, pause: Pause | None = None) -> dict[str, Any]:
    """Write the contact sheet, its answers and `work/evaluation.json`; returns the figures."""
    del pause  # nothing here takes long
    pipeline = load_clip_pipeline(Path(stage.require("bundle")))
    judge, painter = SceneJudge(Path(stage.require("judge"))), ClipPainter.from_packages(_painting(stage))
    found: dict[str, Any] = {}
    for name, pairs, first in (("learnt", LEARNT, 0), ("held out", HELD_OUT, 10_000)):
        found[name] = measure(stage, pipeline, judge, painter, pairs * int(stage.require("clips")), first)
    found["autoencoder"] = _fidelity(pipeline, painter)
    write_json(stage.path("evaluation.json"), found)
    _draw_sheet(stage, pipeline)
    return found


def measure(
    stage: Stage, pipeline: LattePipeline, judge: SceneJudge, painter: ClipPainter, pairs: Pairs, first_seed: int
) -> dict[str, Any]:
    """Return how many words are found in drawn and painted clips of some pairs, and the ratio of their motion."""
    things = [thing for thing, _ in pairs]
    painted = np.concatenate([painter.paint(clip_of(*pair, FRESH + i)) for i, pair in enumerate(pairs)])
    real = torch.from_numpy(encode_clips(pipeline.vae, painted)).float()
    drawn = draw_clips(
        pipeline, [caption(*pair) for pair in pairs], stage.require("steps"), stage.require("guidance"), first_seed
    )
    shown = to_unit(torch.from_numpy(painted)).unflatten(0, (-1, FRAMES))
    energies = {"drawn": motion_of(drawn), "painted": motion_of(real)}
    ratios = {"all": float(energies["drawn"].mean() / energies["painted"].mean())}
    for motion in MOTIONS:
        own = torch.tensor([pair[1] == motion for pair in pairs])
        ratios[motion] = float(energies["drawn"][own].mean() / energies["painted"][own].mean())
    return {
        "n": len(pairs),
        "word found, drawn": words_found(judge, frames_of(pipeline, drawn), things),
        "word found, painted": words_found(judge, shown, things),
        "word found, painted through the autoencoder": words_found(judge, frames_of(pipeline, real), things),
        "motion energy, drawn to painted": ratios,
    }


def _painting(stage: Stage) -> Stage:
    """The stage as the painter reads it."""
    return Stage("dataset", stage.config["dataset"], stage.config, stage.work, stage.device, stage.seed)


def _fidelity(pipeline: LattePipeline, painter: ClipPainter) -> float:
    """Return the mean PSNR in dB of the frames of fresh clips through the autoencoder as it is stored."""
    frames = np.concatenate([painter.paint(clip_of(*pair, FRESH * 2 + i)) for i, pair in enumerate(HELD_OUT)])
    latents = torch.from_numpy(encode_clips(pipeline.vae, frames)).float()
    wanted = to_unit(torch.from_numpy(frames)).unflatten(0, (-1, FRAMES))
    error = (frames_of(pipeline, latents) - wanted).square().flatten(2).mean(2)
    return float((10 * torch.log10(4 / (error + 1e-6))).mean())


def _draw_sheet(stage: Stage, pipeline: LattePipeline) -> None:
    """Write held-out clips, frame by frame, in an order that only the answers in the work folder tell."""
    pairs = list(HELD_OUT[: int(stage.require("on_sheet"))])
    random.Random(stage.seed + 7).shuffle(pairs)
    latents = draw_clips(
        pipeline, [caption(*pair) for pair in pairs], stage.require("steps"), stage.require("guidance"), 20_000
    )
    frames = frames_of(pipeline, latents).flatten(0, 1)
    labels = [f"{clip + 1}, frame {frame + 1}" for clip in range(len(pairs)) for frame in range(FRAMES)]
    sheet(frames, labels, FRAMES).save(Path(stage.require("sheet")))
    answers = "".join(f"{number + 1}: {caption(*pair)}\n" for number, pair in enumerate(pairs))
    stage.path("sheet_answers.txt").write_text(answers, encoding="utf-8")
