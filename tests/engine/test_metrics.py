"""The metrics: each against an independent implementation, and on edge inputs."""

import dataclasses
import math

import numpy as np
import pytest
import skimage.metrics as skimage_metrics
from PIL import Image

from engine.errors import StudyError
from engine.measuring import clip, formulas
from engine.measuring.evidence import Evidence, Subject, Unmeasurable
from engine.measuring.metric import resolve
from engine.measuring.metrics import METRICS, Metric
from engine.passes.plan import plan_study
from engine.passes.run import run_study
from engine.passes.scores import score_cells
from engine.progress import Progress
from engine.study.reference import ReferenceSettings
from engine.study.registry import Registry
from engine.study.source import BUNDLED, find_model
from engine.study.study import parse_study
from tests.engine.helpers import parsed, use_metrics

RANDOM = np.random.default_rng(0)
CONSTANT = np.full((1, 32, 32, 3), 77, np.uint8)
STRIPES = np.tile(np.array([0, 255], np.uint8).repeat(3).reshape(1, 2, 3), (32, 16, 1))[None]


def random_pictures(shape=(1, 48, 40, 3)):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def smooth_pictures(side=64):
    x, y = np.meshgrid(*[np.linspace(0, 3, side)] * 2)
    return (127 + 120 * np.stack([np.sin(x * y), np.cos(x), np.sin(y)], -1)).astype(np.uint8)[None]


def noisy(pictures, spread):
    noise = RANDOM.normal(0, spread, pictures.shape)
    return (pictures + noise).clip(0, 255).astype(np.uint8)


def evidence(pictures, reference=None, latents=None, reference_latents=None, **changes):
    zeros = np.zeros((4, 8, 8), np.float32)
    values = {
        "subject": Subject(find_model("gaussian")),
        "prompt": "disc",
        "seed": 0,
        "pictures": pictures,
        "latents": zeros if latents is None else latents,
        "reference_pictures": reference,
        "reference_latents": reference_latents,
    }
    return Evidence(**values | changes)


PAIRS = [
    (random_pictures(), random_pictures()),
    (smooth_pictures(), noisy(smooth_pictures(), 12)),
    (smooth_pictures(), noisy(smooth_pictures(), 0.6)),
    (CONSTANT, CONSTANT + 30),
    (CONSTANT, STRIPES),
    (STRIPES, STRIPES[:, :, ::-1].copy()),
    (random_pictures((1, 11, 11, 3)), random_pictures((1, 11, 11, 3))),
]


