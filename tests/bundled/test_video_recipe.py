"""The video recipe runs from an emoji package to a loadable pipeline, at tiny sizes and without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, LattePipeline
from PIL import Image

pytest.importorskip("skia", reason="skia-python needs libEGL and libGL", exc_type=ImportError)

from data.bundled.recipe import common
from data.scenes.recipe.encode import shards
from data.video.recipe import (
    encode_clips,
    evaluate_clips,
    export_clips,
    finish,
    paint_clips,
    run,
    train_autoencoder,
    train_mover,
)
from data.video.recipe.clip_judge import motion_of
from data.video.recipe.clip_painter import ClipPainter, plain_sprites
from data.video.recipe.clip_text import make_tokenizer, token_ids
from data.video.recipe.clips import FRAMES, HELD_OUT, LEARNT, MOTIONS, THINGS, caption, clip_of, poses, training_clip
from tests.bundled.packages import make_package

BUNDLED = Path(__file__).parents[2] / "data/bundled"
TINY: dict[str, Any] = {
    "seed": 0,
    "dataset": {
        "size": 16,
        "sprite_size": 16,
        "pictures": 3,
        "latents": 6,
        "shard": 4,
        "source": {"package": "pictures@1", "folder": "png", "suffix": ".png"},
    },
    "autoencoder": {},
    "denoiser": {
        "steps": 3,
        "batch": 2,
        "learning_rate": 1e-3,
        "layers": 1,
        "heads": 2,
        "head_width": 8,
        "patch": 2,
        "text": {"width": 16, "layers": 1, "heads": 2, "hidden": 16},
        "finish": {"steps": 2, "hold": 0.0},
    },
    "export": {"largest_file_mb": 1, "largest_folder_mb": 1},
    "evaluate": {"judge": str(BUNDLED / "clip"), "clips": 1, "steps": 2, "guidance": 2.0, "on_sheet": 3},
}


def stage(name: str, work: Path, **changes: Any) -> common.Stage:
    return common.open_stage(name, TINY | {name: TINY[name] | changes}, work, "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after a few steps of every stage."""
    work = tmp_path_factory.mktemp("video")
    make_package(work, THINGS.values())
    torch.manual_seed(0)
    tiny = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    tiny.save_pretrained(work / "start")
    paint_clips.run(stage("dataset", work))
    train_autoencoder.run(stage("autoencoder", work, start=str(work / "start")))
    encode_clips.run(stage("dataset", work))
    train_mover.run(stage("denoiser", work))
    finish.run(stage("denoiser", work))
    return work


def test_every_stage_leaves_its_part(trained: Path) -> None:
    assert np.load(trained / "pictures.npy").shape == (3 * FRAMES, 3, 16, 16)
    latents = [np.load(path) for path in shards(trained)]
    assert [part.shape for part in latents] == [(4, 4, FRAMES, 8, 8), (2, 4, FRAMES, 8, 8)]
    assert np.concatenate(latents).std() == pytest.approx(1, abs=0.2)
    steady, finished = (
        torch.load(trained / f"checkpoints/{name}.pt", weights_only=True)["model"] for name in ("denoiser", "finish")
    )
    assert any(not torch.equal(steady[name], finished[name]) for name in steady)


def test_a_training_that_was_cut_off_goes_on_where_it_stopped(trained: Path) -> None:
    state = torch.load(trained / "checkpoints/denoiser.pt", weights_only=True)
    assert state["step"] == 3
    train_mover.run(stage("denoiser", trained, steps=4))
    assert torch.load(trained / "checkpoints/denoiser.pt", weights_only=True)["step"] == 4


