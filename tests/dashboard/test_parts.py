"""The pieces below the pages: options, formats, images, the player's data, and what gets imported."""

import base64
import io
import math
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dashboard import images, state
from dashboard.options import OptionsError, parse
from engine.display import formats
from engine.paths import DEFAULT_CACHE

ROOT = Path(__file__).resolve().parents[2]


def test_the_default_cache_is_the_engines() -> None:
    assert parse([]).cache == DEFAULT_CACHE
    assert not parse([]).read_only
    assert parse(["--cache", "x.duckdb", "--read-only"]).read_only


@pytest.mark.parametrize("arguments", [["--nope"], ["--cache"], ["x.duckdb"], ["--read"]])
def test_wrong_arguments_raise_instead_of_ending_the_server(arguments: list[str]) -> None:
    with pytest.raises(OptionsError, match="Usage"):
        parse(arguments)


def test_no_page_and_no_module_of_the_dashboard_imports_torch() -> None:
    code = """
import importlib, pathlib, sys
for file in pathlib.Path("dashboard").glob("*.py"):
    if file.stem not in {"app", "__init__"}:
        importlib.import_module(f"dashboard.{file.stem}")
from streamlit.testing.v1 import AppTest
sys.argv = ["app.py", "--cache", "nowhere.duckdb"]
assert not AppTest.from_file("dashboard/app.py", default_timeout=20).run().exception
sys.exit(bool({"torch", "diffusers", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_durations_and_ratios_are_readable() -> None:
    assert formats.duration(8.123) == "8.12 ms"
    assert formats.duration(812.4) == "812 ms"
    assert [formats.duration(value) for value in (2_391, 12_345, 123_456)] == ["2.39 s", "12.3 s", "123 s"]
    assert formats.duration(math.nan) == formats.duration(None) == "–"
    assert formats.duration_range(77.31, 78.72) == "77.3 – 78.7 ms"
    assert formats.duration_range(9_000, 12_000) == "9.0 – 12.0 s"
    assert (formats.whole(pd.NA), formats.whole(np.int64(1024))) == ("–", "1,024")
    assert formats.ratio(2.456) == "2.46×"
    assert formats.ratio_range(math.nan, 1.0) == "–"
    assert formats.when(datetime(2026, 11, 3, 8, 12)) == "3 Nov 2026, 08:12 UTC"  # noqa: DTZ001 - UTC without a zone
    assert formats.count(1, "lane") == "1 lane"
    assert formats.count(2, "prompt") == "2 prompts"


def test_long_text_is_cut_to_one_line() -> None:
    assert formats.cut("a\nb  c", 10) == "a b c"
    assert formats.cut("x" * 10_000, 10) == "x" * 9 + "…"
    assert formats.cut(" " * 100 + "x", 10).endswith("…")


def test_prompts_that_look_alike_get_different_labels() -> None:
    prompts = ["a" * 200 + "1", "a" * 200 + "2", "", " "]
    labels = state.prompt_labels(prompts)
    assert len(set(labels.values())) == 4
    assert all(len(label) <= 90 for label in labels.values())


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_pictures_become_addresses_with_their_bytes_unchanged(kind: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), "teal").save(stream, kind)
    address = images.data_uri(stream.getvalue())
    assert address is not None
    head, _, data = address.partition(",")
    assert head == f"data:image/{kind.lower()};base64"
    assert base64.b64decode(data) == stream.getvalue()


@pytest.mark.parametrize("data", [b"", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n...", b"RIFF1234WEBP..."])
def test_nothing_else_does(data: bytes) -> None:
    assert images.data_uri(data) is None


def test_sentences_that_name_lanes_by_key_are_read_with_their_labels() -> None:
    labels = {"ddim:5": "DDIM 5", "ddim:50": "DDIM 50", "unipc:5": "UniPC 5", "tuned_unipc:5": "Tuned"}
    told = "Use unipc:5: it takes 25% of ddim:50's time. 30 more prompts would tell of tuned_unipc:5."
    assert formats.labelled(told, labels) == (
        "Use UniPC 5: it takes 25% of DDIM 50's time. 30 more prompts would tell of Tuned."
    )
    assert formats.labelled(told, {}) == told
