"""The recipe runs from raw pictures to a loadable pipeline, at tiny sizes and without a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image, ImageDraw

from data.bundled.recipe import (
    build_dataset,
    common,
    evaluate,
    export,
    train_autoencoder,
    train_clip,
    train_denoiser,
)
from data.bundled.recipe.dataset import autoencoder_pictures, load_dataset, load_tokenizer, tokenize
from data.bundled.recipe.judge import Judge

COLOURS = {"red circle": "red", "green circle": "green", "blue circle": "blue", "black circle": "black"}
OTHERS = {"pink circle": "pink", "grey circle": "grey", "tan circle": "tan", "gold clock": "gold"}  # of group 1
TINY: dict[str, Any] = {
    "seed": 0,
    "dataset": {
        "size": 16,
        "labels": "labels@1",
        "vocabulary_size": 560,
        "caption_tokens": 8,
        "concepts": ["red circle", "green circle", "blue circle", "black circle"],
        "rename": {"black circle": "hole"},
        "autoencoder_groups": [0, 1],
        "leave_out": ["clock"],
        "held_out_per_group": 1,
        "source": [{"package": "pictures@1", "folder": "png", "suffix": ".png", "style": "flat"}],
    },
    "autoencoder": {
        "steps": 3,
        "batch": 2,
        "learning_rate": 1e-3,
        "channels": [8, 16],
        "layers": 1,
        "latent_channels": 4,
        "kl_weight": 1e-4,
        "decoder": {"steps": 2},
    },
    "clip": {
        "steps": 3,
        "batch": 4,
        "learning_rate": 1e-3,
        "projection": 16,
        "text": {"width": 32, "layers": 1, "heads": 2},
        "image": {"width": 32, "layers": 1, "heads": 2, "patch": 8},
        "captions": {"label": 0.6, "label_and_tag": 0.3, "tags": 0.1, "style": 0.2},
        "judge": {"steps": 2},
    },
    "denoiser": {
        "steps": 3,
        "batch": 4,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "channels": [32, 64],
        "attention": [False, True],
        "layers": 1,
        "head_width": 16,
        "captions": {"label": 0.6, "label_and_tag": 0.2, "tags": 0.1},
    },
    "export": {"shard_size": "1MB", "largest_file_mb": 3, "largest_folder_mb": 8},
}


def make_packages(work: Path) -> None:
    """Write a label package and a picture package as `npm pack` would leave them."""
    labels, pictures = work / "packages/labels@1/en", work / "packages/pictures@1/png"
    labels.mkdir(parents=True)
    pictures.mkdir(parents=True)
    rows = []
    for number, (label, colour) in enumerate((COLOURS | OTHERS).items()):
        group = int(label in OTHERS)
        rows.append({"label": label, "hexcode": f"1F53{number}", "tags": [colour, "Round"], "group": group})
        image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
        ImageDraw.Draw(image).ellipse((4, 4, 27, 27), fill=colour)
        image.save(pictures / f"1f53{number}{'-fe0f' if number == 1 else ''}.png")
    (labels / "data.json").write_text(json.dumps(rows), encoding="utf-8")


def stage(name: str, work: Path, **changes: Any) -> common.Stage:
    return common.open_stage(name, TINY | {name: TINY[name] | changes}, work, "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after a few steps of every stage."""
    work = tmp_path_factory.mktemp("work")
    make_packages(work)
    build_dataset.run(stage("dataset", work))
    train_autoencoder.run(stage("autoencoder", work))
    train_clip.run(stage("clip", work))
    train_denoiser.run(stage("denoiser", work))
    return work


def test_dataset_has_every_picture_on_white_with_renamed_labels(trained: Path) -> None:
    dataset = load_dataset(stage("dataset", trained))
    assert dataset.labels == ["red circle", "green circle", "blue circle", "hole"]
    assert dataset.pictures.shape == (4, 3, 16, 16)
    assert dataset.pictures[:, :, 0, 0].min() == 255  # the corner is background
    assert dataset.pictures[0, :, 8, 8].tolist() == [255, 0, 0]
    assert dataset.concepts[3].tags == ("black circle", "black", "round")


def test_an_unknown_concept_is_named(tmp_path: Path) -> None:
    make_packages(tmp_path)
    with pytest.raises(common.RecipeError, match="puce circle"):
        build_dataset.run(stage("dataset", tmp_path, concepts=["puce circle"]))


def test_some_other_concepts_are_learnt_and_some_held_out(trained: Path, tmp_path: Path) -> None:
    def labels(work: Path, name: str) -> list[str]:
        rows = json.loads((work / f"dataset/{name}.json").read_text(encoding="utf-8"))
        return [row["label"] for row in rows]

    assert labels(trained, "held_out") == ["pink circle"]
    assert labels(trained, "more") == ["grey circle", "tan circle"]  # the clock is left out
    assert len(autoencoder_pictures(stage("dataset", trained))) == 6
    make_packages(tmp_path)
    (tmp_path / "seen.txt").write_text("pink circle\ntan circle\n", encoding="utf-8")
    build_dataset.run(stage("dataset", tmp_path, seen=str(tmp_path / "seen.txt"), held_out_per_group=9))
    assert labels(tmp_path, "held_out") == ["grey circle"]


def test_a_grown_autoencoder_keeps_its_latents_and_decodes_as_before(trained: Path) -> None:
    source = AutoencoderKL.from_pretrained(trained / "autoencoder").eval()
    larger = train_autoencoder.build_autoencoder(stage("autoencoder", trained, latent_channels=6), 16).eval()
    train_autoencoder.grow(larger, source)
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        old, new = source.encode(pictures).latent_dist, larger.encode(pictures).latent_dist
        assert torch.allclose(new.mean[:, :4], old.mean, atol=1e-5)
        assert torch.allclose(new.logvar[:, :4], old.logvar, atol=1e-5)
        padded = torch.cat([old.mean, torch.zeros(2, 2, *old.mean.shape[2:])], dim=1)
        assert torch.allclose(larger.decode(padded).sample, source.decode(old.mean).sample, atol=1e-4)