def test_the_pipeline_is_small_loads_in_float32_and_is_measured(trained: Path, tmp_path: Path) -> None:
    target = export_clips.run(stage("export", trained), target=tmp_path / "made")
    pipe = LattePipeline.from_pretrained(target)
    assert {weight.dtype for weight in pipe.vae.parameters()} == {torch.float32}
    stored = AutoencoderKL.from_pretrained(trained / "autoencoder")
    for given, loaded in zip(stored.parameters(), pipe.vae.parameters(), strict=True):
        torch.testing.assert_close(loaded, given, rtol=2e-3, atol=1e-4)
    assert json.loads((target / "held_out.json").read_text()) == [caption(*pair) for pair in HELD_OUT]
    found = evaluate_clips.run(
        stage("evaluate", trained, bundle=str(target), sheet=str(tmp_path / "sheet.png")),
    )
    assert found["learnt"]["n"] == len(LEARNT)
    assert 0 <= found["held out"]["word found, drawn"] <= 1
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == FRAMES * (2 * 16 + 4)
    answers = (trained / "sheet_answers.txt").read_text().splitlines()
    assert len(answers) == 3
    assert {line.partition(": ")[2] for line in answers} <= {caption(*pair) for pair in HELD_OUT}


def test_no_training_clip_shows_a_held_out_pair_and_each_motion_has_two_of_them() -> None:
    assert len(LEARNT) + len(HELD_OUT) == len(THINGS) * len(MOTIONS)
    assert {motion: sum(pair[1] == motion for pair in HELD_OUT) for motion in MOTIONS} == dict.fromkeys(MOTIONS, 2)
    drawn = {(clip.thing, clip.motion) for clip in map(training_clip, range(600))}
    assert drawn == set(LEARNT)


def test_each_motion_moves_as_its_word_says_and_the_middle_frame_is_upright() -> None:
    for seed in range(20):
        falling = [pose.y for pose in poses(clip_of("owl", "falls", seed))]
        assert falling == sorted(falling)
        clip = clip_of("owl", "crosses", seed)
        crossing = [pose.x for pose in poses(clip)][:: clip.way]
        assert crossing == sorted(crossing)
        assert crossing[-1] - crossing[0] > 0.7
        growing = [pose.size for pose in poses(clip_of("owl", "grows", seed))]
        assert growing == sorted(growing)
        bouncing = np.sign(np.diff([round(pose.y, 6) for pose in poses(clip_of("owl", "bounces", seed))]))
        assert bouncing[bouncing != 0].tolist() == [-1, -1, 1, -1, 1, 1]
        turning = [pose.degrees for pose in poses(clip_of("owl", "turns", seed))]
        assert abs(turning[-1] - turning[0]) == pytest.approx(360)
        assert turning[FRAMES // 2] == 0


def test_a_painted_clip_is_one_thing_on_white_that_depends_on_its_seed() -> None:
    painter = ClipPainter(plain_sprites(), 32)
    one, other = (painter.paint(clip_of("owl", "falls", seed)) for seed in (1, 2))
    assert one.shape == (FRAMES, 3, 32, 32)
    assert (one != other).any()
    assert (one[:, :, 0, 0] == 255).all()
    assert (one == painter.paint(clip_of("owl", "falls", 1))).all()


def test_every_word_of_every_caption_is_one_token() -> None:
    tokenizer = make_tokenizer()
    texts = [caption(thing, motion) for thing in THINGS for motion in MOTIONS]
    for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
        assert len(ids) == len(text.split()) + 1
        assert tokenizer.unk_token_id not in ids
    ids, mask = token_ids(tokenizer, ["", "an owl falls"], 4)
    assert mask.sum(1).tolist() == [1, 4]
    assert ids[0, 1:].tolist() == [tokenizer.pad_token_id] * 3


def test_motion_energy_is_the_mean_squared_difference_of_neighbouring_frames() -> None:
    latents = torch.zeros(1, 1, 3, 2, 2)
    latents[:, :, 1] = 2.0
    assert motion_of(latents).tolist() == [4.0]


def test_the_config_has_a_table_for_every_stage() -> None:
    config = common.load_config(Path(run.__file__).with_name("video_64.toml"))
    assert {table for table, _ in run.STAGES.values()} <= set(config)
