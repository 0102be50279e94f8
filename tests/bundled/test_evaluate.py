"""What `evaluate` measures, checked where the answer is known beforehand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from data.bundled.recipe import (
    common,
    evaluate,
    evaluate_cost,
    evaluate_curves,
    evaluate_nearest,
    judge,
)
from data.bundled.recipe.common import BUNDLED_DIR
from data.bundled.recipe.dataset import Concept, Dataset
from data.bundled.recipe.evaluate import read_prompts
from data.bundled.recipe.evaluate_nearest import Gallery

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


def gallery_of(pipeline: StableDiffusionPipeline, pictures: torch.Tensor, styles: list[str]) -> Gallery:
    """A gallery of pictures in -1 to 1, in turn of an owl and a pizza."""
    concepts = tuple(Concept(("owl", "pizza")[i % 2], (), style) for i, style in enumerate(styles))
    return Gallery(pipeline, Dataset(((pictures + 1) * 127.5).round().to(torch.uint8), concepts))


def test_nearest_pictures_tell_concept_style_and_distance(pipeline: StableDiffusionPipeline) -> None:
    pictures = judge.draw(pipeline, ["owl", "pizza", "red apple", "rocket"], 2.0, 6, 0)
    gallery = gallery_of(pipeline, pictures, ["3d", "3d", "noto", "noto"])
    found = gallery.compare(gallery.latents[[0, 2, 3]], ["owl", "owl", "owl"])
    assert found["own_concept"] == pytest.approx(2 / 3)
    assert found["styles"] == pytest.approx({"3d": 1 / 3, "noto": 2 / 3})
    assert found["distance"] == pytest.approx([0, 0, 0], abs=1e-3)
    assert gallery.same_picture(gallery.latents[[0, 1]], gallery.latents[[0, 2]]) == 0.5


def test_guidance_point_measures_all_pictures_of_both_seeds(
    pipeline: StableDiffusionPipeline, clip: judge.Judge
) -> None:
    runs = evaluate_curves.runs_of_seeds(pipeline, PROMPTS, 2.0, 6, [0, 1])
    gallery = gallery_of(pipeline, judge.decode(pipeline, runs[0]), ["3d", "3d"])
    point, pictures = evaluate_curves.guidance_point(pipeline, clip, gallery, PROMPTS, runs)
    assert pictures.shape == (4, 3, 64, 64)
    assert torch.allclose(pictures[2:], judge.draw(pipeline, PROMPTS, 2.0, 6, 1000), atol=1e-4)
    assert point["n"] == 4
    assert point["top5"] == 1.0
    assert point["seed_distance"] > 0.05
    assert 0 <= point["same_picture"] <= 1
    alone, _ = evaluate_curves.guidance_point(pipeline, clip, gallery, PROMPTS, runs[:1])
    assert "seed_distance" not in alone


def test_words_are_put_into_the_template_and_an_unknown_style_is_an_error(
    pipeline: StableDiffusionPipeline, clip: judge.Judge
) -> None:
    gallery = gallery_of(pipeline, judge.draw(pipeline, ["owl", "pizza"], 2.0, 6, 0), ["3d", "noto"])
    table: dict[str, Any] = {"templates": ["{}", "{}, 3d style"], "guidance": 2.0, "steps": 6}
    report = evaluate_nearest.wording(pipeline, clip, gallery, ["owl"], table)
    assert set(report) == {"{}", "{}, 3d style"}
    assert report["{}, 3d style"]["style_followed"] == report["{}, 3d style"]["styles"]["3d"]
    assert "style_followed" not in report["{}"]
    with pytest.raises(common.RecipeError, match="style"):
        evaluate_nearest.wording(pipeline, clip, gallery, ["owl"], table | {"templates": ["{}, oil style"]})


def test_judge_is_surer_of_a_real_drawing_than_of_a_white_sheet(
    pipeline: StableDiffusionPipeline, clip: judge.Judge
) -> None:
    drawn = clip.recognise(judge.draw(pipeline, PROMPTS, 2.0, 8, 0), PROMPTS)
    white = clip.recognise(torch.ones(2, 3, 64, 64), PROMPTS)
    assert drawn.probability[1] > 0.5 > white.probability[1]
    assert drawn.similarity > white.similarity
    assert all(0 <= p <= 1 for p in drawn.probability)


def test_cost_is_measured_in_a_process_of_its_own_with_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(BUNDLED_DIR.parents[1])
    cost = evaluate_cost.measure_apart(BUNDLED_DIR, steps=2, guidance=2.0, repeats=2)
    assert cost["n"] == 2
    assert 0 < cost["seconds"]["least"] <= cost["seconds"]["median"] <= cost["seconds"]["most"]
    assert 200 < cost["peak_mb"] < 1500
    assert cost["threads"] >= 1
    alone = evaluate_cost.measure_apart(BUNDLED_DIR, steps=1, guidance=2.0, repeats=1, threads=1)
    assert alone["threads"] == 1


def test_evaluate_writes_the_parts_that_the_config_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.txt").write_text("owl\n", encoding="utf-8")
    (tmp_path / "dataset").mkdir()
    np.save(tmp_path / "dataset/pictures.npy", np.full((1, 3, 64, 64), 255, dtype=np.uint8))
    concept = [{"label": "owl", "tags": [], "style": "3d"}]
    (tmp_path / "dataset/concepts.json").write_text(json.dumps(concept), encoding="utf-8")
    table = {"prompts": str(tmp_path / "prompts.txt"), "steps": 3, "guidance": [2.0], "sheet_guidance": 2.0}
    stage = common.open_stage("evaluate", {"evaluate": table}, tmp_path, "cpu")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(evaluate, "measure_apart", lambda folder, **cost: asked.append(cost))
    evaluate.run(stage)
    assert not asked
    report = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert set(report) == {"real_pictures", "guidance"}
    assert report["guidance"]["2"]["n"] == 1
    assert (tmp_path / "sheets/guidance_2.png").is_file()
    parts = {"cost": {"steps": 2, "threads": [2, 1]}, "guidance": []}
    parts["words"] = {"templates": ["a {}"], "guidance": 2.0, "steps": 2}
    report = evaluate.run(dataclasses.replace(stage, table=table | parts))
    assert asked == [{"steps": 2, "threads": 2}, {"steps": 2, "threads": 1}]
    assert set(report) == {"cost", "real_pictures", "guidance", "words", "vocabulary"}
    assert report["vocabulary"]["{}"]["n"] == len(read_prompts(BUNDLED_DIR / "vocabulary.txt"))
