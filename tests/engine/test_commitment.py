"""Runs whose prompt changes on the way: against plain diffusers, through the command line, and what they say."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from engine.analysis.commitment import commitment, point_rows
from engine.cache import swap_tables
from engine.cache.connection import reading
from engine.cli import main
from engine.errors import StudyError
from engine.measuring import clip
from engine.passes.run import run_study
from engine.sampling.models import Model
from engine.sampling.swapped_cells import SwapSample, run_swaps
from engine.study.cells import cells
from engine.study.prompt_swaps import Swap, swaps
from engine.study.source import find_model
from engine.study.study import load_study, parse_study
from tests.engine.helpers import ask, parsed, small_study, write_study

PAIR = {"prompts": [["red apple", "owl"]], "at": [0.25, 0.5, 0.75]}


def swaps_of(folder: object, lanes: list[str], **settings: Any) -> list[Swap]:
    study = parse_study(
        {
            "name": "swaps",
            "model": str(folder),
            "prompts": ["owl"],
            "dtype": "float32",
            "lanes": lanes,
            "commitment": PAIR,
            **settings,
        }
    )
    return swaps(study, find_model(str(folder)), "cpu")


def samples_of(model: Model, asked: list[Swap]) -> list[SwapSample]:
    found = [sample for group in run_swaps(model, asked, 8) for sample in group]
    assert [sample.error for sample in found] == [None] * len(asked)
    return found


def plain_swapped(folder: Path, swap: Swap, at: int) -> torch.Tensor:
    """Plain diffusers with the second prompt's embeddings, as its own text encoder gives them, from a call on."""
    from tests.engine.test_parity import _plain_config, _plain_pipeline, _plain_scheduler

    pipe, cell = _plain_pipeline(folder), swap.first
    pipe.scheduler = _plain_scheduler(cell, _plain_config(folder))
    with torch.no_grad():
        given, without = pipe.encode_prompt(swap.second.prompt, "cpu", 1, True, cell.negative_prompt or None)

    def change(pipe: Any, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"prompt_embeds": torch.cat([without, given])} if index + 1 >= at else {}

    prompt = swap.second.prompt if at == 0 else cell.prompt
    output = pipe(
        prompt,
        negative_prompt=cell.negative_prompt or None,
        num_inference_steps=cell.lane.steps,
        guidance_scale=cell.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(cell.seed),
        output_type="latent",
        callback_on_step_end=change,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    return torch.as_tensor(output.images)


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_a_changed_run_is_that_of_plain_diffusers_with_the_second_prompts_embeddings(
    negative: str, sd_model: Model, sd_folder: Path
) -> None:
    asked = swaps_of(
        sd_folder, ["ddim:8", "heun:4", "euler_a:6"], guidance_scale=5.0, seeds=[2], negative_prompt=negative
    )
    for sample in samples_of(sd_model, asked):
        swap = sample.swap
        found = plain_swapped(sd_folder, swap, sample.swap_call)
        ends = [plain_swapped(sd_folder, swap, at) for at in (10_000, 0)]
        expected = [float((found - end).norm() / end.norm()) for end in ends]
        assert [sample.first_distance, sample.second_distance] == pytest.approx(expected, abs=1e-3)


def test_a_run_with_one_prompt_alone_is_the_cell_itself_and_the_ends_are_apart(
    sd_model: Model, sd_folder: Path
) -> None:
    by_share = {s.swap.share: s for s in samples_of(sd_model, swaps_of(sd_folder, ["dpmpp_2m:8"], guidance_scale=5.0))}
    assert sorted(by_share) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert (by_share[0.0].second_distance, by_share[1.0].first_distance) == (0.0, 0.0)
    assert by_share[0.0].first_distance > 0.05 < by_share[1.0].second_distance
    assert [by_share[share].swap_call for share in sorted(by_share)] == [0, 2, 4, 6, 8]
    assert by_share[0.75].first_distance < by_share[0.25].first_distance, "later changes change less"
    levels = [by_share[share].log_snr for share in (0.0, 0.25, 0.5, 0.75)]
    assert all(level is not None for level in levels)
    assert levels == sorted(levels)  # type: ignore[type-var]
    assert by_share[1.0].log_snr is None


def test_sdxl_changes_the_pooled_text_as_well(sdxl_model: Model, sdxl_folder: Path) -> None:
    """A change before the first call but one leaves a single call to the first prompt: all but the second's picture."""
    asked = swaps_of(sdxl_folder, ["euler:8"], guidance_scale=5.0, commitment={**PAIR, "at": [0.01, 0.99]})
    early, late = (s for s in samples_of(sdxl_model, asked) if 0 < s.swap.share < 1)
    assert (early.swap_call, late.swap_call) == (1, 7)
    assert early.second_distance < early.first_distance
    assert late.first_distance < late.second_distance


def test_a_pipeline_that_lets_no_prompt_be_changed_gives_a_row_with_the_reason(
    sd_model: Model, sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sd_model.pipe), "_callback_tensor_inputs", ["latents"])
    [group] = run_swaps(sd_model, swaps_of(sd_folder, ["ddim:4"]), 4)
    assert all("does not allow changing the prompt" in (sample.error or "") for sample in group)


