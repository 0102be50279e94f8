"""What the container images may hold, read from the list of what they leave out."""

import re
from pathlib import PurePosixPath

import pytest

from engine.paths import ROOT


def is_left_out(path: str) -> bool:
    """Whether a path of the repository matches the list, by itself or by a folder above it, as Docker reads it."""
    patterns = [line for line in (ROOT / ".containerignore").read_text().splitlines() if line and line[0] != "#"]
    places = [path, *map(str, PurePosixPath(path).parents)]
    return any(re.fullmatch(_expression(pattern), place) for pattern in patterns for place in places)


def _expression(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*)", pattern)
    return "".join({"**/": "(.*/)?", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)


@pytest.mark.parametrize(
    "path",
    [
        "dashboard/.streamlit/secrets.toml",
        ".streamlit/secrets.toml",
        "data/cache.duckdb",
        "mine.duckdb",
        "mine.duckdb.wal",
        "data/cache.duckdb.runs/000001/study.toml",
        "elsewhere.runs/runner.log",
        ".venv/bin/python",
        ".env",
        "dashboard/__pycache__/app.cpython-311.pyc",
    ],
)
def test_secrets_results_and_environments_stay_out_of_the_images(path: str) -> None:
    assert is_left_out(path)


@pytest.mark.parametrize(
    "path",
    [
        "dashboard/app.py",
        "dashboard/.streamlit/config.toml",
        "dashboard/jobs/queue.py",
        "data/claims.toml",
        "engine/passes/run.py",
        "requirements.txt",
        "pyproject.toml",
    ],
)
def test_what_the_lab_runs_with_is_in_the_images(path: str) -> None:
    assert (ROOT / path).is_file()
    assert not is_left_out(path)


def test_docker_and_podman_leave_out_the_same() -> None:
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()


def test_a_study_file_that_the_guide_runs_in_a_container_is_mounted_there() -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text().replace("\\\n", " ")
    lines = [line for line in guide.splitlines() if " engine run /" in " ".join(line.split())]
    assert lines
    for line in lines:
        (study,) = re.findall(r"engine\s+run (/\S+)", line)
        assert f":{study}:ro" in line