@pytest.mark.parametrize(("found", "reference"), PAIRS)
def test_psnr_and_ssim_agree_with_scikit_image(found, reference):
    found_there = skimage_metrics.peak_signal_noise_ratio(reference[0], found[0], data_range=255)
    assert formulas.psnr(evidence(found, reference)) == pytest.approx(found_there, abs=1e-9)
    found_there = skimage_metrics.structural_similarity(
        reference[0],
        found[0],
        data_range=255,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert formulas.ssim(evidence(found, reference)) == pytest.approx(found_there, abs=1e-9)


@pytest.mark.parametrize("pictures", [random_pictures(), CONSTANT, STRIPES, np.zeros_like(CONSTANT)])
def test_equal_pictures_get_the_cap_and_one(pictures):
    assert formulas.psnr(evidence(pictures, pictures.copy())) == formulas.PSNR_CAP
    assert formulas.ssim(evidence(pictures, pictures.copy())) == pytest.approx(1, abs=1e-12)


def test_the_smallest_difference_is_below_the_cap():
    other = np.zeros((1, 128, 128, 3), np.uint8)
    other[0, 0, 0, 0] = 1
    assert 90 < formulas.psnr(evidence(np.zeros_like(other), other)) < formulas.PSNR_CAP


def test_pictures_too_small_for_the_window_and_unequal_sizes_are_refused():
    small = random_pictures((1, 10, 30, 3))
    with pytest.raises(Unmeasurable, match="at least 11"):
        formulas.ssim(evidence(small, small))
    for metric in (formulas.psnr, formulas.ssim):
        with pytest.raises(Unmeasurable, match="the reference's"):
            metric(evidence(small, random_pictures()))
        with pytest.raises(Unmeasurable, match="no reference"):
            metric(evidence(small))


def test_latent_error_is_the_relative_distance():
    found, reference = RANDOM.normal(size=(2, 4, 8, 8)).astype(np.float32)
    error = formulas.latent_error(evidence(CONSTANT, latents=found, reference_latents=reference))
    squares = sum((float(a) - float(b)) ** 2 for a, b in zip(found.ravel(), reference.ravel(), strict=True))
    norm = sum(float(b) ** 2 for b in reference.ravel())
    assert error == pytest.approx(math.sqrt(squares / norm), rel=1e-12)
    assert formulas.relative_distance(reference, reference) == 0
    assert formulas.relative_distance(reference * 1.1, reference) == pytest.approx(0.1, rel=1e-5)
    with pytest.raises(Unmeasurable, match="zero everywhere"):
        formulas.relative_distance(found, np.zeros_like(found))
    with pytest.raises(Unmeasurable, match=r"latents are \(3,\)"):
        formulas.relative_distance(np.zeros(3), np.zeros(4))
    with pytest.raises(Unmeasurable, match="no reference"):
        formulas.latent_error(evidence(CONSTANT))


@pytest.mark.parametrize("picture", [random_pictures()[0], smooth_pictures()[0], STRIPES[0]])
def test_sharpness_agrees_with_the_laplacian_written_out(picture):
    from skimage.color import rgb2gray

    padded = np.pad(rgb2gray(picture), 1, mode="symmetric")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * padded[1:-1, 1:-1]
    assert formulas.laplacian_variance(picture) == pytest.approx(laplacian.var(), rel=1e-9)


def test_sharpness_is_zero_for_constants_and_falls_with_blur():
    from skimage.filters import gaussian

    assert formulas.sharpness(evidence(CONSTANT)) == pytest.approx(0, abs=1e-20)
    picture = noisy(smooth_pictures(), 20)
    blurred = (gaussian(picture[0], 1.5, channel_axis=-1) * 255).astype(np.uint8)[None]
    assert formulas.sharpness(evidence(blurred)) < 0.1 * formulas.sharpness(evidence(picture))


@pytest.mark.parametrize("slope", [0.0, -2.0, -3.0])
def test_the_spectral_slope_of_noise_made_with_a_slope_is_found(slope):
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    radius[0, 0] = 1
    waves = np.fft.ifft2(np.fft.fft2(RANDOM.normal(size=(256, 256))) * radius ** (slope / 2)).real
    grey = (127 + 30 * (waves - waves.mean()) / waves.std()).clip(0, 255).round().astype(np.uint8)
    found = formulas.spectral_slope(evidence(np.repeat(grey[None, ..., None], 3, -1)))
    # Bytes are rounded, which adds a little white noise.
    assert found == pytest.approx(slope, abs=0.2)


def test_a_constant_picture_has_no_spectral_slope():
    with pytest.raises(Unmeasurable, match="no detail"):
        formulas.spectral_slope(evidence(CONSTANT))


def test_videos_get_the_mean_over_their_frames():
    frames, reference = random_pictures((3, 32, 32, 3)), random_pictures((3, 32, 32, 3))
    for metric in (formulas.psnr, formulas.ssim, formulas.sharpness, formulas.spectral_slope):
        single = [metric(evidence(frames[i : i + 1], reference[i : i + 1])) for i in range(3)]
        assert metric(evidence(frames, reference)) == pytest.approx(np.mean(single))


def test_every_entry_is_whole():
    for key, entry in METRICS.items():
        assert entry.key == key
        assert entry.label
        assert entry.description
        assert entry.direction in {"higher", "lower", "neither"}
        assert callable(resolve(entry.measure))
        assert entry.smallest_n >= 10
    assert not METRICS["psnr"].has_true_zero
    assert METRICS["recognised"].has_true_zero


def brightness(found):
    return float(found.pictures.mean() / 255)


def test_a_metric_of_ones_own_is_a_function_and_an_entry():
    table = Registry("metric", METRICS.values())
    entry = Metric("brightness", "Brightness", "", "neither", "1", brightness, "mean value")
    assert table.register(entry) is entry
    table.register(entry)
    assert entry.value(evidence(CONSTANT)) == pytest.approx(77 / 255)
    with pytest.raises(StudyError, match="'brightness' is taken by 'Brightness'"):
        table.register(dataclasses.replace(entry, label="Other"))
    with pytest.raises(StudyError, match="letters, digits"):
        table.register(dataclasses.replace(entry, key="Bad key"))
    for change, words in (
        ({"key": "Bad"}, "lower-case"),
        ({"scope": "video"}, "scope"),
        ({"direction": "up"}, "direction"),
    ):
        with pytest.raises(StudyError, match=words):
            table.register(dataclasses.replace(entry, **change))


def test_a_version_names_the_reference_and_a_study_without_one_says_so():
    settings = parse_study({"name": "s", "prompts": ["disc"], "lanes": ["ddim:5"], "reference": {}}).reference
    assert isinstance(settings, ReferenceSettings)
    model = find_model("gaussian")
    assert METRICS["ssim"].full_version(Subject(model, settings)) == "1@dpmpp_2m_karras:100|heun:50|0.05"
    assert METRICS["sharpness"].full_version(Subject(model, settings)) == "1"
    with pytest.raises(Unmeasurable, match=r"not available: .* reference.enabled=true"):
        METRICS["ssim"].full_version(Subject(model))


def test_what_is_missing_is_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "in_hub_cache", lambda repo: None)
    with pytest.raises(Unmeasurable, match="patterns"):
        METRICS["clip_score"].full_version(Subject(find_model("gaussian")))
    model = dataclasses.replace(find_model("gaussian"), kind="folder", folder=tmp_path)
    with pytest.raises(Unmeasurable, match="hf download openai/clip-vit-base-patch32"):
        METRICS["recognised"].full_version(Subject(model))
    (tmp_path / "clip").mkdir()
    with pytest.raises(Unmeasurable, match=r"lacks config.json, model.safetensors, tokenizer_config.json"):
        METRICS["clip_score"].full_version(Subject(model))


