"""Step frames decoded by a small autoencoder: what they look like, what is not measured on them, and who may use it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from engine.cache.connection import reading
from engine.cli import main
from engine.passes.run import run_study
from engine.results import read_results
from engine.study.frame_settings import FrameSettings
from engine.study.study import Study
from tests.engine.helpers import ask, parsed, write_study


def write_tiny(folder: Path, channels: int = 4) -> Path:
    torch.manual_seed(3)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
        latent_channels=channels,
    )
    with torch.no_grad():
        tiny.decoder.layers[-1].weight *= 10  # else all pictures would be grey
    tiny.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def study_of(model: Path, tiny: Path | None) -> Study:
    frames = {"count": 2, "kinds": ["x0"]} | ({"decoder": "tiny", "tiny": str(tiny)} if tiny else {})
    return parsed(model=str(model), prompts=["red apple"], lanes=["euler:3"], frames=frames)


def pictures(cache: Path, kind: str) -> list[np.ndarray]:
    rows = ask(cache, "SELECT image FROM frames WHERE kind = ? ORDER BY step_index", kind)
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for (data,) in rows]


def test_steps_are_drawn_by_the_small_decoder_and_the_final_picture_by_the_models_own(
    sd_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    quick, full = tmp_path / "quick.duckdb", tmp_path / "full.duckdb"
    assert run_study(study_of(sd_folder, tiny_folder), quick, device="cpu").done == 1
    assert run_study(study_of(sd_folder, None), full, device="cpu").done == 1
    [final], [own] = pictures(quick, "final"), pictures(full, "final")
    assert np.abs(final - own).max() <= 1, "decoded alone and beside step frames, which may round differently"

    [[data]] = ask(quick, "SELECT data FROM latents")
    assert ask(full, "SELECT data FROM latents") == [(data,)]
    latents = torch.from_numpy(np.frombuffer(data, "<f4").reshape(1, 4, 8, 8).copy())
    with torch.no_grad():  # the last estimate of Euler is what it ends at, and such a decoder takes latents as they are
        drawn = AutoencoderTiny.from_pretrained(tiny_folder).decode(latents).sample[0]
    expected = (drawn / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy() * 255
    assert np.ptp(expected) > 50
    assert np.abs(pictures(quick, "x0")[-1] - expected).mean() < 8, "up to WebP"
    assert np.abs(pictures(full, "x0")[-1] - expected).mean() > 20

    [[decoder]] = ask(quick, "SELECT frame_decoder FROM trajectories")
    assert decoder.startswith("tiny ")
    assert ask(full, "SELECT frame_decoder FROM trajectories") == [("full",)]
    measured = "SELECT count(value) > 0, count(reason) > 0 FROM scores WHERE scope = 'frame'"
    assert ask(full, measured)[0][0]
    assert not ask(quick, measured)[0][0], "nothing is measured on pictures that only look alike"
    for cache, told in ((quick, True), (full, False)):
        with reading(cache) as db:
            assert ("step frames by a small decoder" in read_results(db, "small").facts) is told


def test_exact_frames_serve_both_and_quick_ones_are_made_again_where_exact_ones_are_asked_for(
    sd_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    cache, quick = tmp_path / "c.duckdb", study_of(sd_folder, tiny_folder)
    full = study_of(sd_folder, None)
    assert [run_study(study, cache, device="cpu").done for study in (quick, quick, full, quick)] == [1, 0, 1, 0]
    assert run_study(replace(full, frames=FrameSettings(count=0)), cache, device="cpu").done == 0


def test_a_cache_takes_exact_frames_for_quick_ones_and_never_the_other_way_round(
    sd_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    quick, full = tmp_path / "quick.duckdb", tmp_path / "full.duckdb"
    run_study(study_of(sd_folder, tiny_folder), quick, device="cpu")
    run_study(study_of(sd_folder, None), full, device="cpu")
    assert main(["import", str(quick), "--cache", str(full)]) == 0
    assert ask(full, "SELECT frame_decoder FROM trajectories") == [("full",)]
    assert main(["import", str(full), "--cache", str(quick)]) == 0
    assert ask(quick, "SELECT frame_decoder FROM trajectories") == [("full",)]
    assert ask(quick, "SELECT count(value) > 0 FROM scores WHERE scope = 'frame'") == [(True,)]


@pytest.mark.parametrize(
    ("model", "frames", "told"),
    [
        ("bundled", {"decoder": "tiny"}, 'none is known for bundled; add tiny = "folder or hub id"'),
        ("sd", {"decoder": "tiny"}, "'madebyollin/taesd' is neither a folder nor a hub model on this machine"),
        ("sd", {"decoder": "tiny", "tiny": "sd/vae"}, "is no AutoencoderTiny: its config.json names 'AutoencoderKL'"),
        ("sd", {"decoder": "tiny", "tiny": "wide"}, "decodes latents of 16 channels"),
        ("sd", {"tiny": "wide"}, 'names a decoder that is not used; add decoder = "tiny"'),
        ("sd", {"decoder": "small"}, "must be one of full, tiny"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_decoder_that_is_not_there_or_does_not_fit_is_refused_before_work(
    model: str, frames: dict[str, str], told: str, sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sd").symlink_to(sd_folder)
    write_tiny(tmp_path / "wide", 16)
    named = str(sd_folder) if model == "sd" else model
    study, cache = write_study(tmp_path / "a.toml", model=named, prompts=["red apple"], frames=frames), tmp_path / "c"
    assert main(["run", str(study), "--cache", str(cache), "--device", "cpu"]) == 2
    assert told in capsys.readouterr().err
    assert not cache.exists()
