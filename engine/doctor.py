"""Checks the installation: what this machine offers, what a run would use, what is missing and how to get it."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time

import psutil

from engine import waiting
from engine.environment import DEVICES, cores, fast_bfloat16, processor_name, resolve_device, why_unusable
from engine.errors import LabError
from engine.paths import DEFAULT_CACHE
from engine.study.cells import resolve_dtype
from engine.study.source import EXAMPLE_HUB_ID, SHIPPED, find_model

REQUIRED = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "greenlet",
    "duckdb",
    "pyarrow",
    "pandas",
    "streamlit",
    "altair",
    "pillow",
    "scipy",
    "torchsde",
    "psutil",
    "rich",
)


def report() -> tuple[list[str], bool]:
    """Returns the lines of the report, and whether everything required is available."""
    problems: list[str] = []
    lines = [
        f"Python       {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"Processor    {processor_name()}, {cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB memory",
        *_packages(problems),
        *_device(problems),
        *_models(problems),
        _cache(),
    ]
    if problems:
        return [*lines, "", "Missing:", *(f"  {problem}" for problem in problems)], False
    return [*lines, "", "Everything required is available."], True


def _packages(problems: list[str]) -> list[str]:
    found = []
    for name in REQUIRED:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"package {name}: `pip install -r requirements.txt`")
    return [
        "Packages     " + ", ".join(found[i : i + 6]) if i == 0 else "             " + ", ".join(found[i : i + 6])
        for i in range(0, len(found), 6)
    ]


def _device(problems: list[str]) -> list[str]:
    if importlib.util.find_spec("torch") is None:
        return []
    start = time.monotonic()
    import torch

    from engine.sampling.models import usable

    took = time.monotonic() - start
    device = resolve_device("auto")
    if not usable(device):
        problems.append(
            f"a build of torch for '{device}' (this one is {torch.__version__}): see https://pytorch.org; "
            "until then run with --device cpu"
        )
        device = "cpu"
    lines = [f"Device       {device}, {resolve_dtype('auto', device)} (import of torch took {took:.1f} s)"]
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        lines.append(f"             {card.name}, {card.total_memory / 2**30:.0f} GiB")
        if card.total_memory < 7 * 2**30:  # a card of 8 GB tells somewhat less
            lines.append("             use --memory low on cards of this size")
    else:
        asked = os.environ.get("OMP_NUM_THREADS", "")
        lines.append(f"             {torch.get_num_threads()} threads (OMP_NUM_THREADS={asked}); {waiting.described()}")
        if unit := fast_bfloat16():
            lines.append(
                f'             {unit}: dtype = "bfloat16" in a study is faster than float32, and makes other pictures;'
                " `python -m engine noise STUDY` says by how much"
            )
    if not problems:
        from engine.rehearsal.telling import room_told

        lines.append(f"             {room_told(device, resolve_dtype('auto', device))}")
    others = [(other, why_unusable(other)) for other in DEVICES if other not in {"auto", device}]
    return [*lines, *(f"             not {other}: {why}" for other, why in others if why)]


def _models(problems: list[str]) -> list[str]:
    lines: list[str] = []
    for name in (*SHIPPED, "gaussian", EXAMPLE_HUB_ID):
        try:
            source = find_model(name)
            here = "ready" if source.fingerprint else f"not downloaded; a run does so, or `hf download {name}`"
        except LabError as error:
            here = f"unusable: {error}"
            problems.append(f"model {name}: {error}")
        lines.append(f"{'Models' if not lines else '':<13}{name}: {here}")
    return lines


def _cache() -> str:
    size = f"{DEFAULT_CACHE.stat().st_size / 1e6:,.0f} MB" if DEFAULT_CACHE.exists() else "none yet"
    folder = next(parent for parent in DEFAULT_CACHE.parents if parent.exists())
    return f"Cache        {DEFAULT_CACHE}: {size}; {shutil.disk_usage(folder).free / 1e9:.0f} GB free"
