"""What the engine makes of a study is what plain diffusers makes of each cell by itself, for every scheduler.

The reference is `pipe(prompt, ...)` on a pipeline that diffusers alone loaded, with a scheduler that diffusers alone
built, and a counting hook on its real denoiser.
"""

import importlib
import inspect
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from engine.sampling.batching import Hub
from engine.sampling.image_pass import Sample, run_cells, sample_cells
from engine.sampling.models import Model
from engine.study.cells import Cell
from engine.study.frame_settings import FrameSettings
from tests.engine.miniatures import DISCRETE, cells_of, picture_of

STEPS = (6, 9, 13)
EVERY_LANE = [f"{key}:{STEPS[place % len(STEPS)]}" for place, key in enumerate(DISCRETE)]
FEW_LANES = ["ddim:5", "heun:7", "dpmpp_2m:9", "pndm:6", "euler_a:8", "dpm_sde:4"]
GUIDED = {"guidance_scale": 7.5, "negative_prompt": "blurry", "seeds": [3, 8], "prompts": ["green pear", "owl"]}
NOTHING_KEPT = FrameSettings(count=0)


@dataclass(frozen=True)
class Plain:
    output: Any
    calls: int


def plain(folder: Path, cell: Cell, output_type: str = "pil", **options: Any) -> Plain:
    """One call of plain diffusers."""
    pipe = _plain_pipeline(folder)
    pipe.scheduler = _plain_scheduler(cell, _plain_config(folder))
    calls: list[int] = []
    hook = pipe.unet.register_forward_hook(lambda unet, inputs, output: calls.append(1))
    output = pipe(
        cell.prompt,
        negative_prompt=cell.negative_prompt or None,
        **(cell.lane.schedule.spec() if cell.lane.schedule else {"num_inference_steps": cell.lane.steps}),
        guidance_scale=cell.guidance_scale,
        width=cell.width,
        height=cell.height,
        output_type=output_type,
        generator=torch.Generator("cpu").manual_seed(cell.seed),
        return_dict=False,
        **options,
    )
    hook.remove()
    return Plain(output[0], len(calls))


@lru_cache
def _plain_pipeline(folder: Path) -> DiffusionPipeline:
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@lru_cache
def _plain_config(folder: Path) -> dict[str, Any]:
    return DiffusionPipeline.from_pretrained(folder).scheduler.config


def _plain_scheduler(cell: Cell, config: dict[str, Any]) -> Any:
    module, _, name = cell.lane.scheduler.target.partition(":")
    kind = getattr(importlib.import_module(module), name)
    overrides = dict(cell.lane.scheduler.overrides)
    if "clip_sample" in inspect.signature(kind.__init__).parameters:
        overrides["clip_sample"] = False
    if cell.lane.scheduler.key == "dpm_sde":
        overrides["noise_sampler_seed"] = cell.seed
    return kind.from_config(config, **overrides)


def largest_difference(sample: Sample, reference: Plain) -> int:
    assert sample.error is None
    return int(np.abs(picture_of(sample) - np.asarray(reference.output[0]).astype(int)).max())


@pytest.fixture(scope="module")
def mixed(sd_model: Model, sd_folder: Path) -> dict[str, list[Sample]]:
    """Every scheduler at once, with three step counts, two seeds, guidance and a negative prompt; five in flight."""
    settings = GUIDED | {"prompts": ["green pear"]}
    samples: dict[str, list[Sample]] = {}
    for sample in sample_cells(sd_model, cells_of(sd_folder, EVERY_LANE, **settings), NOTHING_KEPT, max_batch=5):
        samples.setdefault(sample.cell.lane.key, []).append(sample)
    return samples


@pytest.mark.parametrize("lane", EVERY_LANE)
def test_a_lane_among_all_others_draws_what_plain_diffusers_draws_in_as_many_calls(
    lane: str, mixed: dict[str, list[Sample]], sd_folder: Path
) -> None:
    assert sorted(sample.cell.seed for sample in mixed[lane]) == [3, 8]
    for sample in mixed[lane]:
        reference = plain(sd_folder, sample.cell)
        assert largest_difference(sample, reference) <= 2
        assert sample.nfe == reference.calls == sample.cell.lane.scheduler.expected_calls(sample.cell.lane.steps)


@pytest.mark.parametrize(
    ("max_batch", "settings"),
    [
        (1, GUIDED | {"seeds": [3]}),
        (3, {"guidance_scale": 1.0, "seeds": [0, 1]}),
        (32, GUIDED),
        (32, {"guidance_scale": 1.0, "seeds": [0]}),
        (4, {"guidance_scale": 7.5, "seeds": [5]}),
    ],
    ids=["one at a time", "no guidance", "all at once", "no guidance, all at once", "no negative prompt"],
)
def test_pictures_do_not_depend_on_what_shares_their_forwards(
    max_batch: int, settings: dict[str, Any], sd_model: Model, sd_folder: Path
) -> None:
    cells = cells_of(sd_folder, FEW_LANES, **settings)
    samples = list(sample_cells(sd_model, cells, NOTHING_KEPT, max_batch))
    assert sorted(sample.cell.trajectory_id for sample in samples) == sorted(cell.trajectory_id for cell in cells)
    for sample in samples:
        assert largest_difference(sample, plain(sd_folder, sample.cell)) <= 2, sample.cell


