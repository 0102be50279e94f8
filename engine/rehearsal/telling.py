"""A rehearsal in words."""

from collections.abc import Iterator

import torch

from engine.rehearsal.configurations import REHEARSED
from engine.rehearsal.known_work import OnPaper, known_work
from engine.rehearsal.trial import GIB, Rehearsal, Trial, free_bytes
from engine.sampling.models import usable
from engine.study.cells import resolve_dtype
from engine.study.study import Study

TERA = 1e12


def told(found: Rehearsal) -> list[str]:
    """Lines for people: what the model is, what a picture takes, and how fast this machine makes it."""
    model, paper = REHEARSED[found.name], found.paper
    width, height, frames = model.pixels
    clip = f", {frames} frames" if frames > 1 else ""
    lines = [
        f"{model.label}, {width} x {height}{clip}, {found.steps} steps; {found.device}, {found.dtype}",
        *_parts(paper, found.dtype),
        f"A call      {paper.call.flops / TERA:.2f} TFLOP a picture with all its rows ({model.rows}), activations at "
        f"least {paper.call.peak_bytes / GIB:.2f} GiB",
        f"Decoding    {paper.decode.flops / TERA:.2f} TFLOP, activations at least "
        f"{paper.decode.peak_bytes / GIB:.2f} GiB",
        f"A picture   {picture_flops(found) / TERA:.1f} TFLOP",
    ]
    if found.too_small:
        return [*lines, f"Not tried here: {found.too_small}."]
    return [*lines, f"Roof        {found.peak_flops / TERA:.2f} TFLOP/s of large matrix products here", *_trials(found)]


def study_told(name: str, study: Study, device: str) -> list[str]:
    """What the pictures of a study will take on a model that is not here yet, as `plan` prints it."""
    model, dtype = REHEARSED[name], getattr(torch, resolve_dtype(study.dtype, device))
    paper, (width, height, _) = known_work(name, dtype.itemsize), model.pixels
    cells = len(study.prompts) * len(study.seeds)
    by_lane = [lane.scheduler.expected_calls(lane.steps) for lane in study.lanes]
    kept = len(study.frames.kinds)
    calls = cells * sum(by_lane)
    decodes = cells * sum(1 + kept * min(study.frames.count, taken) for taken in by_lane)
    a_call = paper.call.flops / (model.rows if study.guidance_scale <= 1 else 1)
    needed = paper.whole_bytes(dtype.itemsize) / GIB
    free = f"{free_bytes(device) / GIB:.1f} GiB free on {device}" if usable(device) else f"{device} cannot be used here"
    other = f" (the study asks for {study.width} x {study.height})" if study.width else ""
    return [
        f"On paper     {model.label} at {width} x {height}{other}: {paper.parameters / 1e6:,.0f} M parameters; weights "
        f"and one picture at least {needed:.1f} GiB, {free}",
        f"             {calls:,} calls of {a_call / TERA:.2f} TFLOP and {decodes:,} decodings of "
        f"{paper.decode.flops / TERA:.2f}: {(calls * a_call + decodes * paper.decode.flops) / TERA:,.0f} TFLOP",
        f"             `python -m engine rehearse {name}` tries it here with random weights",
    ]


def room_told(device: str, dtype: str) -> str:
    """Which of the well-known models fit into what is free here, as `doctor` prints it."""
    itemsize, free = getattr(torch, dtype).itemsize, free_bytes(device)
    needed = {name: known_work(name, itemsize).whole_bytes(itemsize) for name in REHEARSED}
    listed = ", ".join(
        f"{name} {size / GIB:.1f}{'' if size <= free else ' (too large)'}" for name, size in needed.items()
    )
    return f"weights and one picture at least, GiB: {listed}; {free / GIB:.1f} free"


def picture_flops(found: Rehearsal) -> float:
    """Operations of one picture: all calls, and decoding."""
    return found.steps * found.paper.call.flops + found.paper.decode.flops


def share_of_peak(found: Rehearsal, trial: Trial) -> float:
    """What share of the matrix peak the denoiser reaches."""
    done = trial.batch * found.steps * found.paper.call.flops
    return done / trial.denoiser_seconds / found.peak_flops


def _parts(paper: OnPaper, dtype: str) -> Iterator[str]:
    size = getattr(torch, dtype).itemsize
    named = {
        "Denoiser": paper.denoiser_parameters,
        "Decoder": paper.autoencoder_parameters,
        "Texts": paper.encoder_parameters,
    }
    for name, count in named.items():
        yield f"{name:<11} {count / 1e6:,.0f} M parameters, {count * size / GIB:.2f} GiB"


def _trials(found: Rehearsal) -> Iterator[str]:
    yield f"{'batch':>5}{'images/s':>12}{'of the roof':>14}{'outside denoiser':>19}{'decoder':>10}{'peak memory':>14}"
    for trial in found.trials:
        if trial.error:
            yield f"{trial.batch:>5}  {trial.error}"
            continue
        outside = 1 - trial.denoiser_seconds / trial.seconds
        memory = f"{trial.peak_bytes / GIB:.2f} GiB" if trial.peak_bytes else "not told"
        yield (
            f"{trial.batch:>5}{trial.batch / trial.seconds:>12.3f}{share_of_peak(found, trial):>14.0%}{outside:>19.1%}"
            f"{trial.decode_seconds / trial.seconds:>10.1%}{memory:>14}"
        )
    yield "Texts are encoded once a prompt and are not part of these times."
