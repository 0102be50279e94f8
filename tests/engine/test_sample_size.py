"""A plan says beforehand what will get no verdict, and what its seconds do not count."""

import pytest

from engine.cli import main
from engine.passes.sample_size import metrics_without_verdict
from engine.study.source import find_model
from tests.engine.helpers import parsed, write_study

BUNDLED = ["owl", "rocket", "red apple", "bicycle", "cactus"]


def lines_of(prompts, seeds, model="bundled", **changes):
    return metrics_without_verdict(parsed(model=model, prompts=prompts, seeds=seeds, **changes), find_model(model))


def test_one_seed_leaves_metrics_without_a_margin_of_their_own_without_verdict():
    [line] = [line for line in lines_of(BUNDLED, [0]) if "seed-to-seed" in line]
    keys = line.partition(":")[0].split(", ")
    assert {"sharpness", "spectral_slope", "clip_score"} <= set(keys)
    assert not {"recognised", "psnr", "latent_error"} & set(keys), "own margin, or no reference to compare with"
    assert "give two seeds or more" in line
    assert not [line for line in lines_of(BUNDLED, [0, 1]) if "seed-to-seed" in line]


def test_a_reference_brings_its_metrics_in():
    reference = {"enabled": True}
    lines = lines_of(BUNDLED, [0], reference=reference)
    assert "psnr" in next(line for line in lines if "seed-to-seed" in line)


@pytest.mark.parametrize(("seeds", "needed"), [([0], [10, 30]), ([0, 1], [30]), (list(range(6)), [])])
def test_metrics_that_need_more_pairs_are_named_with_how_many_they_need(seeds, needed):
    lines = [line for line in lines_of(BUNDLED, seeds) if "pairs of pictures" in line]
    assert len(lines) == len(needed)
    for line, number in zip(lines, needed, strict=True):
        assert f"{len(seeds) * 5} of the {number} pairs" in line
    assert all("clip_score, recognised" in line for line in lines[-1:])


def test_metrics_that_cannot_be_measured_at_all_are_not_listed():
    assert "clip" not in " ".join(lines_of(["disc"], [0], "gaussian"))


def test_plan_prints_it_and_says_what_its_seconds_count(tmp_path, capsys):
    study, cache = str(write_study(tmp_path / "s.toml", timing={"repeats": 1, "warmup": 0})), str(tmp_path / "c.duckdb")
    assert main(["run", study, "--cache", cache, "--device", "cpu", "--progress", "none"]) == 0
    capsys.readouterr()
    assert main(["plan", study, "--cache", cache, "--device", "cpu", "--set", "seeds=[1]"]) == 0
    told = capsys.readouterr().out
    assert "No verdict   sharpness, spectral_slope: their margin is a part of the baseline's seed-to-seed noise" in told
    assert "for the denoiser calls alone" in told
    assert "plus loading, decoding and scoring" in told
    assert "at most" not in told
