"""What tests of the engine share: small studies, rows, model folders, and the command line in child processes."""

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.cache.connection import reading
from engine.cache.records import FrameRow, StepRow, TrajectoryRow
from engine.cache.writer import CacheWriter
from engine.environment import describe
from engine.measuring import metrics
from engine.measuring.metrics import METRICS, Metric
from engine.study.registry import Registry
from engine.study.source import find_model
from engine.study.study import Study, parse_study

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 120.0

# Children are forked from a server that has torch loaded already: a start takes milliseconds instead of seconds.
_CHILDREN = multiprocessing.get_context("forkserver")
_CHILDREN.set_forkserver_preload(
    [
        "engine.cli",
        "engine.sampling.models",
        "engine.sampling.gaussian",
        "engine.sampling.image_pass",
        "engine.measuring.lane_timing",
    ]
)


def small_study(**changes: Any) -> dict[str, Any]:
    """Plain data of a study that takes milliseconds."""
    plain = {
        "name": "small",
        "model": "gaussian",
        "prompts": ["disc"],
        "seeds": [0],
        "lanes": ["ddim:4", "euler:3"],
        "guidance_scale": 3.0,
        "frames": {"count": 2},
        "timing": {"repeats": 0},
    }
    return plain | changes


def parsed(**changes: Any) -> Study:
    """The small study, with changes."""
    return parse_study(small_study(**changes))


def write_study(path: Path, **changes: Any) -> Path:
    """The small study as a TOML file."""
    values = small_study(**changes)
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    for name, table in values.items():
        if isinstance(table, Mapping):
            lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        tables = ("{" + ", ".join(f"{key} = {_toml(item)}" for key, item in table.items()) + "}" for table in value)
        return f"[{', '.join(tables)}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_model(folder: Path, **index: Any) -> Path:
    """A folder that looks like a Stable Diffusion pipeline and can be found, but not loaded."""
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    folder.mkdir(parents=True)
    _json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", **parts, **index})
    _json(folder / "unet" / "config.json", {"sample_size": 8})
    _json(folder / "vae" / "config.json", {"block_out_channels": [1, 1, 1, 1]})
    _json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000})
    for part in ("unet", "vae"):
        save_file({"weight": np.arange(6, dtype=np.float32)}, folder / part / "diffusion_pytorch_model.safetensors")
    return folder


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def row(trajectory_id: str, **changes: Any) -> TrajectoryRow:
    """A row of a finished cell with two pictures and two step metrics."""
    values: dict[str, Any] = {
        "trajectory_id": trajectory_id,
        "scheduler": "ddim",
        "scheduler_label": "DDIM",
        "steps": 2,
        "lane": "ddim:2",
        "config_id": "c",
        "scheduler_config": {"beta_start": 0.1},
        "prompt": "disc",
        "negative_prompt": "",
        "seed": 0,
        "guidance_scale": 3.0,
        "width": 64,
        "height": 64,
        "dtype": "float32",
        "status": "done",
        "nfe": 2,
        "frame_count": 1,
        "frame_kinds": "x0",
        "frames": (
            FrameRow("x0", 1, 1.0, 1.0, 3.5, 64, 64, "webp", b"webp"),
            FrameRow("final", 1, 1.0, None, None, 64, 64, "png", b"png"),
        ),
        "measured": (
            StepRow(0, 0.5, -1.0, x0_change=0.25),
            StepRow(1, 1.0, 3.5, x0_change=0.125),
        ),
    }
    return TrajectoryRow(**values | changes)


def write_rows(path: Path, *rows: TrajectoryRow) -> None:
    """Writes rows in one transaction."""
    CacheWriter(path).trajectories(rows, find_model("gaussian"), describe("cpu"))


def write_one_by_one(path: Path, prefix: str, count: int) -> None:
    """Writes rows in a transaction each; for children."""
    writer, model, environment = CacheWriter(path), find_model("gaussian"), describe("cpu")
    for number in range(count):
        writer.trajectories([row(f"{prefix}{number}")], model, environment)


def use_metrics(patch: pytest.MonkeyPatch, *entries: Metric, scope: str = "") -> None:
    """Puts metrics in the place of all there are, or of those of a scope."""
    kept = [metric for metric in METRICS.values() if scope and metric.scope != scope]
    patch.setattr(metrics, "METRICS", Registry("metric", [*kept, *entries]))


def ask(cache: Path, question: str, *values: Any) -> list[tuple[Any, ...]]:
    """Rows of an SQL query."""
    with reading(cache) as db:
        return db.execute(question, list(values)).fetchall()


def committed(cache: Path) -> dict[str, Any]:
    """Done cells and when they were written; nothing while the cache is not there or not set up yet."""
    try:
        return dict(ask(cache, "SELECT trajectory_id, created_at FROM trajectories WHERE status = 'done'"))
    except Exception as error:
        young = isinstance(error.__cause__, duckdb.Error) or "schema 0" in str(error)
        if cache.exists() and (not young or "checksum" in str(error)):
            raise
        return {}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Waits for a condition, and fails with its name if it doesn't come true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(0.002)


@dataclass
class Child:
    """A command line running in a process of its own."""

    process: Any
    out: Path
    err: Path

    def events(self, name: str) -> int:
        """How many progress events of a name it has written so far."""
        return self.out.read_text().count(f'"event": "{name}"') if self.out.exists() else 0

    def made(self) -> int:
        """How many cells it says it has made so far."""
        return self.out.read_text().count('"what": "images", "done"')

    def wait(self) -> int:
        """Waits for its end; returns its exit code."""
        self.process.join(PATIENCE_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"still running after {PATIENCE_SECONDS:.0f} s:\n{self.err.read_text()}")
        return int(self.process.exitcode)


def start_engine(folder: Path, *arguments: object, max_file_bytes: int | None = None) -> Child:
    """Starts `python -m engine ARGUMENTS` with its output in files of a folder."""
    number = len(list(folder.glob("*.out")))
    child = Child(None, folder / f"{number}.out", folder / f"{number}.err")
    child.out.touch()
    child.process = _CHILDREN.Process(
        target=_engine, args=([str(argument) for argument in arguments], child.out, child.err, max_file_bytes)
    )
    child.process.start()
    return child


def start(function: Callable[..., None], *arguments: Any) -> Any:
    """Starts a function of this module in a child."""
    process = _CHILDREN.Process(target=function, args=arguments)
    process.start()
    return process


def _engine(arguments: list[str], out: Path, err: Path, max_file_bytes: int | None) -> None:
    from engine.cli import main

    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    code = 1
    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def peak_of_run(cache: Path, cells: int, answer: Path) -> None:
    """Runs a study of so many cells and writes the peak resident memory in MB to a file; for children."""
    from engine.passes.run import run_study

    study = parsed(seeds=list(range(cells // 2)), lanes=["ddim:6", "euler:6"], frames={"count": 6})
    summary = run_study(study, cache, device="cpu", max_batch=8)
    assert summary.done == cells
    unit = 1e6 if sys.platform == "darwin" else 1e3
    answer.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit))