def test_clip_judges_on_the_device_of_the_run_and_what_it_fails_on_is_a_row_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preference, failures = clip.preference, iter([RuntimeError("no room")])

    def fails_once(*args: Any) -> np.ndarray:
        for error in failures:
            raise error
        return preference(*args)

    monkeypatch.setattr(clip, "preference", fails_once)
    monkeypatch.setitem(clip._judging, "device", "cuda:99")
    clip.load_judge.cache_clear()
    swapping = {"prompts": [["red apple", "owl"]], "at": [0.5]}
    study = parsed(model="bundled", prompts=["owl"], lanes=["ddim:2"], frames={"count": 0}, commitment=swapping)
    cache, rows = tmp_path / "c.duckdb", "SELECT count(first_probability), string_agg(error) FROM commitment"
    outcome = run_study(study, cache, device="cpu")
    assert (outcome.swaps, outcome.failed) == (2, 1)
    assert ask(cache, rows) == [(2, "CLIP failed: RuntimeError: no room")]
    outcome = run_study(study, cache, device="cpu")
    assert (outcome.swaps, outcome.failed) == (1, 0)
    assert ask(cache, rows) == [(3, None)]


def test_a_study_makes_its_changes_once_and_the_cache_knows_them(tmp_path: Path, capsys: Any) -> None:
    study = write_study(
        tmp_path / "s.toml",
        prompts=["disc"],
        lanes=["ddim:6"],
        seeds=[0, 1],
        commitment={"prompts": [["disc", "ring"]], "at": [0.5]},
    )
    cache = tmp_path / "cache.duckdb"
    arguments = [str(study), "--cache", str(cache), "--device", "cpu"]
    assert main(["plan", *arguments]) == 0
    assert "6 of 6 prompt swaps to make (36 denoiser calls)" in capsys.readouterr().out
    assert main(["run", *arguments, "--progress", "none"]) == 0
    assert "6 prompt swaps" in capsys.readouterr().out
    with reading(cache) as db:
        rows = swap_tables.commitment(db, "small", images=True)
    assert rows["share"].tolist() == [0.0, 0.5, 1.0] * 2
    assert rows["swap_call"].tolist() == [0, 3, 6] * 2
    assert rows["calls"].tolist() == [6] * 6
    assert rows["first_probability"].isna().all(), "no CLIP knows the gaussian model's pictures"
    assert rows["image"].map(lambda data: bytes(data)[8:12]).tolist() == [b"WEBP"] * 6
    cell = ask(cache, "SELECT trajectory_id FROM trajectories WHERE prompt = 'disc' AND seed = 0")
    assert rows["first_id"].iloc[0] == cell[0][0]
    first = rows["created_at"].tolist()
    assert main(["run", *arguments, "--progress", "none"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["run", *arguments, "--progress", "none", "--set", "commitment.at=[0.5, 0.8]"]) == 0
    assert "2 prompt swaps" in capsys.readouterr().out
    with reading(cache) as db:
        grown = swap_tables.commitment(db, "small")
    assert "image" not in grown
    assert grown["share"].tolist() == [0.0, 0.5, 0.8, 1.0] * 2
    assert sorted(grown["created_at"])[: len(first)] == sorted(first)
    assert main(["phases", "small", "--cache", str(cache)]) == 0
    shown = capsys.readouterr().out
    assert "measured by distance in latent space" in shown
    found = commitment(grown)
    assert found is not None
    heading, (lane, *cells) = point_rows(found)
    assert lane == "ddim:6"
    assert all(text in shown for text in (*heading, *cells))
    write_study(tmp_path / "s.toml", prompts=["disc"], lanes=["ddim:6"], seeds=[0, 1])
    assert main(["run", *arguments, "--progress", "none"]) == 0
    assert ask(cache, "SELECT count(*) FROM study_swaps") == [(0,)], "the study asks for none any more"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "must list 1 to 100 pairs"),
        ({"prompts": []}, "must list 1 to 100 pairs"),
        ({"prompts": "owl"}, "must be a list"),
        ({"prompts": ["owl", "rocket"]}, "must list pairs of texts"),
        ({"prompts": [["owl", "rocket", "house"]]}, "must list pairs of texts"),
        ({"prompts": [["owl", 3]]}, "must list pairs of texts"),
        ({"prompts": [["owl", "owl"]]}, "swaps 'owl' for itself"),
        ({"prompts": [["owl", "rocket"], ["owl", "rocket"]]}, "lists a pair twice"),
        ({"prompts": [["owl", "a\0b"]]}, "NUL"),
        ({"prompts": [["owl", "x" * 30_000]]}, "at most 20,000"),
        ({**PAIR, "at": [0.5, 1.0]}, "between 0 and 1, not 1.0"),
        ({**PAIR, "at": [0]}, "between 0 and 1, not 0"),
        ({**PAIR, "at": [True]}, "between 0 and 1"),
        ({**PAIR, "at": [float("nan")]}, "between 0 and 1"),
        ({**PAIR, "at": []}, "at least one share"),
        ({**PAIR, "at": [0.5, 0.5]}, "none twice"),
        ({**PAIR, "att": [0.5]}, "unknown key 'att'. Did you mean 'at'"),
    ],
)
def test_bad_settings_are_refused_with_the_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message.replace("[", r"\[")):
        parse_study(small_study(commitment=settings))


