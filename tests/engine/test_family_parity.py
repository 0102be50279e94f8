"""Every family through the two seams: what plain diffusers draws, in as many calls, however calls are merged."""

import copy
import functools
import importlib
import inspect
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from engine.sampling import frames
from engine.sampling.calls import opened
from engine.sampling.image_pass import Sample, sample_cells
from engine.sampling.models import Model
from engine.sampling.standins import family, model_config
from engine.study.cells import Cell
from engine.study.families import kind_of
from engine.study.frame_settings import FrameSettings
from engine.study.lanes import Lane, fitting, fitting_lanes, parse_lane
from engine.study.source import find_model
from tests.engine import family_miniatures as miniatures
from tests.engine.miniatures import PIXELS, picture_of

# Chroma imports a class from where diffusers no longer wants it, and Mochi asks for an autocast that CPUs lack.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),
]
QUICK = ("sd3", "flux", "z_image", "qwen_image", "hidream", "wan_two")
EVERY = [pytest.param(key, marks=() if key in QUICK else pytest.mark.long) for key in miniatures.builders()]
FRAMES = FrameSettings(count=2, kinds=("x0",))
GUIDANCE = 4.0


@dataclass
class Plain:
    """What plain diffusers made of a cell: frames, denoiser calls, and x0 by the formulas of the papers."""

    pictures: np.ndarray
    calls: int
    clean: list[torch.Tensor]


@dataclass
class Case:
    """A miniature with some cells made both ways."""

    key: str
    pipe: Any
    cells: list[Cell]
    merged: dict[str, Sample]
    alone: dict[str, Sample]

    def plain(self, cell: Cell, ending: torch.Tensor | None = None, calls_to_come: int = 0) -> Plain:
        """One call of plain diffusers, on a scheduler that diffusers alone built.

        Args:
            cell: What is to be drawn.
            ending: Latents that the last step answers in place of its own.
            calls_to_come: Steps that the call takes, to tell the last one.
        """
        pipe = copy.copy(self.pipe)
        pipe.scheduler = plain_scheduler(cell.lane, model_config(self.pipe))
        calls: list[int] = []
        parts = [getattr(pipe, name, None) for name in ("unet", "transformer", "transformer_2")]
        hooks = [part.register_forward_hook(lambda *_: calls.append(1)) for part in parts if part is not None]
        clean: list[torch.Tensor] = []
        step = pipe.scheduler.step
        signature = inspect.signature(step)

        @functools.wraps(step)
        def watched(*args: Any, **kwargs: Any) -> Any:
            clean.append(clean_latents(pipe.scheduler, len(clean), signature.bind(*args, **kwargs).arguments))
            stepped = step(*args, **kwargs)
            if ending is None or len(clean) < calls_to_come:
                return stepped
            # Some pipelines decode the clean latents, which some schedulers answer beside the others.
            last = ending.to(stepped[0].dtype)
            return (last,) * len(stepped) if isinstance(stepped, tuple) else type(stepped)(*[last] * len(stepped))

        pipe.scheduler.step = watched
        torch.manual_seed(cell.seed)  # SD3's ControlNet samples its picture without the generator
        output = pipe(
            **self.arguments(cell),
            generator=torch.Generator().manual_seed(cell.seed),
            output_type="np",
            return_dict=False,
        )
        for hook in hooks:
            hook.remove()
        found = np.asarray(output[0] if isinstance(output, tuple) else output)
        found = (found * 255).round().astype(int)
        return Plain(found if found.ndim == 5 else found[:, None], len(calls), clean)

    def arguments(self, cell: Cell) -> dict[str, Any]:
        """As a person would write the call."""
        call: dict[str, Any] = {
            "num_inference_steps": cell.lane.steps,
            "width": PIXELS,
            "height": PIXELS,
            family(self.pipe).guidance: GUIDANCE,
            **cell.pipeline.arguments,
            **{name: opened(picture, "RGB") for name, picture in cell.pipeline.pictures.items()},
        }
        if "prompt" in family(self.pipe).inputs:
            call |= {"prompt": cell.prompt, "negative_prompt": cell.negative_prompt}
        if "negative_prompt" not in inspect.signature(self.pipe.__call__).parameters:
            call.pop("negative_prompt", None)
        return call


