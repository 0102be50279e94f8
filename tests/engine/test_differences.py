"""Where lanes differ, on latents that are made up."""

import numpy as np
import pandas as pd
import pytest

from engine.analysis.differences import Differences, differences

COLUMNS = ["study_lane", "prompt", "seed", "trajectory_id", "frame_count"]
PROMPTS = ("apple", "owl", "robot")


def found(moved: dict[tuple[str, str], float], lanes: tuple[str, ...] = ("a", "b")) -> Differences:
    """Baselines one unit long, at right angles; lanes are moved from them by so much."""
    units = dict(zip(PROMPTS, np.eye(4)[:3], strict=True))
    rows, latents = [], {}
    for prompt in PROMPTS:
        for lane in ("base", *lanes):
            name = f"{lane} {prompt}"
            rows.append((lane, prompt, 0, name, 0))
            latents[name] = (units[prompt] + moved.get((lane, prompt), 0.0) * np.eye(4)[3]).astype(np.float32)
    cells = pd.DataFrame(rows, columns=COLUMNS)
    return differences(cells, latents, "base")


def test_distances_are_relative_to_the_baseline_and_beyond_half_the_scale_is_another_picture() -> None:
    result = found({("a", "owl"): 0.2, ("b", "owl"): 0.8, ("a", "robot"): 0.1})
    assert result.scale == pytest.approx(2**0.5)
    told = {(row.lane, row.prompt): (row.distance, row.other) for row in result.table.itertuples()}
    assert told["a", "owl"] == (pytest.approx(0.2), False)
    assert told["b", "owl"] == (pytest.approx(0.8), True)
    assert [(row.lane, row.prompt) for row in result.others.itertuples()] == [("b", "owl")]


def test_prompts_are_ranked_by_lanes_that_went_elsewhere_then_by_spread() -> None:
    result = found({("b", "owl"): 0.8, ("a", "robot"): 0.5})
    assert result.ranked("different") == [("owl", 0), ("robot", 0), ("apple", 0)]
    assert result.ranked("alike")[0] == ("apple", 0)
    assert result.ranked("typical")[0] == ("robot", 0)
    assert list(result.prompts["prompt"]) == ["owl", "robot", "apple"]
    assert list(result.prompts["others"]) == [1, 0, 0]


def test_nothing_is_called_another_picture_where_no_scale_is_known() -> None:
    cells = pd.DataFrame([("base", "owl", 0, "x", 0), ("a", "owl", 0, "y", 0)], columns=COLUMNS)
    result = differences(cells, {"x": np.ones(4, np.float32), "y": -np.ones(4, np.float32)}, "base")
    assert list(result.table["other"]) == [False]
    assert result.ranked("different") == [("owl", 0)]


def test_cells_that_cannot_be_compared_are_left_out() -> None:
    rows = [("base", "owl", 0, "x", 0), ("a", "owl", 0, "y", 0), ("b", "owl", 0, "z", 0)]
    cells = pd.DataFrame(rows, columns=COLUMNS)
    result = differences(cells, {"x": np.ones(4, np.float32), "y": np.ones(5, np.float32)}, "base")
    assert result.table.empty
    assert result.ranked("different") == []
    assert result.prompts.empty


def test_only_prompts_that_most_lanes_have_are_ranked_and_on_request_those_with_step_frames() -> None:
    rows = [(lane, prompt, 0, f"{lane} {prompt}", 12 * (prompt == "apple")) for prompt in PROMPTS for lane in "xab"]
    rows.remove(("b", "owl", 0, "b owl", 0))
    units = dict(zip(PROMPTS, np.eye(4)[:3], strict=True))
    moved = {"x": 0.0, "a": 0.1, "b": 0.2}
    latents = {
        name: (units[prompt] + moved[lane] * (1 + (prompt == "robot")) * np.eye(4)[3]).astype(np.float32)
        for lane, prompt, _, name, _ in rows
    }
    result = differences(pd.DataFrame(rows, columns=COLUMNS), latents, "x")
    assert result.ranked("different") == [("robot", 0), ("apple", 0)]
    assert result.ranked("different", framed=True) == [("apple", 0)]
