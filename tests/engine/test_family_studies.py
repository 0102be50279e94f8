"""Studies of other families from end to end: found, run, timed, referenced, and not made twice."""

from pathlib import Path
from typing import Any

import pytest

from engine.passes.run import run_study
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.engine import family_miniatures as families
from tests.engine.helpers import ask

LANES = {"sd3": "unipc:3", "pixart": "dpmpp_2m:3", "wan_two": "unipc:3", "svd": "euler_continuous:3"}


@pytest.mark.parametrize("key", [pytest.param(k, marks=() if k == "sd3" else pytest.mark.long) for k in LANES])
def test_a_study_runs_from_a_folder_and_a_second_run_has_nothing_to_do(key: str, tmp_path: Path) -> None:
    families.built(key).save_pretrained(tmp_path / "model")
    families.pipeline_settings(key, tmp_path)
    plain: dict[str, Any] = {
        "name": key,
        "model": str(tmp_path / "model"),
        "prompts": ["red apple"],
        "lanes": [LANES[key]],
        "width": 64,
        "height": 64,
        "frames": {"count": 1},
        "timing": {"repeats": 1, "warmup": 0},
        "pipeline": families.arguments(key) | {name: f"{name}.png" for name in families.PICTURES.get(key, ())},
    }
    study, cache = parse_study(plain, folder=tmp_path), tmp_path / "c.duckdb"
    assert find_model(study.model).family.key == {"wan_two": "wan"}.get(key, key)
    outcome = run_study(study, cache, device="cpu")
    assert (outcome.done, outcome.failed, outcome.timed, outcome.untimed) == (1, 0, 1, 0)
    [(frames,)] = ask(cache, "SELECT count(*) FROM frames WHERE kind = 'final'")
    assert frames == {"wan_two": 5, "svd": 3}.get(key, 1)
    assert run_study(study, cache, device="cpu").done == 0
