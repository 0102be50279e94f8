"""The noise floor: cells run again in ways that should not matter, and what comparisons make of it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from engine.analysis.comparison import Floor, compare
from engine.cache import lint_tables
from engine.cache.connection import reading, writing
from engine.cache.lint_tables import NoiseRow, write_noise
from engine.cli import main
from engine.environment import describe
from engine.measuring.noise_floor import measure_noise, rms
from engine.passes.noise import chosen_cells, run_noise
from engine.passes.run import run_study
from engine.results import read_results
from engine.sampling import side_by_side
from engine.study.cells import cells
from engine.study.source import find_model
from tests.engine.helpers import parsed
from tests.engine.miniatures import cells_of

REFERENCE = {"lane": "dpmpp_2m_karras:20", "check": "heun:20", "tolerance": 1.0}


def few(model, lanes=("ddim:3", "euler_a:3")):
    return cells_of(model.source.name, list(lanes), prompts=["a", "b"], seeds=[0])


def test_every_variation_is_measured_against_the_cell_alone(sd_model):
    mine = few(sd_model)
    found = {row.variation: row for row in measure_noise(sd_model, mine, (2, 100), compiled=False)}
    assert list(found) == ["again", "batch 2", "batch 4", "float16", "bfloat16"]
    for name in ("again", "batch 2", "batch 4", "bfloat16"):
        assert set(found[name].latents) == set(found[name].pictures) == {cell.trajectory_id for cell in mine}, name
    assert max(found["again"].latents.values()) == 0
    assert 0 <= max(found["batch 4"].latents.values()) < 1e-4
    assert min(found["bfloat16"].latents.values()) > 1e-3, "eight bits of mantissa show"
    assert "float16 is for GPUs" in found["float16"].reason


def test_forwards_of_a_part_of_the_cells_each_are_no_lack_of_memory(sd_model, monkeypatch):
    monkeypatch.setattr(side_by_side, "LEAST_PARAMETERS", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = {row.variation: row for row in measure_noise(sd_model, few(sd_model), (2, 4), compiled=False)}
    finally:
        torch.set_num_threads(threads)
    assert [found[name].reason for name in ("batch 2", "batch 4")] == ["", ""]
    assert len(found["batch 4"].latents) == 4


def test_a_compiled_denoiser_is_compared_or_the_reason_told_and_the_model_is_left_as_it_was(sd_model, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(type(sd_model.denoiser), "compile", refuse)
    last = list(measure_noise(sd_model, few(sd_model)[:1], ()))[-1]
    assert (last.variation, last.latents) == ("compiled", {})
    assert "no compiler here" in last.reason
    assert sd_model.denoiser._compiled_call_impl is None


def test_compiling_is_really_tried(sd_model, monkeypatch):
    def pretend(self, *args, **kwargs):
        # What a compiler may do: the same function, with other rounding.
        self._compiled_call_impl = lambda *a, **k: tuple(x * (1 + 1e-3) for x in self._call_impl(*a, **k))

    monkeypatch.setattr(type(sd_model.denoiser), "compile", pretend)
    last = list(measure_noise(sd_model, few(sd_model)[:1], ()))[-1]
    assert last.variation == "compiled"
    assert next(iter(last.latents.values())) > 0
    assert sd_model.denoiser._compiled_call_impl is None


def test_root_mean_square_of_pictures():
    black, grey = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 100, np.uint8)
    assert rms(black, grey) == 100
    assert rms(grey, grey) == 0


def test_the_baseline_is_always_among_the_lanes_measured():
    study = parsed(lanes=["ddim:4", "euler:3", "heun:3"], baseline="heun:3", seeds=[0, 1, 2])
    mine = chosen_cells(study, cells(study, find_model("gaussian"), "cpu"), lanes=2, each=2)
    assert [(cell.lane.key, cell.seed) for cell in mine] == [
        ("heun:3", 0),
        ("heun:3", 1),
        ("ddim:4", 0),
        ("ddim:4", 1),
    ]


def test_the_floor_of_a_study_is_kept_and_found_again(tmp_path):
    cache = tmp_path / "c.duckdb"
    study = parsed(reference=REFERENCE)
    rows = run_noise(study, cache, device="cpu", lanes=2, each=1, compiled=False, say=lambda _: None)
    run_study(study, cache, device="cpu")
    with reading(cache) as db:
        kept = lint_tables.noise(db, "small")
    assert len(kept) == len(rows) == 2 * 2 * 4
    assert set(kept["variation"]) == {"again", "batch 2", "float16", "bfloat16"}
    missing = kept[kept["variation"] == "float16"]
    assert (missing["n"] == 0).all()
    assert missing["median"].isna().all()
    assert missing["reason"].str.contains("for GPUs").all()
    run_noise(study, cache, device="cpu", lanes=2, each=1, compiled=False, say=lambda _: None)
    with reading(cache) as db:
        assert len(lint_tables.noise(db, "small")) == len(rows), "measured again, not twice"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    made = tmp_path_factory.mktemp("noise") / "c.duckdb"
    run_study(parsed(reference=REFERENCE), made, device="cpu")
    return made


def floor_row(study, **changes) -> NoiseRow:
    cell = cells(study, find_model("gaussian"), "cpu")[0]
    row = NoiseRow(
        describe("cpu").environment_id,
        find_model("gaussian").model_id,
        cell.config_id,
        cell.lane.key,
        cell.dtype,
        cell.guidance_scale,
        cell.width,
        cell.height,
        "batch 8",
        "latent_error",
        4,
        0.5,
        0.6,
    )
    return replace(row, **changes)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"variation": "float32"}, True),
        ({"variation": "bfloat16"}, False),
        ({"variation": "compiled"}, False),
        ({"metric": "picture_rms"}, False),
        ({"environment_id": "elsewhere"}, False),
        ({"model_id": "another"}, False),
        ({"guidance_scale": 7.0}, False),
        ({"median": None, "largest": None, "n": 0, "reason": "why"}, False),
    ],
)
def test_only_noise_of_the_studys_own_kind_of_run_is_its_floor(cache, changes, counts):
    study = parsed(reference=REFERENCE)
    with writing(cache) as db:
        db.execute("DELETE FROM noise_floors")
    with reading(cache) as db:
        before = read_results(db, "small", None).floors["latent_error"]
    assert before.source == "distance of the reference to its check"
    write_noise(cache, [floor_row(study, **changes)])
    with reading(cache) as db:
        floor = read_results(db, "small", None).floors["latent_error"]
    assert (floor == 0.5) == counts
    assert ("noise of the arithmetic" in floor.source) == counts
    assert ("n = 4" in floor.source) == counts


def test_differences_below_the_floor_are_not_ranked_and_the_comparison_says_why():
    prompts = [f"p{i}" for i in range(12)]
    rows = [
        (lane, prompt, seed, 0.2 + (0.01 + 1e-4 * (i % 3)) * (lane == "b:1") + 1e-4 * seed + 1e-5 * i)
        for lane in ("a:1", "b:1")
        for i, prompt in enumerate(prompts)
        for seed in (0, 1)
    ]
    quality = pd.DataFrame(rows, columns=["lane", "prompt", "seed", "value"]).assign(metric="latent_error")
    metrics = pd.DataFrame(
        [
            {
                "metric": "latent_error",
                "label": "Error",
                "unit": "",
                "direction": "lower",
                "smallest_n": 10,
                "span": np.nan,
                "margin": np.nan,
            }
        ]
    )
    [plain] = compare(quality, metrics, "a:1")
    assert plain.verdict == "worse"
    [floored] = compare(quality, metrics, "a:1", {"latent_error": Floor(0.02, "noise of the arithmetic (batch 8)")})
    assert floored.verdict == "equivalent"
    assert floored.margin_from == "noise of the arithmetic (batch 8)"
    quality["value"] += np.where((quality["lane"] == "b:1") & (quality["prompt"] == "p0"), 0.08, 0)
    [wide] = compare(quality, metrics, "a:1", {"latent_error": Floor(0.0178, "noise")})
    assert wide.difference.low > 0
    assert wide.verdict == "undecided"


def test_the_command_prints_n_median_and_largest(tmp_path, capsys):
    file = tmp_path / "small.toml"
    file.write_text('name = "small"\nmodel = "gaussian"\nprompts = ["disc", "ring"]\nlanes = ["ddim:3"]\n')
    assert main(["noise", str(file), "--cache", str(tmp_path / "c.duckdb"), "--no-compile", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    for word in ("again", "batch 2", "bfloat16", "latent_error", "picture_rms", "median", "largest"):
        assert word in shown
