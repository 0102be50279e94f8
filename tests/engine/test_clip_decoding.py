"""Clips of every family: what is stored of each step and of the end is what the pipeline itself decodes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.cache import score_tables
from engine.cache.connection import reading
from engine.passes.run import run_study
from engine.sampling import frames
from engine.sampling.image_pass import Sample, sample_cells
from engine.sampling.models import Model
from engine.study.cells import Cell
from engine.study.frame_settings import FrameSettings
from engine.study.lanes import parse_lane
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.engine import family_miniatures as families
from tests.engine.helpers import ask
from tests.engine.miniatures import PIXELS

LANES = {"animatediff": "dpmpp_2m:3", "latte": "dpmpp_2m:3", "ltx": "flow_euler:3", "wan": "unipc:3"}
LANES |= {"cogvideox": "cogvideox_ddim:3"}
QUICK = ("latte", "ltx")
EVERY = [pytest.param(key, marks=() if key in QUICK else pytest.mark.long) for key in LANES]
GUIDANCE = 4.0


def decoded_by_the_pipeline(pipe: Any, latents: torch.Tensor, arguments: dict[str, Any]) -> np.ndarray:
    """What the pipeline makes of latents, given to it by the callback that diffusers has for that: (F, H, W, 3)."""

    def give(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {"latents": latents.to(given["latents"])}

    output = pipe(**arguments, num_inference_steps=2, output_type="np", callback_on_step_end=give, return_dict=False)
    return np.asarray(output[0])[0] * 255


def pictures_of(sample: Sample, kind: str, step: int) -> np.ndarray:
    own = [p for p in sample.pictures if p.kind == kind and p.step_index == step]
    ordered = sorted(own, key=lambda picture: picture.video_frame)
    return np.stack([np.asarray(Image.open(io.BytesIO(p.data)).convert("RGB")).astype(float) for p in ordered])


@pytest.mark.parametrize("key", EVERY)
def test_frames_of_every_step_are_the_pipelines_own_decode_before_they_are_made_small(
    key: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key == "animatediff":
        pipe: Any = request.getfixturevalue("animatediff_model").pipe
        settings, more = families.pipeline_settings("sd3", tmp_path), {"num_frames": 16}
    else:
        pipe, settings = families.built(key), families.pipeline_settings(key, tmp_path)
        more = families.arguments(key)
    lossless = frames.encode
    monkeypatch.setattr(frames, "encode", lambda picture, format: lossless(picture, "png"))
    [lane] = [parse_lane(LANES[key])]
    cell = Cell(lane, "red apple", 3, "blurry", GUIDANCE, PIXELS, PIXELS, "float32", key, "code", settings)
    model = Model(find_model("gaussian"), pipe, "cpu")
    [sample] = sample_cells(model, [cell], FrameSettings(count=3, kinds=("x0",)), 1)
    assert sample.error is None
    call = {"prompt": "red apple", "width": PIXELS, "height": PIXELS, "guidance_scale": GUIDANCE, **more}
    for step in sample.steps:
        assert step.x0 is not None
        own = decoded_by_the_pipeline(pipe, step.x0, call)
        stored = pictures_of(sample, "x0", step.step_index)
        assert stored.shape == own.shape
        assert np.abs(stored - own).max() <= 1, step.step_index
    assert sample.final is not None
    own = decoded_by_the_pipeline(pipe, torch.from_numpy(sample.final)[None], call)
    assert np.abs(pictures_of(sample, "final", len(sample.steps) - 1) - own).max() <= 1


def test_packed_latents_of_the_end_have_the_motion_that_they_have_unpacked(tmp_path: Path) -> None:
    pipe: Any = families.built("ltx")
    pipe.save_pretrained(tmp_path / "model")
    plain: dict[str, Any] = {
        "name": "packed",
        "model": str(tmp_path / "model"),
        "prompts": ["red apple"],
        "lanes": ["flow_euler:3"],
        "width": PIXELS,
        "height": PIXELS,
        "frames": {"count": 0},
        "timing": {"repeats": 0},
        "pipeline": families.arguments("ltx"),
    }
    cache = tmp_path / "cache.duckdb"
    run_study(parse_study(plain), cache, device="cpu")
    with reading(cache) as db:
        scores = score_tables.picture_scores(db, "packed").set_index("metric")["value"]
    [(shape, data)] = ask(cache, "SELECT shape, data FROM latents")
    packed = torch.from_numpy(np.frombuffer(data, "<f4").reshape([int(n) for n in shape.split("x")]).copy())
    count = (families.arguments("ltx")["num_frames"] - 1) // pipe.vae_temporal_compression_ratio + 1
    side = PIXELS // pipe.vae_spatial_compression_ratio
    unpacked = pipe._unpack_latents(packed[None], count, side, side, 1, 1)
    config = pipe.vae.config
    clean = pipe._denormalize_latents(unpacked, pipe.vae.latents_mean, pipe.vae.latents_std, config.scaling_factor)
    expected = float(clean.diff(dim=2).double().square().mean())
    assert scores["motion_energy"] == pytest.approx(expected, rel=1e-3)
    assert expected > 0