def test_the_miniature_tells_schedulers_steps_prompts_seeds_and_guidance_apart(
    sd_model: Model, sd_folder: Path
) -> None:
    """Otherwise none of the comparisons above could fail."""
    cells = [
        *cells_of(sd_folder, ["ddim:6", "ddim:9", "dpmpp_2m:9", "dpmpp_2m_karras:9", "unipc:9"]),
        *cells_of(sd_folder, ["ddim:6"], prompts=["owl"]),
        *cells_of(sd_folder, ["ddim:6"], seeds=[1]),
        *cells_of(sd_folder, ["ddim:6"], guidance_scale=1.0),
        *cells_of(sd_folder, ["ddim:6"], negative_prompt="blurry"),
    ]
    pictures = [picture_of(sample) for sample in sample_cells(sd_model, cells, NOTHING_KEPT, 32)]
    for place, one in enumerate(pictures):
        for other in pictures[:place]:
            assert np.abs(one - other).max() > 10


@pytest.mark.parametrize(("lane", "calls"), [("heun:20", 39), ("pndm:20", 21), ("ddim:20", 20), ("dpm_sde:20", 39)])
def test_calls_are_counted_and_not_taken_from_the_step_count(
    lane: str, calls: int, sd_model: Model, sd_folder: Path
) -> None:
    [cell] = cells_of(sd_folder, [lane], guidance_scale=1.0)
    with torch.no_grad():
        [sample] = run_cells(sd_model, [cell], NOTHING_KEPT, 1)
    assert sample.nfe == len(sample.steps) == calls == plain(sd_folder, cell).calls


def run_counting_forwards(model: Model, cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> tuple[list[Sample], int]:
    hubs: list[Hub] = []
    create = Hub.__init__

    def created(self: Hub, *args: Any) -> None:
        create(self, *args)
        hubs.append(self)

    monkeypatch.setattr(Hub, "__init__", created)
    with torch.no_grad():
        samples = list(run_cells(model, cells, NOTHING_KEPT, 32))
    return samples, hubs[0].forwards


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
def test_sdxl_cells_share_forwards_and_end_at_the_latents_of_plain_diffusers(
    guidance_scale: float, sdxl_model: Model, sdxl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = ["euler:8", "dpmpp_2m:6", "heun:3", "ddim:5"]
    cells = cells_of(sdxl_folder, lanes, guidance_scale=guidance_scale, negative_prompt="blurry", seeds=[0, 4])
    samples, forwards = run_counting_forwards(sdxl_model, cells, monkeypatch)
    assert len(samples) == len(cells)
    assert forwards == 8 < sum(sample.nfe for sample in samples)
    for sample in samples:
        reference = plain(sdxl_folder, sample.cell, "latent")
        torch.testing.assert_close(sample.latents, reference.output, atol=1e-3, rtol=0)
        assert sample.nfe == reference.calls


def test_animatediff_cells_share_forwards_and_end_at_the_latents_of_plain_diffusers(
    animatediff_model: Model, animatediff_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(animatediff_folder, ["ddim:2", "dpmpp_2m:3"], seeds=[0, 1], negative_prompt="blurry")
    samples, forwards = run_counting_forwards(animatediff_model, cells, monkeypatch)
    assert forwards == 3 < sum(sample.nfe for sample in samples)
    for sample in samples:
        assert sample.latents is not None
        assert sample.latents.shape == (1, 4, 16, 8, 8)
        assert float(sample.latents.std(dim=2).mean()) > 0.1, "frames should differ"
        reference = plain(animatediff_folder, sample.cell, "latent")
        torch.testing.assert_close(sample.latents, reference.output, atol=1e-3, rtol=0)


def test_animatediff_steps_are_kept_as_numbered_video_frames_equal_to_the_plain_video(
    animatediff_model: Model, animatediff_folder: Path
) -> None:
    [cell] = cells_of(animatediff_folder, ["euler:2"])
    [sample] = sample_cells(animatediff_model, [cell], FrameSettings(count=2), 4)
    by_step = Counter((picture.kind, picture.step_index) for picture in sample.pictures)
    assert by_step == {("x0", 0): 16, ("x0", 1): 16, ("xt", 0): 16, ("xt", 1): 16, ("final", 1): 16}
    assert sorted(picture.video_frame for picture in sample.pictures if picture.kind == "final") == list(range(16))
    [video] = plain(animatediff_folder, cell).output
    for number, frame in enumerate(video):
        assert np.abs(picture_of(sample, video_frame=number) - np.asarray(frame).astype(int)).max() <= 2