def clean_latents(scheduler: Any, index: int, given: dict[str, Any]) -> torch.Tensor:
    """x0 of a step from what it was given: of a flow, of velocities at a noise level, or of a discrete schedule."""
    said, x, config = given["model_output"].double(), given["sample"].double(), scheduler.config
    if kind_of(model_config_of(scheduler)) == "flow":
        share = float(scheduler.sigmas[index])
        return x + (1 - share) * said if config.get("invert_sigmas") else x - share * said
    if config.get("timestep_type") == "continuous":
        sigma = float(scheduler.sigmas[index])
        return x / (1 + sigma**2) - sigma / math.sqrt(1 + sigma**2) * said
    share = float(scheduler.alphas_cumprod[int(given["timestep"])])
    said = said[:, : x.shape[1]]
    if config.prediction_type == "v_prediction":
        return math.sqrt(share) * x - math.sqrt(1 - share) * said
    return (x - math.sqrt(1 - share) * said) / math.sqrt(share)


def model_config_of(scheduler: Any) -> dict[str, Any]:
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


def plain_scheduler(lane: Lane, config: dict[str, Any]) -> Any:
    module, _, name = lane.scheduler.target.partition(":")
    flow: dict[str, Any] = {}
    if kind_of(config) == "flow":
        shift = config.get("flow_shift", config.get("shift"))
        flow = {"shift": shift}
        if not name.startswith("FlowMatch"):
            flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    kind = getattr(importlib.import_module(module), name)
    if "clip_sample" in inspect.signature(kind.__init__).parameters:
        flow["clip_sample"] = False
    return kind.from_config(config, **flow, **lane.scheduler.overrides)


def lanes_of(pipe: DiffusionPipeline) -> list[Lane]:
    """Two lanes of different length, of the solvers that suit the model."""
    every = fitting(kind_of(model_config(pipe)), family(pipe))
    keys = [entry.key for entry in every if not entry.stochastic] or [entry.key for entry in every]
    return [parse_lane(f"{keys[-1]}:4"), parse_lane(f"{keys[0]}:3")]


def sampled(model: Model, cells: list[Cell], max_batch: int) -> dict[str, Sample]:
    """Made cells, whose step frames are kept without the loss that they are stored with."""
    with mock.patch.object(frames, "encode", lambda picture, _, encode=frames.encode: encode(picture, "png")):
        return _sampled(model, cells, max_batch)


def _sampled(model: Model, cells: list[Cell], max_batch: int) -> dict[str, Sample]:
    return {sample.cell.trajectory_id: sample for sample in sample_cells(model, cells, FRAMES, max_batch)}


@lru_cache(maxsize=1)
def case_of(key: str, folder: Path) -> Case:
    pipe: Any = miniatures.built(key)
    settings = miniatures.pipeline_settings(key, folder)
    cells = [
        Cell(lane, prompt, 3, "blurry", GUIDANCE, PIXELS, PIXELS, "float32", key, "code", settings)
        for lane in lanes_of(pipe)
        for prompt in ("red apple", "owl")
    ]
    model = Model(find_model("gaussian"), pipe, "cpu")
    return Case(key, pipe, cells, sampled(model, cells, 8), sampled(model, cells, 1))


@pytest.fixture(params=EVERY)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(request.param, tmp_path_factory.getbasetemp())


def made_both_ways(case: Case) -> Iterator[tuple[Cell, Sample, Plain]]:
    for cell in case.cells:
        plain = case.plain(cell)
        for samples in (case.merged, case.alone):
            sample = samples[cell.trajectory_id]
            assert sample.error is None
            yield cell, sample, plain


