"""Pictures that no training step has used, and how well the autoencoder gives them back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.bundled.recipe import common, evaluate_held_out
from data.bundled.recipe.common import BUNDLED_DIR
from data.bundled.recipe.dataset import Concept, Dataset


def tiny_stage(work: Path, listed: str = "1F532 cup\n", **rows: list[str]) -> common.Stage:
    """A stage whose dataset holds out three grey pictures of a cup, in two styles."""
    (work / "dataset").mkdir(parents=True)
    codes = {"concepts": ["1F530"], "more": ["1F531"], "held_out": ["1F532"] * 3} | rows
    for name, found in codes.items():
        entries = [{"code": x, "label": "cup", "style": "flat" if i else "3d"} for i, x in enumerate(found)]
        (work / f"dataset/{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    shades = np.array([0, 100, 200], dtype=np.uint8)[:, None, None, None]
    np.save(work / "dataset/held_out.npy", shades.repeat(3, 1).repeat(16, 2).repeat(16, 3))
    (work / "listed.txt").write_text(listed, encoding="utf-8")
    return common.open_stage("evaluate", {"evaluate": {}}, work, "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"listed": "1F539 spoon\n"}, "listed.txt"), ({"more": ["1F532"]}, "1F532"), ({"concepts": ["1F532"]}, "1F532")],
)
def test_held_out_pictures_must_be_the_recorded_ones_and_never_trained_on(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    stage = tiny_stage(tmp_path, **options)
    with pytest.raises(common.RecipeError, match=message):
        evaluate_held_out.held_out_pictures(stage, tmp_path / "listed.txt")


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


def test_psnr_is_that_of_a_known_error_and_reports_every_style(tmp_path: Path) -> None:
    own = Dataset(torch.zeros(3, 3, 16, 16, dtype=torch.uint8), (Concept("owl", (), "3d"),) * 3)
    report = evaluate_held_out.reconstruction(Halver(), tiny_stage(tmp_path), own, tmp_path / "listed.txt")
    assert report["vocabulary"]["all"]["mean"] == pytest.approx(10 * math.log10(4 / 0.25), abs=1e-3)
    assert [report["held_out"][name]["n"] for name in ("all", "3d", "flat")] == [3, 1, 2]
    # 200 is 0.569 in -1 to 1; what the half adds beyond 1 is cut off
    lost = [0.5, 1 - (200 / 127.5 - 1)]
    wanted = np.mean([10 * math.log10(4 / e**2) for e in lost])
    assert report["held_out"]["flat"]["mean"] == pytest.approx(wanted, abs=1e-3)


def test_held_out_concepts_are_outside_the_vocabulary_and_the_warm_start() -> None:
    config = common.load_config(common.RECIPE_DIR / "small_64.toml")
    root = BUNDLED_DIR.parents[1]
    seen = (root / config["dataset"]["seen"]).read_text(encoding="utf-8").splitlines()
    lines = (root / config["evaluate"]["held_out"]["listed"]).read_text(encoding="utf-8").splitlines()
    held_out = {line.partition(" ")[2] for line in lines}
    assert len(held_out) == len(lines) >= 50
    assert len(seen) == len(set(seen)) == 515
    assert not held_out & (set(seen) | set(config["dataset"]["concepts"]))
