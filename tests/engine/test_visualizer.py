"""The Python face: what its description promises works as written, and mistakes are told in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from PIL import Image

import engine.passes.run
from diffusion_scheduler_visualizer import DiffusionSchedulerVisualizer
from engine.errors import LabError, ModelError, StudyError
from engine.sharing.grid import LABEL_WIDTH, MARGIN
from tests.engine.miniatures import FailsAtStepThree

PROMPT = "disc and ring"
COLUMNS = {
    "scheduler",
    "lane",
    "steps",
    "nfe",
    "n",
    "median_ms",
    "low_ms",
    "high_ms",
    "speedup",
    "speedup_low",
    "speedup_high",
    "settled",
    "device_name",
    "description",
    "text_ms",
    "denoiser_ms",
    "scheduler_ms",
    "decode_ms",
    "error",
}
THREE = {"DDIM (50 steps)": 50, "DPM-Solver++ (20 steps)": 20, "Euler (30 steps)": 30}


def make(cache: Path, **options: Any) -> DiffusionSchedulerVisualizer:
    return DiffusionSchedulerVisualizer("gaussian", cache=cache, device="cpu", progress="none", **options)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests fill together: what one has computed the next one finds."""
    return tmp_path_factory.mktemp("visualizer") / "cache.duckdb"


@pytest.fixture
def visualizer(shared_cache: Path) -> DiffusionSchedulerVisualizer:
    return make(shared_cache)


@pytest.fixture
def quick(shared_cache: Path) -> DiffusionSchedulerVisualizer:
    """Two schedulers at few steps."""
    few = make(shared_cache)
    few.scheduler_configs = {
        "Euler": {"scheduler_class": EulerDiscreteScheduler, "num_inference_steps": 4, "description": "four steps"},
        "DDIM": {"scheduler_class": DDIMScheduler, "num_inference_steps": 3},
    }
    return few


def contrast(picture: Image.Image, box: tuple[int, int, int, int]) -> float:
    return float(np.asarray(picture.crop(box).convert("L")).std())


def test_the_three_schedulers_of_the_description_are_there_from_the_start(
    visualizer: DiffusionSchedulerVisualizer,
) -> None:
    assert {name: entry["num_inference_steps"] for name, entry in visualizer.scheduler_configs.items()} == THREE


def test_a_comparison_grid_is_saved_with_a_row_per_scheduler_labels_and_pictures(
    visualizer: DiffusionSchedulerVisualizer, tmp_path: Path
) -> None:
    path = tmp_path / "comparison.png"
    grid = visualizer.create_comparison_grid(PROMPT, str(path), columns=4, repeats=1)
    saved = Image.open(path)
    assert saved.format == "PNG"
    assert saved.size == grid.size
    cell = 128  # pictures of 64 pixels are shown at twice their size
    assert saved.width == 2 * MARGIN + LABEL_WIDTH + 5 * (cell + 6) - 6
    top = MARGIN + 66 + 34
    assert saved.height == top + 3 * (cell + 6) + 22 + MARGIN
    for row in range(3):
        y = top + row * (cell + 6)
        assert contrast(saved, (MARGIN, y, MARGIN + LABEL_WIDTH, y + cell)) > 10, "no label"
        for column in range(5):
            x = MARGIN + LABEL_WIDTH + column * (cell + 6)
            assert contrast(saved, (x, y, x + cell, y + cell)) > 5, "no picture"
    assert contrast(saved, (0, 0, saved.width, MARGIN + 50)) > 10, "no title"


def test_added_entries_add_rows_to_the_grid_and_the_table(quick: DiffusionSchedulerVisualizer) -> None:
    before = quick.create_comparison_grid(PROMPT, repeats=1, columns=3)
    quick.scheduler_configs["PNDM (35 steps)"] = {
        "scheduler_class": PNDMScheduler,
        "num_inference_steps": 35,
        "description": "Pseudo numerical methods",
    }
    after = quick.create_comparison_grid(PROMPT, repeats=1, columns=3)
    assert after.height - before.height == 128 + 6
    table = quick.analyze_scheduler_efficiency([PROMPT], repeats=1)
    [pndm] = [row for _, row in table.iterrows() if row["scheduler"] == "PNDM (35 steps)"]
    assert (pndm["steps"], pndm["nfe"], pndm["lane"]) == (35, 36, "pndm:35")
    assert pndm["description"] == "Pseudo numerical methods"


