"""Miniature models, written once a session, and loaded once as the engine loads them."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engine.sampling.models import Model


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.engine import miniatures

    return miniatures.write_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.engine import miniatures

    return miniatures.write_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def animatediff_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.engine import miniatures

    return miniatures.write_animatediff(tmp_path_factory.mktemp("animatediff"))


@pytest.fixture(scope="session")
def sd_model(sd_folder: Path) -> "Model":
    return _loaded(str(sd_folder))


@pytest.fixture(scope="session")
def sdxl_model(sdxl_folder: Path) -> "Model":
    return _loaded(str(sdxl_folder))


@pytest.fixture(scope="session")
def animatediff_model(animatediff_folder: Path) -> "Model":
    return _loaded(str(animatediff_folder))


@pytest.fixture(scope="session")
def gaussian_model() -> "Model":
    return _loaded("gaussian")


def _loaded(name: str) -> "Model":
    from engine.sampling.models import load
    from engine.study.source import find_model

    return load(find_model(name), "cpu", "float32")
