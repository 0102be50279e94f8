"""The scenes recipe runs from emoji packages to a loadable pipeline, at tiny sizes and without a network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

pytest.importorskip("skia", reason="skia-python needs libEGL and libGL", exc_type=ImportError)

from data.bundled.recipe import common
from data.bundled.recipe.dataset import tokenize
from data.scenes.recipe import (
    begin,
    encode,
    evaluate,
    export,
    paint,
    run,
    train_autoencoder,
    train_clip,
    train_denoiser,
)
from data.scenes.recipe.run import main, read_config
from data.scenes.recipe.vocabulary import STYLES, THINGS
from tests.bundled.packages import make_package

TINY: dict[str, Any] = {
    "seed": 0,
    "dataset": {
        "size": 16,
        "sprite_size": 16,
        "caption_tokens": 24,
        "vocabulary_size": 560,
        "pictures": 8,
        "latents": 12,
        "shard": 8,
        "source": [{"package": "pictures@1", "folder": "png", "suffix": ".png", "style": style} for style in STYLES],
    },
    "autoencoder": {
        "steps": 2,
        "batch": 2,
        "learning_rate": 1e-3,
        "channels": [8, 16],
        "layers": 1,
        "latent_channels": 4,
        "kl_weight": 1e-4,
        "decoder": {"steps": 1},
    },
    "clip": {
        "steps": 2,
        "batch": 4,
        "learning_rate": 1e-3,
        "projection": 16,
        "text": {"width": 32, "layers": 1, "heads": 2},
        "image": {"width": 32, "layers": 1, "heads": 2, "patch": 8},
    },
    "denoiser": {
        "steps": 2,
        "batch": 4,
        "learning_rate": 1e-3,
        "channels": [32, 64],
        "attention": [False, True],
        "layers": 1,
        "head_width": 16,
        "finish": {"steps": 1, "hold": 0.0},
    },
    "export": {"shard_size": "1MB", "largest_file_mb": 3, "largest_folder_mb": 8},
    "evaluate": {
        "painted": 4,
        "held_out": 3,
        "on_sheet": 3,
        "curve_prompts": 2,
        "steps": 2,
        "sheet_guidance": 2.0,
        "guidance": [1.0, 3.0],
        "counts": {"ddim": [3, 2], "dpm": [3, 2]},
        "formation_steps": 3,
        "gallery": 10,
    },
}


def stage(name: str, work: Path, **changes: Any) -> common.Stage:
    return common.open_stage(name, TINY | {name: TINY[name] | changes}, work, "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after a few steps of every stage."""
    work = tmp_path_factory.mktemp("scenes")
    make_package(work, [thing.code for thing in THINGS.values()])
    paint.run(stage("dataset", work))
    train_autoencoder.run(stage("autoencoder", work))
    train_autoencoder.sharpen(stage("autoencoder", work))
    train_clip.run(stage("clip", work))
    encode.run(stage("dataset", work))
    train_denoiser.run(stage("denoiser", work))
    train_denoiser.finish(stage("denoiser", work))
    return work


def test_every_stage_leaves_its_part(trained: Path) -> None:
    assert np.load(trained / "pictures.npy").shape == (8, 3, 16, 16)
    latents = [np.load(path) for path in encode.shards(trained)]
    assert [part.shape for part in latents] == [(8, 4, 8, 8), (4, 4, 8, 8)]
    assert all(part.dtype == np.float16 for part in latents)
    for part in ("autoencoder", "clip", "denoiser", "text_encoder"):
        assert (trained / part / "config.json").is_file()


def test_tokenizer_splits_words_it_does_not_know(trained: Path) -> None:
    tokenizer = train_clip.make_tokenizer(stage("clip", trained))
    ids = tokenize(tokenizer, ["an owl on a beach", "a Zeppelin \u2603 over \u00dcbersee", ""])
    assert ids.shape == (3, 24)
    assert len({tuple(row) for row in ids.tolist()}) == 3
    assert ids.max() < len(tokenizer)


def test_painting_and_encoding_go_on_where_they_stopped(trained: Path, tmp_path: Path) -> None:
    for part in ("packages", "autoencoder"):
        shutil.copytree(trained / part, tmp_path / part)
    paint.run(stage("dataset", tmp_path, pictures=8))
    before = np.load(tmp_path / "pictures.npy")
    (tmp_path / "pictures.json").write_text('{"done": 5}', encoding="utf-8")
    paint.run(stage("dataset", tmp_path, pictures=8))
    assert (np.load(tmp_path / "pictures.npy") == before).all()
    assert encode.run(stage("dataset", tmp_path, latents=8)) == 8
    assert encode.run(stage("dataset", tmp_path)) == 12
    both = [np.concatenate([np.load(path) for path in encode.shards(work)]) for work in (trained, tmp_path)]
    assert np.allclose(*both, atol=1e-3)