def test_noisy_and_clean_grids_show_different_pictures(quick: DiffusionSchedulerVisualizer) -> None:
    clean, noisy = (quick.create_comparison_grid(PROMPT, kind=kind, columns=2, repeats=1) for kind in ("x0", "xt"))
    assert clean.size == noisy.size
    assert np.abs(np.asarray(clean).astype(int) - np.asarray(noisy).astype(int)).max() > 50


def test_a_grid_has_the_columns_asked_for_though_more_frames_are_cached(
    quick: DiffusionSchedulerVisualizer,
) -> None:
    quick.scheduler_configs = {
        "Euler": {"scheduler_class": EulerDiscreteScheduler, "num_inference_steps": 15},
        "DDIM": {"scheduler_class": DDIMScheduler, "num_inference_steps": 2},
    }
    assert len(quick.capture_denoising_trajectory("ring", num_frames=12).steps) == 12
    grid = quick.create_comparison_grid("ring", columns=4, repeats=0)
    assert grid.width == 2 * MARGIN + LABEL_WIDTH + 5 * 134 - 6
    trajectory = quick.capture_denoising_trajectory("ring", num_frames=3)
    assert [step.step_index for step in trajectory.steps][::2] == [0, 14]
    top = MARGIN + 66 + 34
    shown = [
        [contrast(grid, (x, y, x + 128, y + 128)) > 5 for x in range(MARGIN + LABEL_WIDTH, grid.width - 128, 134)]
        for y in (top, top + 134)
    ]
    assert shown[0] == [True] * 5
    assert all(shown[1][2:]), "columns stand at 7, 40, 67 and 100 %; two calls give pictures from 50 % on"


def test_efficiency_is_a_table_with_one_row_per_scheduler_the_fastest_first(
    quick: DiffusionSchedulerVisualizer,
) -> None:
    table = quick.analyze_scheduler_efficiency([PROMPT, "ring"], repeats=5)
    assert set(table.columns) >= COLUMNS
    assert dict(zip(table["scheduler"], table["nfe"], strict=True)) == {"Euler": 4, "DDIM": 3}
    assert dict(zip(table["scheduler"], table["steps"], strict=True)) == {"Euler": 4, "DDIM": 3}
    assert dict(zip(table["scheduler"], table["description"], strict=True)) == {"Euler": "four steps", "DDIM": ""}
    assert table["median_ms"].is_monotonic_increasing
    assert (table["n"] >= 5).all()
    assert (table["low_ms"] <= table["median_ms"]).all()
    assert (table["median_ms"] <= table["high_ms"]).all()
    assert table.set_index("scheduler").loc["Euler", "speedup"] == 1, "the first entry is the baseline"


def test_the_baseline_of_speed_ups_may_be_chosen(quick: DiffusionSchedulerVisualizer) -> None:
    table = quick.analyze_scheduler_efficiency([PROMPT], repeats=3, baseline="DDIM").set_index("scheduler")
    assert table.loc["DDIM", "speedup"] == 1
    assert table.loc["Euler", "speedup"] == pytest.approx(
        table.loc["DDIM", "median_ms"] / table.loc["Euler", "median_ms"]
    )


def test_one_prompt_may_be_given_as_plain_text(quick: DiffusionSchedulerVisualizer) -> None:
    table = quick.analyze_scheduler_efficiency(PROMPT, repeats=1)
    assert len(table) == 2


def test_a_captured_trajectory_shows_how_the_picture_formed(visualizer: DiffusionSchedulerVisualizer) -> None:
    trajectory = visualizer.capture_denoising_trajectory(PROMPT, "DPM-Solver++ (20 steps)", seed=1, num_frames=5)
    assert (trajectory.prompt, trajectory.seed, trajectory.nfe) == (PROMPT, 1, 20)
    assert [step.step_index for step in trajectory.steps] == [0, 5, 10, 14, 19]
    assert trajectory.steps[-1].progress == 1
    levels = [step.log_snr for step in trajectory.steps]
    assert levels == sorted(levels)
    assert {step.x0.size for step in trajectory.steps} == {step.xt.size for step in trajectory.steps} == {(64, 64)}
    final = np.asarray(trajectory.final).astype(int)
    distance = [np.abs(np.asarray(step.x0).astype(int) - final).mean() for step in trajectory.steps]
    assert distance[-1] < distance[0]
    assert np.abs(np.asarray(trajectory.steps[0].xt).astype(int) - final).mean() > distance[-1]


