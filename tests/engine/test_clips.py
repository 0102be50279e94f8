"""Metrics of clips: against independent computations on clips made by hand, and on a real run of a miniature."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.cache import queries, score_tables, step_tables
from engine.cache.connection import reading
from engine.cli import main
from engine.measuring import clip
from engine.measuring.clips import channels_of, frame_axis
from engine.measuring.evidence import Evidence, Subject, Unmeasurable
from engine.measuring.metrics import METRICS
from engine.measuring.stored_cells import StoredCells
from engine.passes.run import run_study
from engine.sampling.image_pass import sample_cells
from engine.sampling.models import Model
from engine.study.frame_settings import FrameSettings
from engine.study.source import BUNDLED, find_model
from engine.study.study import parse_study
from tests.engine.miniatures import cells_of

FRAMES = 8
STILL = np.full((FRAMES, 64, 64, 3), 255, np.uint8)
STILL[:, 20:44, 20:44] = (200, 30, 30)
MOVING = np.full((FRAMES, 64, 64, 3), 255, np.uint8)
for _number in range(FRAMES):
    MOVING[_number, 20:44, 4 * _number : 4 * _number + 24] = (200, 30, 30)
NOISE = np.random.default_rng(0).integers(0, 256, STILL.shape, dtype=np.uint8)
CLIPS = (STILL, MOVING, NOISE)
OF_CLIPS = [key for key, metric in METRICS.items() if metric.of_clips]


def evidence(pictures: np.ndarray, latents: np.ndarray | None = None, model: str = "bundled") -> Evidence:
    found = np.zeros((4, 8, 8), np.float32) if latents is None else latents
    return Evidence(Subject(find_model(model)), "red apple", 0, pictures, found)


def test_flicker_is_the_mean_absolute_difference_of_neighbours_and_grows_from_still_to_noise() -> None:
    found = [METRICS["flicker"].value(evidence(pictures)) for pictures in CLIPS]
    for value, pictures in zip(found, CLIPS, strict=True):
        pairs = zip(pictures[1:].astype(int), pictures[:-1].astype(int), strict=True)
        assert value == pytest.approx(np.mean([np.abs(later - before).mean() for later, before in pairs]), rel=1e-12)
    assert found[0] == 0 < found[1] < found[2]
    # 4 columns of 24 pixels leave the square and 4 join it: 55, 225 and 225 of 255 apart.
    assert found[1] == pytest.approx(2 * 4 * 24 * (55 + 225 + 225) / 3 / 64**2)


def test_consistency_is_the_mean_cosine_of_neighbours_and_falls_from_still_to_noise() -> None:
    judge = clip.judge_of(find_model("bundled"))
    found = [METRICS["temporal_consistency"].value(evidence(pictures)) for pictures in CLIPS]
    for value, pictures in zip(found, CLIPS, strict=True):
        vectors = [judge.pictures(picture[None])[0].astype(float) for picture in pictures]
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.pairwise(vectors)]
        assert value == pytest.approx(np.mean(cosines), abs=1e-5)
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found[0] > found[1] > found[2]


def test_scores_and_sharpness_of_a_step_are_means_over_frames_and_the_middle_is_one_of_them() -> None:
    mixed = np.concatenate([STILL[:4], NOISE[:4]])
    alone = [METRICS["clip_score"].value(evidence(picture[None])) for picture in mixed]
    assert METRICS["step_clip_score"].value(evidence(mixed)) == pytest.approx(np.mean(alone), abs=1e-3)
    assert METRICS["middle_clip_score"].value(evidence(mixed)) == pytest.approx(alone[4], abs=1e-3)
    sharp = [METRICS["sharpness"].value(evidence(picture[None])) for picture in mixed]
    assert METRICS["step_sharpness"].value(evidence(mixed)) == pytest.approx(np.mean(sharp))


@pytest.mark.parametrize("key", OF_CLIPS)
def test_a_single_picture_has_no_value_and_a_model_of_pictures_says_so_once(key: str) -> None:
    with pytest.raises(Unmeasurable, match="a single picture"):
        METRICS[key].value(evidence(STILL[:1]))
    with pytest.raises(Unmeasurable, match="single pictures, not clips"):
        METRICS[key].full_version(Subject(find_model("gaussian")))


def test_the_axis_of_the_frames_is_the_one_that_the_channels_leave() -> None:
    assert frame_axis((4, 16, 8, 8), 4) == 1
    assert frame_axis((13, 16, 60, 90), 16) == 0  # CogVideoX
    for shape, channels in (((4, 8, 8), 4), ((16, 16, 8, 8), 16), ((256, 128), 128), ((4, 16, 8, 8), None)):
        assert frame_axis(shape, channels) is None
    assert channels_of({"z_dim": 16}) == 16
    assert channels_of({"latent_channels": 4}) == 4
    assert channels_of({}) is None


def test_motion_is_that_of_the_latents_and_says_where_no_frame_can_be_told(animatediff_folder: Path) -> None:
    latents = np.random.default_rng(1).normal(size=(4, FRAMES, 8, 8)).astype(np.float32)
    found = METRICS["motion_energy"].value(evidence(STILL, latents, str(animatediff_folder)))
    pairs = [(latents[:, n + 1] - latents[:, n]).astype(float) ** 2 for n in range(FRAMES - 1)]
    assert found == pytest.approx(np.mean(pairs), rel=1e-6)
    still = np.repeat(latents[:, :1], FRAMES, axis=1)
    assert METRICS["motion_energy"].value(evidence(STILL, still, str(animatediff_folder))) == 0
    with pytest.raises(Unmeasurable, match=r"frame axis .*64 x 128\)"):
        METRICS["motion_energy"].value(evidence(STILL, np.zeros((64, 128), np.float32), str(animatediff_folder)))
    with pytest.raises(Unmeasurable, match="only one frame"):
        METRICS["motion_energy"].value(evidence(STILL, latents[:, :1], str(animatediff_folder)))


def test_every_step_of_a_clip_leaves_the_motion_of_its_x0_and_pictures_leave_none(
    animatediff_model: Model, animatediff_folder: Path, sd_model: Model, sd_folder: Path
) -> None:
    [cell] = cells_of(animatediff_folder, ["dpmpp_2m:3"])
    [sample] = sample_cells(animatediff_model, [cell], FrameSettings(count=1), 4)
    clean = [step.x0[0].double().numpy() for step in sample.steps if step.x0 is not None]
    assert [index for index, _ in sample.motion] == [0, 1, 2]
    for (_, energy), x0 in zip(sample.motion, clean, strict=True):
        assert energy == pytest.approx(np.mean([(x0[:, n + 1] - x0[:, n]) ** 2 for n in range(x0.shape[1] - 1)]))
    [picture] = sample_cells(sd_model, cells_of(sd_folder, ["ddim:2"]), FrameSettings(count=1), 4)
    assert picture.error is None
    assert picture.motion == []


@pytest.fixture(scope="module")
def judged_folder(animatediff_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with the bundled model's CLIP beside it."""
    folder = tmp_path_factory.mktemp("judged")
    for part in animatediff_folder.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "clip").symlink_to(BUNDLED / "clip")
    return folder


