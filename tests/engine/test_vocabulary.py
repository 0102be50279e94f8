"""Prompts the bundled model has no word for are told before anything is drawn."""

import pytest

from diffusion_scheduler_visualizer import DiffusionSchedulerVisualizer
from engine.cli import main
from engine.passes.plan import plan_study
from engine.study.source import find_model
from engine.study.study import load_study, presets
from engine.study.vocabulary import out_of_vocabulary, vocabulary, vocabulary_notes
from tests.engine.helpers import parsed, write_study

GARDEN = "a serene japanese garden with cherry blossoms"


@pytest.mark.parametrize("prompt", ["red apple", "Owl, 3d style", " an  OWL on a tree", "the key.", "", "  "])
def test_a_prompt_that_names_a_known_thing_is_not_remarked_on(prompt):
    assert out_of_vocabulary("bundled", [prompt]) == []


@pytest.mark.parametrize("prompt", [GARDEN, "a lighthouse at dusk", "monkeys", "startup", "日本語"])
def test_a_prompt_that_only_contains_the_letters_of_a_known_thing_is_unknown(prompt):
    assert out_of_vocabulary("bundled", [prompt, "owl"]) == [prompt]


def test_other_models_are_left_alone():
    assert vocabulary_notes("gaussian", [GARDEN]) == vocabulary_notes("owner/name", [GARDEN]) == []


def test_the_note_says_what_will_be_drawn_and_what_draws_such_prompts():
    [note] = vocabulary_notes("bundled", [GARDEN])
    for words in (
        GARDEN,
        "names none of them",
        "something else",
        "vocabulary.txt",
        f"{len(vocabulary())} things",
        'model="stable-diffusion-v1-5/',
    ):
        assert words in note
    [many] = vocabulary_notes("bundled", [f"prompt {n}" for n in range(9)])
    assert "and 6 more name none" in many


def test_no_preset_asks_the_bundled_model_for_what_it_does_not_know():
    for name in presets():
        study = load_study(name)
        assert out_of_vocabulary(study.model, study.prompts) == [], name


def test_plan_lists_the_note_among_its_warnings(tmp_path, capsys):
    study = write_study(tmp_path / "s.toml", model="bundled", prompts=["owl", GARDEN])
    assert main(["plan", str(study), "--cache", str(tmp_path / "c.duckdb")]) == 0
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if GARDEN in line and "names none of them" in line]
    assert line.startswith("Warning")
    assert "'owl'" not in line


def test_the_plan_that_a_run_notes_from_holds_it(tmp_path):
    study = parsed(model="bundled", prompts=[GARDEN])
    assert plan_study(study, find_model("bundled"), tmp_path / "c.duckdb", "cpu", "standard").notes


def test_the_visualizer_says_so_too(tmp_path, capfd):
    visualizer = DiffusionSchedulerVisualizer(cache=tmp_path / "c.duckdb", device="cpu")
    visualizer.scheduler_configs = {"E": {"scheduler_class": "EulerDiscreteScheduler", "num_inference_steps": 1}}
    visualizer.capture_denoising_trajectory(GARDEN, num_frames=0)
    assert "something else" in capfd.readouterr().err
