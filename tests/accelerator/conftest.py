"""The pretend accelerator, where there is a compiler for its device guards, and miniatures loaded on it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.measuring.clip import judge_on
from tests.accelerator import pretend


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the device guards of the pretend accelerator with")
    pretend.build_guard(tmp_path_factory.mktemp("guard"), compiler)


@pytest.fixture
def cuda(guard: None) -> Iterator[pretend.Accelerator]:
    with pretend.accelerator("cuda") as accelerator:
        yield accelerator
    judge_on("")


@pytest.fixture
def mps(guard: None) -> Iterator[pretend.Accelerator]:
    with pretend.accelerator("mps") as accelerator:
        yield accelerator
    judge_on("")


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.engine import miniatures

    return miniatures.write_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.engine import miniatures

    return miniatures.write_sdxl(tmp_path_factory.mktemp("sdxl"))
