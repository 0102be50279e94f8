"""The diffs that ARCHITECTURE.md shows are applied to a copy of the project, and do what they promise."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.DOTALL)
STUDY = """
name = "extended"
model = "gaussian"
prompts = ["disc"]
lanes = ["ddim:2", "my_euler:2"]
plugins = ["my_schedulers.py", "my_metrics.py", "my_families.py"]
frames = { count = 2 }
timing = { repeats = 0 }
"""
# Run in the copy: the study with all plug-ins, then what the cache holds and what a page says, as JSON.
LOOK = """
import json, sys
from pathlib import Path
from typing import Any

import duckdb
from streamlit.testing.v1 import AppTest

from engine.cli import main
from engine.study.families import family_of

cache = Path("cache.duckdb")
assert main(["run", "extended.toml", "--cache", str(cache), "--device", "cpu", "--progress", "none"]) == 0
with duckdb.connect(str(cache), read_only=True) as db:
    lanes = db.execute("SELECT lane, status, remark FROM trajectories ORDER BY lane").fetchall()
    scores = db.execute("SELECT metric, count(*) FROM scores WHERE metric = 'brightness' GROUP BY metric").fetchall()
sys.argv = ["app.py", "--cache", str(cache)]
page = AppTest.from_file("dashboard/app.py", default_timeout=60).switch_page("views/cells.py").run()
shown = [(metric.label, metric.value) for metric in page.metric]
print(json.dumps({"lanes": lanes, "scores": scores, "page": shown, "family": family_of("MyPipeline").label}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    copy = tmp_path_factory.mktemp("copy")
    for name in ("engine", "dashboard"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "data").symlink_to(ROOT / "data")
    (copy / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    for diff in DIFFS:
        subprocess.run(["git", "apply", "-"], cwd=copy, input=diff, text=True, check=True)
    (copy / "extended.toml").write_text(STUDY, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


def test_a_scheduler_a_metric_and_a_family_are_one_file_each(found: dict[str, Any]) -> None:
    assert [lane[:2] for lane in found["lanes"]] == [["ddim:2", "done"], ["my_euler:2", "done"]]
    assert found["scores"] == [["brightness", 2]]
    assert found["family"] == "My model"


def test_a_page_is_one_file_and_one_line_and_a_column_two_files(found: dict[str, Any]) -> None:
    assert found["page"] == [["Cells", "2"]]
    assert [lane[2] for lane in found["lanes"]] == [None, None]


def test_the_examples_are_as_short_as_they_are_said_to_be() -> None:
    added = {
        name: len(re.findall(r"^\+(?!\+\+ ).*\S", diff, re.MULTILINE)) for diff in DIFFS for name in [diff.split()[3]]
    }
    assert len(DIFFS) == 5
    assert added["b/my_schedulers.py"] <= 5
    assert added["b/my_metrics.py"] <= 12
    assert added["b/my_families.py"] <= 15
