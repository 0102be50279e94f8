"""Pages run without a browser, against synthetic caches."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"

OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The module that writes synthetic caches."""
    spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def usual_cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of four lanes, three prompts and two seeds; only read."""
    path = tmp_path_factory.mktemp("usual") / "cache.duckdb"
    synthetic.write(path)
    return path


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    """Call it as `open_page("compare", path, "--read-only", query={...})`: returns the page after its first run."""
    st.cache_data.clear()
    st.cache_resource.clear()

    def run(name: str, cache: Path | None, *arguments: str, query: dict[str, str] | None = None) -> AppTest:
        given = [] if cache is None else ["--cache", str(cache)]
        monkeypatch.setattr(sys, "argv", ["app.py", *given, *arguments])
        test = AppTest.from_file(str(APP), default_timeout=60)
        for key, value in (query or {}).items():
            test.query_params[key] = value
        if name != "overview":
            test.switch_page(f"views/{name}.py")
        return test.run()

    return run