def test_the_concept_is_the_prompt_or_what_stands_before_its_comma():
    labels = ("owl", "red apple")
    assert clip.concept("Owl", labels) == "owl"
    assert clip.concept("red apple, 3d style", labels) == "red apple"
    with pytest.raises(Unmeasurable, match="names no concept"):
        clip.concept("an owl", labels)


BUNDLED_CLIP = BUNDLED / "clip" / "model.safetensors"
needs_bundled_clip = pytest.mark.skipif(not BUNDLED_CLIP.is_file(), reason="the bundled CLIP is not here")


def write_clip(folder):
    """A tiny random CLIP for 32 x 32 px."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from tests.engine import miniatures

    torch.manual_seed(3)
    tokenizer = miniatures.clip_tokenizer()
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    text = {**small, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_vectors_agree_with_the_model_called_by_hand(tmp_path):
    """An OpenAI model gets pictures resized by their shorter side, cut, and normalised as it was trained."""
    import torch
    from transformers import CLIPModel, CLIPTokenizer

    from engine.measuring.clip_model import OPENAI_MEAN, OPENAI_STD, ClipModel

    folder = write_clip(tmp_path / "models--openai--tiny" / "snapshots" / "abc")
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    wide = smooth_pictures(96)[:, :64]
    resized = Image.fromarray(wide[0]).resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    values = (np.asarray(resized) / 255 - OPENAI_MEAN) / OPENAI_STD
    with torch.no_grad():
        output = model(
            input_ids=tokenizer(["red apple"], return_tensors="pt").input_ids,
            pixel_values=torch.from_numpy(values).permute(2, 0, 1)[None].float(),
        )
    judge = ClipModel(folder)
    assert judge.pictures(wide)[0] == pytest.approx(output.image_embeds[0].numpy(), abs=0.01)
    assert judge.text("red apple") == pytest.approx(output.text_embeds[0].numpy(), abs=1e-5)
    assert np.linalg.norm(judge.pictures(random_pictures((3, 32, 32, 3))), axis=1) == pytest.approx(1)


def test_clip_metrics_follow_their_formulas(tmp_path):
    from engine.measuring.clip_model import ClipModel

    write_clip(tmp_path / "clip")
    (tmp_path / "vocabulary.txt").write_text("owl\nred apple\nsmall cat\n")
    model = dataclasses.replace(find_model("gaussian"), kind="folder", folder=tmp_path)
    judge, pictures = ClipModel(tmp_path / "clip"), random_pictures((2, 32, 32, 3))
    cosines = judge.pictures(pictures) @ np.stack([judge.text(label) for label in ("owl", "red apple", "small cat")]).T
    for place, label in enumerate(("owl", "red apple", "small cat")):
        found = evidence(pictures, subject=Subject(model), prompt=f"{label}, 3d")
        assert METRICS["recognised"].value(found) == np.mean(cosines.argmax(axis=1) == place)
        found = evidence(pictures, subject=Subject(model), prompt=label)
        assert METRICS["clip_score"].value(found) == pytest.approx(
            100 * np.maximum(cosines[:, place], 0).mean(), abs=1e-4
        )
    versions = {METRICS[key].full_version(Subject(model)) for key in ("clip_score", "recognised")}
    assert all(version.startswith("1@own clip ") for version in versions)
    (tmp_path / "vocabulary.txt").write_text("owl\nred apple\n")
    assert METRICS["recognised"].full_version(Subject(model)) not in versions


def test_a_clip_of_the_hub_cache_is_found_and_named(tmp_path, monkeypatch):
    folder = write_clip(tmp_path / "models--openai--clip-vit-base-patch32" / "snapshots" / "abc")
    there = {"openai/clip-vit-base-patch32": folder}
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda repo, name: str(there[repo] / name) if repo in there else None
    )
    model = dataclasses.replace(find_model("gaussian"), kind="folder", folder=tmp_path)
    version = METRICS["clip_score"].full_version(Subject(model))
    assert version.startswith("1@openai/clip-vit-base-patch32 ")


@needs_bundled_clip
def test_the_bundled_clip_agrees_with_the_judge_of_the_bundled_recipe():
    import torch

    from data.bundled.recipe.evaluate import Judge, read_prompts

    labels = read_prompts(BUNDLED / "vocabulary.txt")[:40]
    theirs = Judge(BUNDLED / "clip", labels)
    pictures = RANDOM.integers(0, 256, (6, theirs.size, theirs.size, 3), dtype=np.uint8)
    unit = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        images = theirs.model(input_ids=torch.zeros(1, 2, dtype=torch.long), pixel_values=unit).image_embeds
    expected = (images @ theirs.text.T).numpy()
    subject = Subject(find_model("bundled"))
    found = [
        [METRICS["clip_score"].value(evidence(p[None], subject=subject, prompt=label)) for label in labels[:5]]
        for p in pictures
    ]
    np.testing.assert_allclose(found, 100 * np.maximum(expected[:, :5], 0), atol=1e-3)


@needs_bundled_clip
def test_clip_judges_cells_on_the_device_that_is_asked_for(tmp_path, monkeypatch):
    study = parsed(model="bundled", prompts=["owl"], lanes=["ddim:2"], frames={"count": 0})
    source, cache = find_model("bundled"), tmp_path / "c.duckdb"
    with monkeypatch.context() as patch:
        use_metrics(patch, Metric("mine", "Mine", "", "higher", "1", lambda evidence: 1.0, "without CLIP"))
        run_study(study, cache, device="cpu")
    cells = plan_study(study, source, cache, "cpu", "standard").cells
    monkeypatch.setitem(clip._judging, "device", "cuda:99")
    clip.load_judge.cache_clear()
    tally = score_cells(Subject(source), cells, ["clip_score"], cache, Progress(), "cpu")
    assert (tally.taken, tally.failed) == (1, 0)
