"""What `evaluate` measures, checked where the answer is known beforehand."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from data.bundled.recipe import common, evaluate, evaluate_cost, evaluate_curves, evaluate_held_out, judge
from data.bundled.recipe.common import BUNDLED_DIR

PROMPTS = ["red apple", "owl"]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return judge.load_pipeline(BUNDLED_DIR, torch.device("cpu"))


@pytest.fixture(scope="module")
def clip() -> judge.Judge:
    return judge.Judge(BUNDLED_DIR / "clip", evaluate.read_prompts(BUNDLED_DIR / "vocabulary.txt"))


def test_relative_error_is_the_distance_over_the_length_of_the_reference() -> None:
    reference = torch.full((2, 1, 2, 2), 3.0)
    moved = reference.clone()
    moved[1, 0, 0, 0] += 4.0
    assert evaluate_curves.relative_error(moved, reference).tolist() == pytest.approx([0.0, 4 / 6])


def test_seed_distance_is_zero_for_twins_and_two_for_opposites() -> None:
    latents = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert evaluate_curves.seed_distance([latents, latents]) == 0.0
    assert evaluate_curves.seed_distance([latents, -latents]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("colour", "saturation", "contrast"),
    [((1.0, -1.0, -1.0), 1.0, 0.0), ((1.0, 0.0, 0.0), 0.5, 0.0), ((1.0, 1.0, 1.0), 0.0, 0.0)],
)
def test_flat_pictures_have_the_saturation_of_their_colour_and_no_contrast(
    colour: tuple[float, float, float], saturation: float, contrast: float
) -> None:
    found = evaluate_curves.colourfulness(torch.tensor(colour)[None, :, None, None].expand(2, 3, 8, 8))
    assert found == pytest.approx({"saturation": saturation, "contrast": contrast}, abs=1e-6)


def test_a_picture_half_black_and_half_white_has_the_most_contrast() -> None:
    picture = torch.ones(1, 3, 16, 16)
    picture[..., :8] = -1
    assert evaluate_curves.colourfulness(picture)["contrast"] == pytest.approx(0.5, abs=0.01)


def test_draw_gives_the_same_pictures_as_plain_diffusers(pipeline: StableDiffusionPipeline) -> None:
    ours = judge.draw(pipeline, PROMPTS, guidance=2.0, steps=4, first_seed=7)
    seeds = [torch.Generator().manual_seed(7 + i) for i in range(2)]
    options = {"num_inference_steps": 4, "guidance_scale": 2.0, "generator": seeds}
    theirs = pipeline(PROMPTS, output_type="pt", **options).images * 2 - 1
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(("name", "steps"), [("ddim", 200), ("heun", 30)])
def test_other_solvers_start_from_the_same_noise_and_end_near_dpm(
    pipeline: StableDiffusionPipeline, name: str, steps: int
) -> None:
    usual = pipeline.scheduler
    good = judge.draw_latents(pipeline, ["pizza"], 2.0, 60, 0)
    few = judge.draw_latents(pipeline, ["pizza"], 2.0, 3, 0)
    solver = evaluate_curves.other_solver(pipeline, name)
    other = judge.draw_latents(pipeline, ["pizza"], 2.0, steps, 0, solver)
    assert pipeline.scheduler is usual
    near, far = (evaluate_curves.relative_error(x, good).item() for x in (other, few))
    assert near < 0.5 * far


def test_step_curve_has_every_count_and_no_error_at_the_converged_one(
    pipeline: StableDiffusionPipeline, clip: judge.Judge
) -> None:
    table = {"steps": [3, 12], "seeds": [0, 1], "guidance": 2.0, "converged_steps": 30}
    table |= {"check": {"ddim": 30}, "check_prompts": 1}
    report = evaluate_curves.step_curve(pipeline, clip, PROMPTS, table)
    assert set(report) == {"3", "12", "30", "agreement"}
    assert report["agreement"]["ddim"]["n"] == 1
    assert report["3"]["n"] == 4
    errors = [report[steps]["error"][1] for steps in ("3", "12", "30")]
    assert errors[0] > errors[1] > errors[2] == 0.0


def test_guidance_point_measures_all_pictures_of_both_seeds(
    pipeline: StableDiffusionPipeline, clip: judge.Judge
) -> None:
    runs = evaluate_curves.runs_of_seeds(pipeline, PROMPTS, 2.0, 6, [0, 1])
    point, pictures = evaluate_curves.guidance_point(pipeline, clip, PROMPTS, runs)
    assert pictures.shape == (4, 3, 64, 64)
    assert torch.allclose(pictures[2:], judge.draw(pipeline, PROMPTS, 2.0, 6, 1000), atol=1e-4)
    assert point["n"] == 4
    assert point["top1"] == 1.0
    assert point["seed_distance"] > 0.05
    alone, _ = evaluate_curves.guidance_point(pipeline, clip, PROMPTS, runs[:1])
    assert "seed_distance" not in alone


def test_judge_is_surer_of_a_real_drawing_than_of_a_white_sheet(
    pipeline: StableDiffusionPipeline, clip: judge.Judge
) -> None:
    drawn = clip.recognise(judge.draw(pipeline, PROMPTS, 2.0, 8, 0), PROMPTS)
    white = clip.recognise(torch.ones(2, 3, 64, 64), PROMPTS)
    assert drawn.probability[1] > 0.5 > white.probability[1]
    assert drawn.similarity > white.similarity
    assert all(0 <= p <= 1 for p in drawn.probability)


def tiny_stage(work: Path, **held_out: Any) -> common.Stage:
    """A stage whose packages hold six grey pictures, two of each of groups 1, 5 and 7."""
    labels, pictures = work / "packages/labels@1/en", work / "packages/pictures@1/png"
    labels.mkdir(parents=True)
    pictures.mkdir(parents=True)
    names = ["man", "woman", "hut", "ten o’clock", "cup", "spoon"]
    rows = [{"label": x, "hexcode": f"1F53{i}", "tags": [], "group": (1, 5, 7)[i // 2]} for i, x in enumerate(names)]
    for i, row in enumerate(rows):
        Image.new("RGBA", (16, 16), (40 * i,) * 3 + (255,)).save(pictures / f"{row['hexcode'].lower()}.png")
    (labels / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    (work / "seen.txt").write_text("cup\n", encoding="utf-8")
    source = {"package": "pictures@1", "folder": "png", "suffix": ".png", "style": "flat"}
    dataset = {"size": 16, "labels": "labels@1", "concepts": ["man"], "source": [source]}
    held = {"seen": str(work / "seen.txt"), "leave_out": ["o’clock"]} | held_out
    return common.open_stage("dataset", {"dataset": dataset, "evaluate": {"held_out": held}}, work, "cpu")


def test_unseen_pictures_leave_out_what_any_training_used(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path)
    shades = {g: [int(p[0, 0, 0]) // 40 for p in evaluate_held_out.unseen_pictures(stage, [g])] for g in (1, 5, 7)}
    assert shades == {1: [1], 5: [2], 7: [5]}  # woman, hut and spoon


def test_a_missing_list_or_an_empty_group_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path, groups={"nothing": [8]})
    pictures = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(common.RecipeError, match="'nothing'"):
        evaluate_held_out.reconstruction(Halver(), stage, pictures)
    (tmp_path / "seen.txt").unlink()
    with pytest.raises(common.RecipeError, match="seen"):
        list(evaluate_held_out.unseen_pictures(stage, [5]))


class Halver:
    """Stands for an autoencoder that gives back every value plus one half."""

    device = torch.device("cpu")

    def float(self) -> Halver:
        return self

    def eval(self) -> Halver:
        return self

    def encode(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=x))

    def decode(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=x + 0.5)


def test_psnr_is_that_of_a_known_error_and_reports_every_group(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path, groups={"people": [1], "things": [5, 7]})
    report = evaluate_held_out.reconstruction(Halver(), stage, torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
    assert [report[name]["n"] for name in ("training", "people", "things")] == [3, 1, 2]
    assert report["training"]["mean"] == pytest.approx(10 * math.log10(4 / 0.25), abs=1e-3)
    # 200 is 0.569 in -1 to 1; what the half adds beyond 1 is cut off
    lost = [0.5, 1 - (200 / 127.5 - 1)]
    assert report["things"]["mean"] == pytest.approx(np.mean([10 * math.log10(4 / e**2) for e in lost]), abs=1e-3)


def test_the_labels_of_the_first_training_are_listed_and_the_recipe_reads_them() -> None:
    config = common.load_config(common.RECIPE_DIR / "small_64.toml")
    held_out = config["evaluate"]["held_out"]
    seen = (BUNDLED_DIR.parents[1] / held_out["seen"]).read_text(encoding="utf-8").splitlines()
    assert len(seen) == len(set(seen)) == 515
    assert len(set(config["dataset"]["concepts"]) & set(seen)) == 166


def test_cost_is_measured_in_a_process_of_its_own_with_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(BUNDLED_DIR.parents[1])
    cost = evaluate_cost.measure_apart(BUNDLED_DIR, steps=2, guidance=2.0, repeats=2)
    assert cost["n"] == 2
    assert 0 < cost["seconds"]["least"] <= cost["seconds"]["median"] <= cost["seconds"]["most"]
    assert 200 < cost["peak_mb"] < 1500
    assert cost["threads"] >= 1


def test_evaluate_writes_the_parts_that_the_config_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.txt").write_text("owl\n", encoding="utf-8")
    (tmp_path / "dataset").mkdir()
    np.save(tmp_path / "dataset/pictures.npy", np.full((1, 3, 64, 64), 255, dtype=np.uint8))
    concept = [{"label": "owl", "tags": [], "style": "3d"}]
    (tmp_path / "dataset/concepts.json").write_text(json.dumps(concept), encoding="utf-8")
    table = {"prompts": str(tmp_path / "prompts.txt"), "steps": 3, "guidance": [2.0], "sheet_guidance": 2.0}
    stage = common.open_stage("evaluate", {"dataset": {}, "evaluate": table}, tmp_path, "cpu")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(evaluate, "measure_apart", lambda folder, **cost: asked.append(cost))
    evaluate.run(stage)
    assert not asked
    report = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert set(report) == {"real_pictures", "psnr_db", "guidance"}
    assert report["guidance"]["2"]["n"] == 1
    assert (tmp_path / "sheets/guidance_2.png").is_file()
    evaluate.run(dataclasses.replace(stage, table=table | {"cost": {"steps": 2}, "guidance": []}))
    assert asked == [{"steps": 2}]
