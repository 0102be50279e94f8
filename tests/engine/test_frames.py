"""Pictures: decoded exactly as the pipeline does, in any batch size; frames evenly spread, the last always kept."""

import io
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.sampling import frames
from engine.sampling.image_pass import Sample, run_cells, sample_cells
from engine.sampling.models import Model
from engine.study.cells import frame_steps
from engine.study.frame_settings import FrameSettings
from tests.engine.miniatures import cells_of, picture_of

CALL = frames.Origin({"prompt": "red apple", "width": 64, "height": 64}, seed=0)


@given(count=st.integers(0, 300), calls=st.integers(1, 1000))
def test_kept_steps_are_as_many_as_asked_distinct_in_order_and_end_with_the_last(count: int, calls: int) -> None:
    steps = frame_steps(FrameSettings(count=count), calls)
    assert len(steps) == min(count, calls)
    assert steps == sorted(set(steps))
    assert all(0 <= step < calls for step in steps)
    if count:
        assert steps[-1] == calls - 1
    if count > 1:
        assert steps[0] == 0


@given(count=st.integers(2, 300), calls=st.integers(2, 1000))
def test_kept_steps_are_evenly_spread(count: int, calls: int) -> None:
    gaps = [after - before for before, after in pairwise(frame_steps(FrameSettings(count=count), calls))]
    assert max(gaps) - min(gaps) <= 1


@pytest.fixture(scope="module")
def samples(gaussian_model: Model) -> dict[str, Sample]:
    cells = cells_of("gaussian", ["ddim:20", "heun:4", "dpmpp_2m:3"], guidance_scale=2.0)
    return {s.cell.lane.key: s for s in sample_cells(gaussian_model, cells, FrameSettings(count=5), 3)}


@pytest.mark.parametrize(
    ("lane", "kept"), [("ddim:20", [0, 5, 10, 14, 19]), ("heun:4", [0, 2, 3, 4, 6]), ("dpmpp_2m:3", [0, 1, 2])]
)
def test_pictures_of_both_kinds_are_kept_at_the_chosen_calls(
    lane: str, kept: list[int], samples: dict[str, Sample]
) -> None:
    sample = samples[lane]
    for kind in ("x0", "xt"):
        shown = [p.step_index for p in sample.pictures if p.kind == kind]
        assert shown == kept == frame_steps(FrameSettings(count=5), sample.nfe)
    [final] = [p for p in sample.pictures if p.kind == "final"]
    assert (final.step_index, final.progress, final.timestep, final.log_snr) == (sample.nfe - 1, 1.0, None, None)


def test_final_pictures_are_lossless_and_step_pictures_say_where_they_belong(samples: dict[str, Sample]) -> None:
    for sample in samples.values():
        for picture in sample.pictures:
            image = Image.open(io.BytesIO(picture.data))
            assert image.format == picture.format.upper() == ("PNG" if picture.kind == "final" else "WEBP")
            assert image.size == (picture.width, picture.height) == (64, 64)
            if picture.kind != "final":
                step = sample.steps[picture.step_index]
                assert (picture.timestep, picture.log_snr) == (step.timestep, step.log_snr)
                assert picture.progress == (picture.step_index + 1) / sample.nfe


def test_only_the_asked_kinds_are_kept_and_none_for_a_count_of_zero(gaussian_model: Model) -> None:
    cells = cells_of("gaussian", ["ddim:4"])
    [noisy] = sample_cells(gaussian_model, cells, FrameSettings(count=2, kinds=("xt",)), 1)
    assert Counter(picture.kind for picture in noisy.pictures) == {"xt": 2, "final": 1}
    [bare] = sample_cells(gaussian_model, cells, FrameSettings(count=0), 1)
    assert Counter(picture.kind for picture in bare.pictures) == {"final": 1}


def test_first_noisy_picture_is_noise_and_last_clean_picture_is_the_final_one(gaussian_model: Model) -> None:
    [sample] = sample_cells(gaussian_model, cells_of("gaussian", ["euler:9"]), FrameSettings(count=9), 1)
    final = picture_of(sample)
    last = next(p for p in sample.pictures if p.kind == "x0" and p.step_index == 8)
    clean = np.asarray(Image.open(io.BytesIO(last.data)).convert("RGB")).astype(int)
    first = next(p for p in sample.pictures if p.kind == "xt" and p.step_index == 0)
    noise = np.asarray(Image.open(io.BytesIO(first.data)).convert("RGB")).astype(int)
    as_webp = Image.open(io.BytesIO(frames.encode(final.astype("uint8"), "webp"))).convert("RGB")
    assert np.abs(clean - np.asarray(as_webp).astype(int)).mean() < 0.5
    assert np.abs(noise - final).mean() > 30
    assert abs(np.corrcoef(noise.ravel(), final.ravel())[0, 1]) < 0.3


