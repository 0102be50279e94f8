"""The Python face where something fails: nothing is dropped without a word, and mistakes are told before any work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import EulerDiscreteScheduler
from PIL import Image

from diffusion_scheduler_visualizer import DiffusionSchedulerVisualizer
from engine.errors import LabError, StudyError
from engine.sharing.comparison_grid import check_picture_file, save_picture
from tests.engine.miniatures import FailsAtStepThree


def make(cache: Path, **options: Any) -> DiffusionSchedulerVisualizer:
    return DiffusionSchedulerVisualizer("gaussian", **({"cache": cache, "device": "cpu", "progress": "none"} | options))


BROKEN = {"scheduler_class": FailsAtStepThree, "num_inference_steps": 5}
EULER = {"scheduler_class": EulerDiscreteScheduler, "num_inference_steps": 2}


@pytest.mark.parametrize("configs", [{"Broken": BROKEN, "Euler": EULER}, {"Broken": BROKEN}], ids=["one", "all"])
def test_a_scheduler_that_fails_has_a_row_without_samples_and_with_its_error(
    configs: dict[str, Any], tmp_path: Path
) -> None:
    visualizer = make(tmp_path / "cache.duckdb")
    visualizer.scheduler_configs = configs
    table = visualizer.analyze_scheduler_efficiency(["disc"], repeats=2)
    assert sorted(table["scheduler"]) == sorted(configs)
    last = table.iloc[-1]
    assert (last["scheduler"], last["n"], last["steps"], last["settled"]) == ("Broken", 0, 5, "too few")
    assert last["error"] == "ArithmeticError: step three went wrong"
    assert np.isnan(last["median_ms"])
    assert list(table["error"][:-1]) == [""] * (len(configs) - 1)
    assert list(table["n"][:-1]) == [2] * (len(configs) - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "lo"}, "memory must be one of standard, low, slicing, not 'lo'. Did you mean 'low'?"),
        ({"memory": None}, "memory must be one of"),
        ({"progress": "nope"}, "progress must be one of bar, json, none, not 'nope'."),
    ],
)
def test_words_nobody_knows_are_refused_when_they_are_given(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StudyError) as caught:
        make(tmp_path / "cache.duckdb", **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("grid", "known image format"),
        ("grid.nonsense", "known image format"),
        ("nowhere/grid.png", "a folder that does not exist"),
        ("folder.png", "is a folder"),
        ("grid.psd", "images cannot be written as PSD"),
        ("grid.xbm", "images cannot be written as XBM"),
        ("grid.h5", "images cannot be written as HDF5"),
    ],
)
def test_a_file_no_grid_can_be_saved_to_is_refused_before_any_work(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    visualizer = make(tmp_path / "cache.duckdb")
    with pytest.raises(StudyError, match=message):
        visualizer.create_comparison_grid("disc", tmp_path / path)
    assert not (tmp_path / "cache.duckdb").exists()


@pytest.mark.parametrize("ending", [".png", ".PNG", ".jpg", ".webp", ".gif", ".pdf", ".tiff"])
def test_usual_endings_pass(ending: str, tmp_path: Path) -> None:
    check_picture_file(tmp_path / f"grid{ending}")


def test_a_file_that_cannot_be_written_in_the_end_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="could not be written"):
        save_picture(Image.new("RGB", (4, 4)), tmp_path / "gone" / "grid.png")