def test_a_study_of_clips_is_measured_at_every_kept_step_and_has_phases(
    judged_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain: dict[str, Any] = {"name": "clips", "model": str(judged_folder), "prompts": ["red apple"], "seeds": [0]}
    plain |= {"lanes": ["ddim:4", "euler:5"], "frames": {"count": 4}, "timing": {"repeats": 0}}
    study, cache = parse_study(plain), tmp_path / "cache.duckdb"
    run_study(study, cache, device="cpu")
    with reading(cache) as db:
        cells = queries.cells(db, "clips").set_index("study_lane")
        quality = score_tables.picture_scores(db, "clips").set_index(["lane", "metric"])["value"]
        curve = score_tables.frame_curves(db, "clips", "ddim:4")
        steps = step_tables.step_curves(db, "clips", "euler:5")
        key = cells.loc["ddim:4", "trajectory_id"]
        stored = StoredCells(queries.latents(db, [key]), queries.frames(db, [key], ["final"]))
        assert queries.frames_per_cell(db, "clips") == 16
    frames = stored.final(key).astype(float)
    assert quality["ddim:4", "flicker"] == pytest.approx(np.abs(np.diff(frames, axis=0)).mean())
    assert quality["ddim:4", "motion_energy"] == pytest.approx(
        np.square(np.diff(stored.latents[key].astype(float), axis=1)).mean()
    )
    assert quality["euler:5", "temporal_consistency"] < 1
    for metric in ("flicker", "temporal_consistency", "middle_clip_score", "step_clip_score", "step_sharpness"):
        assert curve[curve["metric"] == metric]["step_index"].tolist() == [0, 1, 2, 3]
    energies = steps[steps["metric"] == "motion_energy"]
    assert energies["step_index"].tolist() == [0, 1, 2, 3, 4]
    assert (energies["value"] > 0).all()

    told = tmp_path / "phases.json"
    assert main(["phases", "clips", "--cache", str(cache), "--json", str(told)]) == 0
    assert "appearance settled (log-SNR)" in capsys.readouterr().out
    rows = json.loads(told.read_text())["clips"]
    assert [row["lane"] for row in rows] == ["ddim:4", "euler:5"]
    assert [row["kept_steps"] for row in rows] == [4, 4]
    for row in rows:
        assert row["lead_steps"]["value"] == pytest.approx(
            row["appearance"]["step"]["value"] - row["motion"]["step"]["value"]
        )