def test_denoiser_and_its_text_tower_learn_and_go_on(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained / "checkpoints/denoiser.pt"
    before = torch.load(path, weights_only=True)
    train_denoiser.run(stage("denoiser", trained, steps=before["step"] + 1))
    after = torch.load(path, weights_only=True)
    assert f"resumed at step {before['step']}" in capsys.readouterr().out
    for part in ("unet.", "text."):
        names = [k for k in after["model"] if k.startswith(part) and k.endswith("weight")]
        assert any(not torch.equal(before["model"][name], after["model"][name]) for name in names)


def test_a_stage_out_of_order_says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(common.RecipeError, match="run paint"):
        train_clip.run(stage("clip", tmp_path))


def test_the_command_line_names_a_mistake_and_writes_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, pid = tmp_path / "config.toml", tmp_path / "pid"
    config.write_text("[autoencoder]\nsteps = 1\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["autoencoder", "--config", str(config), "--work", str(tmp_path), "--pid-file", str(pid)])
    assert "run paint" in capsys.readouterr().err
    assert int(pid.read_text(encoding="utf-8")) == os.getpid()


def test_the_second_leg_sharpens_the_decoder_alone(trained: Path) -> None:
    first, second = (torch.load(trained / f"checkpoints/{x}.pt", weights_only=True) for x in ("autoencoder", "decoder"))
    changed = {name.split(".")[0] for name, w in second["model"].items() if not torch.equal(w, first["model"][name])}
    mean = dict(zip(first["model"], first["ema"]["shadow"], strict=True))
    assert "decoder" in changed
    assert torch.equal(second["model"]["encoder.conv_in.weight"], mean["encoder.conv_in.weight"])


def test_a_finished_model_can_be_taken_up_again(trained: Path, tmp_path: Path) -> None:
    bundle = export.run(stage("export", trained), target=tmp_path / "bundle")
    work = tmp_path / "work"
    options = TINY | {"begin": {"model": str(bundle)}}
    assert len(begin.run(common.open_stage("begin", options, work, "cpu"))) == 5
    assert begin.run(common.open_stage("begin", options, work, "cpu")) == []
    shutil.copytree(trained / "packages", work / "packages")
    encode.run(stage("dataset", work, pictures=0))
    starts = {"start": str(bundle / "unet"), "text_start": str(bundle / "text_encoder")}
    more = stage("denoiser", work, **starts, workers=2, meet_every=2)
    train_denoiser.run(more)
    assert torch.load(work / "checkpoints/denoiser.pt", weights_only=True)["step"] == 2
    with pytest.raises(common.RecipeError, match="has no vae"):
        begin.run(common.open_stage("begin", {"begin": {"model": str(tmp_path)}}, work, "cpu"))


def test_exported_model_draws_and_is_measured(trained: Path, tmp_path: Path) -> None:
    bundle = export.run(stage("export", trained), target=tmp_path / "bundle")
    pipeline = StableDiffusionPipeline.from_pretrained(bundle, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("an owl on a snowy hill at night", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (16, 16, 3)
    places = {"bundle": str(bundle), "sheet": str(tmp_path / "sheet.png"), "compare": str(bundle), "repeats": 1}
    report = evaluate.run(stage("evaluate", trained, **places))
    assert report["painted"]["held_out"]["attributes"]["asked"] >= 12
    assert report["made"]["variety"]["gallery"] == 10
    assert report["cost"]["ratio"] > 0
    assert list(report["guidance"]) == ["1", "3"]
    assert set(report["steps"]) == {"ddim 3", "ddim 2", "dpm 3", "dpm 2"}
    assert report["formation"]["1.00"]["of_final"] in (0.0, 1.0)
    with Image.open(tmp_path / "sheet.png") as page:
        assert page.size == (11 * 36, 48)
    prompts = (tmp_path / "sheet.txt").read_text(encoding="utf-8").splitlines()
    assert prompts[-1] == "9. a serene japanese garden with cherry blossoms"
    assert (tmp_path / "sheet_steps.png").is_file()


def test_a_config_may_stand_on_another(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text("seed = 1\n[clip]\nbatch = 4\nsteps = 2\n", encoding="utf-8")
    (tmp_path / "two.toml").write_text('base = "one.toml"\n[clip]\nbatch = 8\n[begin]\nmodel = "x"\n', encoding="utf-8")
    expected = {"seed": 1, "clip": {"batch": 8, "steps": 2}, "begin": {"model": "x"}}
    assert read_config(tmp_path / "two.toml") == expected
    shipped = read_config(Path(run.__file__).with_name("scenes_64_more.toml"))
    assert shipped["denoiser"]["start"] == "data/scenes/unet"
    assert shipped["denoiser"]["channels"] == [128, 256]
    large = read_config(Path(run.__file__).with_name("scenes_128.toml"))
    assert (large["dataset"]["size"], large["denoiser"]["dropped"], large["clip"]["start"]) == (128, 0.1, "")