def test_the_first_scheduler_is_captured_unless_another_is_named(quick: DiffusionSchedulerVisualizer) -> None:
    assert quick.capture_denoising_trajectory(PROMPT).name == "Euler"
    assert quick.capture_denoising_trajectory(PROMPT, "DDIM", num_frames=0).steps == ()


def test_what_was_computed_once_is_not_computed_again(
    quick: DiffusionSchedulerVisualizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quick.create_comparison_grid(PROMPT, columns=3, repeats=1)
    monkeypatch.setattr(engine.passes.run, "_make_missing", lambda *args: pytest.fail("something was computed"))
    assert quick.create_comparison_grid(PROMPT, columns=3, repeats=1) == first


def test_a_configuration_override_makes_another_scheduler(quick: DiffusionSchedulerVisualizer) -> None:
    """Two entries of one class and step count, told apart by their configuration."""
    quick.scheduler_configs["Euler Karras"] = {
        "scheduler_class": EulerDiscreteScheduler,
        "num_inference_steps": 4,
        "config": {"use_karras_sigmas": True},
    }
    plain, karras = (quick.capture_denoising_trajectory(PROMPT, name) for name in ("Euler", "Euler Karras"))
    assert plain.steps[1].log_snr < karras.steps[1].log_snr - 0.1 or plain.steps[1].log_snr > karras.steps[1].log_snr
    assert plain.final.tobytes() != karras.final.tobytes()
    table = quick.analyze_scheduler_efficiency([PROMPT], repeats=1)
    assert sorted(table["scheduler"]) == ["DDIM", "Euler", "Euler Karras"]


def test_a_scheduler_that_fails_raises_its_error_from_capture_and_is_noted_in_the_grid(tmp_path: Path) -> None:
    broken = make(tmp_path / "cache.duckdb")
    broken.scheduler_configs = {
        "Broken": {"scheduler_class": FailsAtStepThree, "num_inference_steps": 5},
        "Euler": {"scheduler_class": EulerDiscreteScheduler, "num_inference_steps": 2},
    }
    with pytest.raises(RuntimeError, match="Broken: ArithmeticError: step three went wrong"):
        broken.capture_denoising_trajectory(PROMPT, "Broken")
    grid = broken.create_comparison_grid(PROMPT, columns=2, repeats=1)
    assert grid.height > 2 * 128


def test_an_unknown_name_is_answered_with_the_names_there_are(quick: DiffusionSchedulerVisualizer) -> None:
    with pytest.raises(StudyError, match=r"no 'Eule' in scheduler_configs. Did you mean 'Euler'\?.*Euler, DDIM"):
        quick.capture_denoising_trajectory(PROMPT, "Eule")
    with pytest.raises(StudyError, match="baseline 'nothing' is not in scheduler_configs"):
        quick.analyze_scheduler_efficiency([PROMPT], baseline="nothing")


GOOD = {"scheduler_class": PNDMScheduler, "num_inference_steps": 5}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"num_inference_steps": 5}, "lacks 'scheduler_class'"),
        ({"scheduler_class": PNDMScheduler}, "lacks 'num_inference_steps'"),
        (GOOD | {"num_inference_step": 5}, "unknown key 'num_inference_step'. Did you mean 'num_inference_steps'?"),
        (GOOD | {"num_inference_steps": 0}, "from 1 to 1000"),
        (GOOD | {"num_inference_steps": "5"}, "must be a whole number"),
        (GOOD | {"num_inference_steps": 5.0}, "must be a whole number"),
        (GOOD | {"scheduler_class": PNDMScheduler()}, "must be a class"),
        (GOOD | {"scheduler_class": None}, "must be a class"),
        (GOOD | {"scheduler_class": "PNDMSchedular"}, "Did you mean 'PNDMScheduler'?"),
        (GOOD | {"scheduler_class": "no good name"}, "should read 'module:Class'"),
        (GOOD | {"scheduler_class": Path}, "not a diffusers scheduler"),
        (GOOD | {"config": {"skip_prk_step": True}}, "has no setting 'skip_prk_step'. Did you mean 'skip_prk_steps'?"),
        (GOOD | {"config": 5}, "config"),
        (GOOD | {"config": "skip_prk_steps"}, "config"),
        (GOOD | {"description": None}, "description"),
        (
            {"scheduler_class": DDIMScheduler, "num_inference_steps": 30, "config": {"timestep_spacing": "trailing"}},
            "30 does not",
        ),
        ({"scheduler_class": EulerDiscreteScheduler, "num_inference_steps": 4}, "the same scheduler"),
        (5, "scheduler_configs"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_by_name_before_anything_runs(
    entry: Any, message: str, quick: DiffusionSchedulerVisualizer
) -> None:
    quick.scheduler_configs["Mistake"] = entry
    with pytest.raises(StudyError) as caught:
        quick.create_comparison_grid("a prompt of this test alone", columns=2, repeats=1)
    assert message in str(caught.value)
    assert "Mistake" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: v.create_comparison_grid(PROMPT, "grid.nonsense"), "known image format"),
        (lambda v: v.analyze_scheduler_efficiency([]), "prompt"),
        (lambda v: v.analyze_scheduler_efficiency([PROMPT, PROMPT]), "twice"),
        (lambda v: v.capture_denoising_trajectory("half a \ud83d pair"), "surrogate"),
        (lambda v: v.capture_denoising_trajectory(PROMPT, seed=-1), "seed"),
        (lambda v: v.capture_denoising_trajectory(PROMPT, seed=1.5), "seed"),
        (lambda v: v.capture_denoising_trajectory(PROMPT, num_frames=-1), "count"),
        (lambda v: v.create_comparison_grid(PROMPT, repeats=-1), "repeats"),
        (lambda v: v.create_comparison_grid(PROMPT, kind="x1"), "kind"),
    ],
    ids=["ending", "no prompt", "prompt twice", "surrogate", "negative seed", "fraction", "frames", "repeats", "kind"],
)
def test_arguments_that_make_no_sense_are_refused_in_words(
    call: Callable[[DiffusionSchedulerVisualizer], Any], message: str, quick: DiffusionSchedulerVisualizer
) -> None:
    with pytest.raises(StudyError, match=message):
        call(quick)