def test_settings_are_part_of_what_a_cache_knows_of_a_study() -> None:
    study = parse_study(small_study(commitment=PAIR))
    assert study.spec()["commitment"] == {"pairs": (("red apple", "owl"),), "at": (0.25, 0.5, 0.75)}
    assert parse_study(small_study()).spec()["commitment"] is None


def test_the_preset_tells_pairs_apart_and_has_enough_of_them_for_intervals() -> None:
    study = load_study("commitment")
    assert study.commitment is not None
    assert len(study.commitment.prompts) == 2 * len(study.commitment.pairs) >= 10, "no prompt twice: pairs resample"
    asked = swaps(study, find_model("bundled"), "cpu")
    lanes, seeds = len(study.lanes), len(study.seeds)
    assert len({swap.swap_id for swap in asked}) == len(asked) == 6 * lanes * seeds * len(study.commitment.shares)
    own = {cell.trajectory_id for cell in cells(study, find_model("bundled"), "cpu")}
    assert {swap.first.trajectory_id for swap in asked} <= own, "each run alone is a cell of the study"


def decided_at(points: dict[str, float], shares: list[float], *, judged: bool = True) -> pd.DataFrame:
    """Rows of runs that follow their first prompt if it had at least a share of the calls, pair by pair."""
    rows = [
        {
            "lane": "ddim:10",
            "first_prompt": pair,
            "second_prompt": "other",
            "seed": seed,
            "share": share,
            "progress": share,
            "log_snr": np.nan if share == 1 else 10 * share - 5,
            "calls": 10,
            "first_distance": 0.1 if share >= at else 0.9,
            "second_distance": 0.5,
            "first_probability": (0.9 if share >= at else 0.2) if judged else None,
            "error": None,
        }
        for pair, at in points.items()
        for seed in (0, 1)
        for share in shares
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("judged", [True, False])
def test_the_point_of_commitment_lies_between_the_changes_on_either_side(judged: bool) -> None:
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    found = commitment(decided_at({f"p{n}": 0.4 for n in range(6)}, shares, judged=judged))
    assert found is not None
    assert found.by == ("CLIP" if judged else "distance in latent space")
    [point] = found.points.to_dict("records")
    assert point["progress"] == pytest.approx(0.3)
    assert 0 < point["progress_low"] < 0.3 < point["progress_high"] < 1, "six pairs alike are no proof for all"
    assert point["log_snr"] == pytest.approx(-2)
    assert np.isnan(point["log_snr_low"]), "log-SNR has no ends"
    assert (point["pairs"], point["runs"], point["never"]) == (6, 12, 0)
    assert found.curve["value"].tolist() == [0, 0, 1, 1, 1, 1]
    assert 0 < found.curve["low"].iloc[2] < 1


def test_pairs_that_differ_give_an_interval_around_their_mean() -> None:
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    points = {"a": 0.2, "b": 0.4, "c": 0.4, "d": 0.6, "e": 0.8, "f": 0.6}
    found = commitment(decided_at(points, shares))
    assert found is not None
    [point] = found.points.to_dict("records")
    assert point["progress"] == pytest.approx(np.mean(list(points.values())) - 0.1)
    assert point["progress_low"] < point["progress"] < point["progress_high"]
    half = found.curve[found.curve["share"] == 0.4].iloc[0]
    assert half["value"] == pytest.approx(0.5)
    assert half["low"] < 0.5 < half["high"]


def test_runs_without_such_a_point_are_counted_and_failed_ones_left_out() -> None:
    rows = decided_at({"a": 0.5, "never": 2.0, "always": 0.0}, [0.0, 0.5, 1.0])
    rows.loc[len(rows)] = {**rows.iloc[0].to_dict(), "error": "it broke", "progress": None}
    found = commitment(rows)
    assert found is not None
    [point] = found.points.to_dict("records")
    assert (point["runs"], point["never"], found.failed) == (2, 4, 1)
    assert np.isnan(point["progress_low"]), "one pair has no interval"
    assert commitment(rows[rows["error"].notna()]) is None


def test_runs_whose_noise_level_is_not_known_have_a_point_in_progress_only() -> None:
    found = commitment(decided_at({f"p{n}": 0.5 for n in range(6)}, [0.0, 0.5, 1.0]).assign(log_snr=np.nan))
    assert found is not None
    [point] = found.points.to_dict("records")
    assert point["progress"] == pytest.approx(0.25)
    assert np.isnan(point["log_snr"])