def test_every_family_draws_what_plain_diffusers_draws_in_as_many_calls(case: Case) -> None:
    pictures = []
    for _, sample, plain in made_both_ways(case):
        assert sample.nfe == plain.calls
        apart = np.array([picture_of(sample, video_frame=k) - frame for k, frame in enumerate(plain.pictures[0])])
        # A batch rounds otherwise than a single call, which some miniatures make much of at an edge.
        assert (np.abs(apart) > 1).mean() <= (0.01 if sample.max_batch > 1 else 0)
        pictures.append(plain.pictures[0])
    between = [np.abs(one - other).max() for i, one in enumerate(pictures[::2]) for other in pictures[::2][:i]]
    assert max(between) > 10, "the miniature should tell prompts and solvers apart"


@pytest.mark.long
@pytest.mark.parametrize("key", miniatures.builders())
def test_every_solver_that_suits_a_family_draws_what_plain_diffusers_draws(key: str, tmp_path: Path) -> None:
    pipe: Any = miniatures.built(key)
    settings = miniatures.pipeline_settings(key, tmp_path)
    lanes = [lane for lane in fitting_lanes(model_config(pipe), family(pipe), 4) if not lane.scheduler.stochastic]
    cells = [
        Cell(lane, "owl", 3, "blurry", GUIDANCE, PIXELS, PIXELS, "float32", key, "code", settings) for lane in lanes
    ]
    model = Model(find_model("gaussian"), pipe, "cpu")
    case = Case(key, pipe, cells, sampled(model, cells, 8), sampled(model, cells, 1))
    for cell, sample, plain in made_both_ways(case):
        assert sample.nfe == plain.calls, cell.lane.key
        for number, frame in enumerate(plain.pictures[0]):
            assert np.abs(picture_of(sample, video_frame=number) - frame).max() <= 1, cell.lane.key


def test_x0_is_that_of_the_formula_of_the_familys_prediction(case: Case) -> None:
    for cell in case.cells:
        plain, sample = case.plain(cell), case.alone[cell.trajectory_id]
        for step, expected in zip(sample.steps, plain.clean, strict=True):
            assert step.x0 is not None
            assert float((step.x0.double() - expected).norm() / expected.norm()) <= 1e-5, step.step_index
        assert sample.spectra, "octaves are there for packed latents, too"
        levels = [step.log_snr for step in sample.steps]
        assert levels == sorted(levels)


def test_x0_frames_are_what_the_pipeline_itself_decodes(case: Case) -> None:
    cell = case.cells[0]
    clean = case.plain(cell).clean
    shown = [picture for picture in case.alone[cell.trajectory_id].pictures if picture.kind == "x0"]
    assert len({picture.step_index for picture in shown}) == FRAMES.count
    for index in {picture.step_index for picture in shown}:
        expected = case.plain(cell, clean[index], len(clean)).pictures[0]
        for picture in (each for each in shown if each.step_index == index):
            found = np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB")).astype(int)
            assert np.abs(found - expected[picture.video_frame]).max() <= 1, (index, picture.video_frame)


def test_every_step_leaves_its_motion_where_frames_are_made_and_none_for_pictures(case: Case) -> None:
    for cell in case.cells:
        sample = case.alone[cell.trajectory_id]
        assert bool(sample.motion) == (len([p for p in sample.pictures if p.kind == "final"]) > 1)
        for (index, energy), clean in zip(sample.motion, case.plain(cell).clean, strict=False):
            if clean.ndim == 5:  # packed latents have no axis of frames
                frames = clean.movedim(1 if case.key in ("cogvideox", "svd") else 2, 0)
                expected = float((frames[1:] - frames[:-1]).square().mean())
                assert energy == pytest.approx(expected, rel=1e-4), index


def test_a_second_run_gives_the_same_bytes(case: Case) -> None:
    cell = case.cells[0]
    again = sampled(Model(find_model("gaussian"), case.pipe, "cpu"), [cell], 1)[cell.trajectory_id]
    assert [picture.data for picture in again.pictures] == [
        picture.data for picture in case.alone[cell.trajectory_id].pictures
    ]