def test_what_cannot_be_told_names_no_scheduler_and_says_what_is_missing(quick: DiffusionSchedulerVisualizer) -> None:
    found = quick.decide(["disc", "ring", "cross"], budget="5m")
    assert (found.lane, found.known, found.stop) == (None, False, "cannot tell")
    assert "Calibration takes 30 prompts; 27 more to go." in found.obstacles
    assert any(line.startswith("CLIP score is not available") for line in found.obstacles)
    with pytest.raises(StudyError, match="at least one prompt"):
        quick.decide([])


def test_no_schedulers_at_all_is_refused(quick: DiffusionSchedulerVisualizer) -> None:
    quick.scheduler_configs = {}
    for call in (quick.create_comparison_grid, quick.capture_denoising_trajectory):
        with pytest.raises(StudyError, match="scheduler_configs"):
            call(PROMPT)


def test_a_missing_model_and_a_missing_device_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Did you mean 'gaussian'"):
        DiffusionSchedulerVisualizer("gausian", cache=tmp_path / "cache.duckdb")
    wrong = DiffusionSchedulerVisualizer("gaussian", cache=tmp_path / "c.duckdb", device="gpu", progress="none")
    with pytest.raises(LabError, match="Unknown device 'gpu'"):
        wrong.create_comparison_grid(PROMPT)


def test_odd_prompts_are_drawn_too(quick: DiffusionSchedulerVisualizer) -> None:
    for prompt in ("", "   ", "日本語 🙂 \n line two", "x" * 500):
        assert quick.create_comparison_grid(prompt, columns=1, repeats=0).width > 300


def test_the_face_works_on_a_diffusers_folder(sd_folder: Path, tmp_path: Path) -> None:
    visualizer = DiffusionSchedulerVisualizer(
        str(sd_folder), cache=tmp_path / "cache.duckdb", device="cpu", progress="none"
    )
    visualizer.scheduler_configs = {"PNDM (3 steps)": {"scheduler_class": PNDMScheduler, "num_inference_steps": 3}}
    assert visualizer.guidance_scale == 7.5
    assert visualizer.capture_denoising_trajectory("red apple").nfe == 4