def test_two_workers_end_with_the_same_weights(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "dataset", tmp_path / "dataset")
    train_autoencoder.run(stage("autoencoder", tmp_path, workers=2, meet_every=2, steps=4, anchor=0.1))
    state = torch.load(tmp_path / "checkpoints/autoencoder.pt", weights_only=True)
    assert state["step"] == 4
    assert (tmp_path / "autoencoder/config.json").is_file()


def test_a_stage_out_of_order_says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(common.RecipeError, match=r"recipe\.build_dataset"):
        train_clip.run(stage("clip", tmp_path))


def test_tokenizer_gives_distinct_padded_ids_for_any_text(trained: Path) -> None:
    tokenizer = load_tokenizer(stage("dataset", trained))
    ids = tokenize(tokenizer, ["red circle", "blue circle", "Ünknown ☃ words", ""])
    assert ids.shape == (4, 8)
    assert len({tuple(row) for row in ids.tolist()}) == 4
    assert ids.max() < len(tokenizer)
    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    assert (ids[:, -1] == tokenizer.eos_token_id).all()


def test_second_legs_leave_encoder_and_text_tower_alone(trained: Path) -> None:
    for first, second, frozen in (
        ("autoencoder", "decoder", "encoder."),
        ("clip", "clip_judge", "text_"),
    ):
        before = torch.load(trained / f"checkpoints/{first}.pt", weights_only=True)
        after = torch.load(trained / f"checkpoints/{second}.pt", weights_only=True)["model"]
        names = list(before["model"])
        learnt = [k for k in names if not k.startswith((frozen, "quant_conv")) and "position_ids" not in k]
        assert any(not torch.equal(before["model"][k], after[k]) for k in learnt)
    kept = train_denoiser.load_text_tower(stage("clip", trained)).state_dict()
    judge = torch.load(trained / "checkpoints/clip_judge.pt", weights_only=True)["model"]
    assert all(torch.equal(v, judge[k if k in judge else f"text_model.{k}"]) for k, v in kept.items())


def test_denoiser_goes_on_from_its_checkpoint(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained / "checkpoints/denoiser.pt"
    before = torch.load(path, weights_only=True)
    train_denoiser.run(stage("denoiser", trained, steps=before["step"] + 2))
    after = torch.load(path, weights_only=True)
    assert f"resumed at step {before['step']}" in capsys.readouterr().out
    assert after["step"] == before["step"] + 2
    assert not torch.equal(before["model"]["conv_in.weight"], after["model"]["conv_in.weight"])


def test_export_loads_with_plain_diffusers_and_draws(trained: Path, tmp_path: Path) -> None:
    target = export.run(stage("export", trained), tmp_path / "bundle")
    pipeline = StableDiffusionPipeline.from_pretrained(target, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    assert not [p for p in target.rglob("*.json") if str(trained) in p.read_text(encoding="utf-8")]
    picture = pipeline("red circle", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (16, 16, 3)
    judge = Judge(target / "clip", evaluate.read_prompts(target / "vocabulary.txt"))
    result = judge.recognise(load_dataset(stage("dataset", trained)).pictures / 127.5 - 1, judge.labels)
    assert result.n == 4
    assert result.top5 == 1.0
    assert evaluate.contact_sheet(torch.zeros(5, 3, 16, 16), ["x"] * 5, columns=3).size[0] == 3 * 22


def test_export_drops_old_shards_and_refuses_what_is_too_large(trained: Path, tmp_path: Path) -> None:
    target = export.run(stage("export", trained), tmp_path / "bundle")
    old = target / "unet/diffusion_pytorch_model-00009-of-00009.safetensors"
    old.write_bytes(b"x")
    export.run(stage("export", trained), target)
    assert not old.exists()
    assert not list(target.glob(".export-*"))
    with pytest.raises(common.RecipeError, match="shard_size"):
        export.run(stage("export", trained, largest_file_mb=0.01), tmp_path / "other")


def test_warm_start_from_a_deeper_unet_copies_every_weight(trained: Path, tmp_path: Path) -> None:
    deep = train_denoiser.build_unet(stage("denoiser", trained, layers=2), 4, 8, 32)
    deep.save_pretrained(tmp_path)
    shallow = train_denoiser.build_unet(stage("denoiser", trained), 4, 8, 32)
    copied = train_denoiser.warm_start(shallow, tmp_path)
    assert copied == sum(p.numel() for p in shallow.parameters())
    own, given = shallow.up_blocks[0].resnets[1], deep.up_blocks[0].resnets[2]
    assert torch.equal(own.conv1.weight, given.conv1.weight)


def test_warm_start_from_fewer_latent_channels_begins_blind_to_the_new_ones(trained: Path, tmp_path: Path) -> None:
    small = train_denoiser.build_unet(stage("denoiser", trained), 4, 8, 32).eval()
    small.save_pretrained(tmp_path)
    large = train_denoiser.build_unet(stage("denoiser", trained), 6, 8, 32).eval()
    train_denoiser.warm_start(large, tmp_path)
    latents, time, text = torch.randn(2, 6, 8, 8), torch.tensor(500), torch.randn(2, 8, 32)
    with torch.no_grad():
        before, after = small(latents[:, :4], time, text).sample, large(latents, time, text).sample
    assert torch.allclose(after[:, :4], before, atol=1e-5)
