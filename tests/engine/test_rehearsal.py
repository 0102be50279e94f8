"""Rehearsals: sizes and operations of well-known models as published, trials on a small one, and no cache needed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.cli import main
from engine.rehearsal import trial
from engine.rehearsal.configurations import REHEARSED, Part
from engine.rehearsal.known_work import known_work
from engine.rehearsal.on_paper import counted, rehearse_on_paper
from tests.engine import real_size
from tests.engine.helpers import start, write_study

# Parameters of the published denoisers.
PUBLISHED = {
    "sd15": 859_520_964,
    "sdxl": 2_567_463_684,
    "sd3.5-medium": 2_243_171_520,
    "flux": 11_901_408_320,
    "wan-1.3b": 1_418_996_800,
}


@pytest.mark.parametrize("name", ["sd15", *(pytest.param(n, marks=pytest.mark.long) for n in PUBLISHED if n != "sd15")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_rehearsed_model_has_the_size_of_the_published_one_and_its_figures_are_those_counted(name, dtype) -> None:
    paper = rehearse_on_paper(REHEARSED[name], dtype)
    assert paper == known_work(name, dtype.itemsize)
    assert paper.denoiser_parameters == pytest.approx(PUBLISHED[name], rel=1e-4)
    if name == "sd15":
        assert paper.autoencoder_parameters == 83_653_863
        assert paper.encoder_parameters == 123_060_480, "CLIP ViT-L/14, the text side"
        assert paper.call.flops == pytest.approx(2 * 0.803e12, rel=0.01)
        assert paper.decode.flops == pytest.approx(2.515e12, rel=0.01)


def test_operations_and_memory_of_a_call_are_those_one_counts_by_hand() -> None:
    layer = torch.nn.Linear(64, 32, bias=False, device="meta")
    rows = torch.empty(10, 64, device="meta")
    work = counted(layer, lambda: layer(rows))
    assert work.flops == 2 * 10 * 64 * 32
    assert work.peak_bytes == 10 * 32 * 4, "the answer; weights are counted apart, and the input was there before"
    attend = torch.nn.functional.scaled_dot_product_attention
    query = torch.empty(2, 4, 16, 8, device="meta")
    again = counted(torch.nn.Identity(), lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query))
    assert again.flops == 2 * (2 * 4 * 16 * 16 * 8) * 2
    assert again.peak_bytes == query.numel() * 4, "as fused attention: no matrix of all pairs"
    assert torch.nn.functional.scaled_dot_product_attention is attend


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of the form of SD 1.5 that is tried in a moment."""
    small = {"block_out_channels": (32, 64), "norm_num_groups": 8, "layers_per_block": 1}
    unet = {
        "sample_size": 8,
        "cross_attention_dim": 768,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    vae = {"block_out_channels": (8,), "norm_num_groups": 4}
    whole = REHEARSED["sd15"]

    def inputs(rows, like):
        return {"sample": like(rows, 4, 8, 8), **{k: v for k, v in whole.inputs(rows, like).items() if k != "sample"}}

    model = replace(
        whole,
        denoiser=Part(whole.denoiser.target, small | unet),
        autoencoder=Part(whole.autoencoder.target, vae),
        encoders=(),
        inputs=inputs,
        latents=(4, 8, 8),
        pixels=(8, 8, 1),
    )
    monkeypatch.setitem(REHEARSED, "sd15", model)
    monkeypatch.setattr(trial, "PEAK_SIDES", {"cpu": 64})


def test_a_rehearsal_tries_each_batch_size_and_writes_what_it_tells(tiny: None, tmp_path: Path, capsys) -> None:
    file = tmp_path / "r.json"
    command = ["rehearse", "sd15", "--steps", "3", "--device", "cpu", "--batches", "1,2", "--json", str(file)]
    assert main(command) == 0
    found = json.loads(file.read_text())
    assert [each["batch"] for each in found["trials"]] == [1, 2]
    for each in found["trials"]:
        assert 0 < each["denoiser_seconds"] < each["seconds"]
        assert each["denoiser_seconds"] + each["decode_seconds"] <= each["seconds"]
    assert found["peak_flops"] > 0
    assert found["environment"]["device"] == "cpu"
    said = capsys.readouterr().out
    assert "images/s" in said
    assert "Roof" in said


def test_a_machine_too_small_is_told_by_calculation_alone(tiny: None, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(trial, "free_bytes", lambda device: 1)
    assert main(["rehearse", "sd15", "--device", "cpu"]) == 0
    assert "Not tried here: it takes" in capsys.readouterr().out


def test_a_trial_that_does_not_fit_is_told_and_larger_ones_are_left_out(
    tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = trial.Loop.__call__

    def full(self: trial.Loop, batch: int, steps: int) -> trial.Trial:
        if batch > 1:
            raise torch.OutOfMemoryError("out of memory")
        return called(self, batch, steps)

    monkeypatch.setattr(trial.Loop, "__call__", full)
    found = trial.rehearse("sd15", 2, "cpu", "float32", (1, 2, 4))
    assert [(each.batch, each.error) for each in found.trials] == [(1, ""), (2, "it does not fit")]


def test_a_bare_machine_without_duckdb_and_streamlit_can_rehearse() -> None:
    program = (
        "import sys\n"
        "for name in ('duckdb', 'streamlit', 'altair', 'pyarrow'): sys.modules[name] = None\n"
        "from engine.cli import main\n"
        "sys.exit(main(['rehearse', 'nosuch']))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "one of sd15, sdxl" in done.stderr


def test_a_plan_tells_what_a_well_known_model_takes_before_it_is_fetched(tmp_path: Path, capsys) -> None:
    [hub, *_] = REHEARSED["sd15"].hub
    changes = {"model": hub, "lanes": ["ddim:4", "heun:2"], "seeds": [0, 1], "width": 256, "height": 256}
    study = write_study(tmp_path / "a.toml", **changes)
    assert main(["plan", str(study), "--cache", str(tmp_path / "c.duckdb"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    paper = known_work("sd15", torch.float32.itemsize)
    calls, decodes = 2 * (4 + 3), 2 * (1 + 2 * 2) * 2
    tera = (calls * paper.call.flops + decodes * paper.decode.flops) / 1e12
    assert f"{calls} calls of {paper.call.flops / 1e12:.2f} TFLOP and {decodes} decodings" in said
    assert f": {tera:,.0f} TFLOP" in said
    assert "at 512 x 512 (the study asks for 256 x 256)" in said
    assert "rehearse sd15" in said


@pytest.mark.long
def test_a_model_of_real_size_gives_the_bits_of_plain_diffusers_in_less_than_8_gb(tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    process = start(real_size.compare, tmp_path, answer)
    process.join(1200)
    assert process.exitcode == 0
    found = json.loads(answer.read_text())
    assert found["peak_bytes"] < 8e9
    floor = max(lane["merged_in_diffusers"] for lane in found["lanes"].values())
    for lane in found["lanes"].values():
        assert lane["contrast"] > 20, "a grey picture would be equal to any other"
        assert lane["equal_latents"]
        assert lane["equal_picture"]
        assert lane["merged_in_engine"] <= floor
    assert found["between"] > 10 * floor