@pytest.mark.parametrize("together", [1, 2, 32])
def test_decoding_equals_the_pipelines_own_however_many_are_decoded_together(
    together: int, sd_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sd_model.pipe
    monkeypatch.setattr(frames, "DECODED_PIXELS", together * 64 * 64)
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 2
    with torch.no_grad():
        ours = list(frames.decode(pipe, latents, [CALL] * 5))
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    theirs = pipe.image_processor.postprocess(decoded, output_type="pil")
    assert len(ours) == 5
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.shape == (1, 64, 64, 3)
        difference = np.abs(mine[0].astype(int) - np.asarray(plain).astype(int))
        assert difference.max() <= 1
        assert difference.mean() < 0.01, "rounded, not cut off"


def test_latent_means_and_deviations_of_a_model_are_undone_before_decoding(sdxl_model: Model) -> None:
    """SDXL finetunes and others state them; the formula is that of the diffusers SDXL pipeline."""
    vae = sdxl_model.pipe.vae
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    mean, std = [0.1, -0.2, 0.3, 0.0], [1.5, 0.5, 1.0, 2.0]
    before = dict(vae.config)
    with torch.no_grad():
        raw = latents * torch.tensor(std).view(1, 4, 1, 1) / before["scaling_factor"]
        wanted = vae.decode(raw + torch.tensor(mean).view(1, 4, 1, 1)).sample
        try:
            vae.register_to_config(latents_mean=mean, latents_std=std)
            got = torch.from_numpy(np.concatenate(list(frames.decode(sdxl_model.pipe, latents, [CALL] * 2))))
        finally:
            vae.register_to_config(latents_mean=None, latents_std=None)
    bytes_ = ((wanted / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255).round()
    assert (got.float() - bytes_).abs().max() <= 1


@pytest.mark.parametrize("rows", [1, 2])
def test_videos_are_decoded_frame_by_frame_in_order(rows: int, animatediff_model: Model) -> None:
    pipe = animatediff_model.pipe
    values = torch.randn((rows, 4, 16, 8, 8), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        videos = list(frames.decode(pipe, values, [CALL] * rows))
        singles = [pipe.vae.decode(video.movedim(0, 1) / pipe.vae.config.scaling_factor).sample for video in values]
    assert [video.shape for video in videos] == [(16, 64, 64, 3)] * rows
    for video, single in zip(videos, singles, strict=True):
        expected = ((single / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255).round().numpy()
        assert np.abs(video.astype(int) - expected).max() <= 1


def test_final_latents_are_handed_on_as_numbers(gaussian_model: Model) -> None:
    cells = cells_of("gaussian", ["euler:3"])
    [decoded] = sample_cells(gaussian_model, cells, FrameSettings(count=0), 1)
    with torch.no_grad():
        [raw] = run_cells(gaussian_model, cells, FrameSettings(count=0), 1)
    assert raw.latents is not None
    assert decoded.latents is None
    assert decoded.final is not None
    assert decoded.final.dtype == np.float32
    np.testing.assert_array_equal(decoded.final, raw.latents[0].numpy())


def test_png_keeps_every_byte_and_webp_stays_near() -> None:
    gradient = np.linspace(0, 255, 32 * 24).reshape(24, 32, 1).repeat(3, axis=2).astype("uint8")
    for format, tolerance in (("png", 0), ("webp", 12)):
        data = frames.encode(gradient, format)  # type: ignore[arg-type]
        back = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        assert np.abs(back - gradient.astype(int)).max() <= tolerance


def test_a_model_that_is_not_square_keeps_width_and_height_apart(sd_model: Model, sd_folder: Path) -> None:
    cells = cells_of(sd_folder, ["ddim:2"], width=64, height=32)
    [sample] = sample_cells(sd_model, cells, FrameSettings(count=1), 1)
    assert {(picture.width, picture.height) for picture in sample.pictures} == {(64, 32)}
