"""Compiled denoisers: few sizes, the same pictures, an environment of their own, and plain forwards for times."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.cli import main
from engine.measuring import lane_timing
from engine.measuring.formulas import relative_distance
from engine.sampling import compiling
from engine.sampling.compiling import BUCKETS, bucket, compile_denoisers, is_compiled, restore, uncompiled
from engine.sampling.image_pass import run_cells
from engine.sampling.models import Model
from engine.study.cells import Cell
from engine.study.frame_settings import FrameSettings
from tests.engine.helpers import ask, write_study
from tests.engine.miniatures import cells_of

Rows = list[int]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rows]:
    """Rows of the latents in each compilation, which leaves the operations as they are."""
    rows: Rows = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        rows.append(
            next(len(each) for each in inputs if isinstance(each, torch.Tensor) and each.shape[1:] == (4, 8, 8))
        )
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    yield rows
    torch.compiler.reset()


def latents_of(model: Model, cells: list[Cell], max_batch: int) -> dict[str, np.ndarray]:
    with torch.no_grad():
        samples = list(run_cells(model, cells, FrameSettings(count=0), max_batch))
    assert [sample.error for sample in samples] == [None] * len(cells)
    return {sample.cell.trajectory_id: sample.final for sample in samples if sample.final is not None}


def conv_weights(model: Model) -> list[torch.Tensor]:
    return [layer.weight for layer in model.denoiser.modules() if isinstance(layer, nn.Conv2d)]


def test_forwards_are_compiled_for_few_sizes_channels_last_and_make_the_same_pictures(
    sd_model: Model, sd_folder: Path, traced: Rows
) -> None:
    model = replace(sd_model, device="cuda")  # in name only: it asks for channels-last weights
    cells = cells_of(sd_folder, ["ddim:3", "euler:4", "heun:2"], guidance_scale=5.0)
    plain = latents_of(model, cells, 8)
    compile_denoisers(model)
    try:
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in conv_weights(model))
        found = latents_of(model, cells, 8)
        with uncompiled(model):
            assert not is_compiled(model.denoiser)
            assert all(weight.is_contiguous() for weight in conv_weights(model))
        assert is_compiled(model.denoiser)
    finally:
        restore(model)
    assert traced == [8, 2], "three guided cells as four, the last call of one alone, and nothing compiled twice"
    assert all(weight.is_contiguous() for weight in conv_weights(model))
    assert max(relative_distance(found[key], plain[key]) for key in plain) < 1e-4


@pytest.mark.parametrize(
    ("cells", "most", "size"), [(1, 32, 1), (3, 32, 4), (5, 6, 4), (17, 32, 16), (9, 16, 16)], ids=str
)
def test_a_forward_is_filled_up_to_the_next_size_and_never_beyond_what_memory_holds(
    cells: int, most: int, size: int
) -> None:
    assert bucket(cells, most) == size
    assert size in BUCKETS


@pytest.mark.parametrize(("flag", "timed_compiled"), [("--compile", False), ("--compile-timing", True)])
def test_what_was_compiled_is_part_of_the_environment_and_times_are_of_plain_forwards_unless_asked(
    flag: str,
    timed_compiled: bool,
    sd_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[bool] = []
    once = lane_timing.time_once
    # As if compiled: really compiling is another test's, and takes its time.
    monkeypatch.setattr(nn.Module, "compile", lambda part, **_: setattr(part, "_compiled_call_impl", part._call_impl))

    def watched(model: Model, *arguments: Any) -> Any:
        called.append(is_compiled(model.denoiser))
        return once(model, *arguments)

    monkeypatch.setattr(lane_timing, "time_once", watched)
    study = write_study(
        tmp_path / "a.toml",
        model=str(sd_folder),
        prompts=["red apple"],
        lanes=["ddim:2"],
        frames={"count": 0},
        timing={"repeats": 1, "warmup": 0},
    )
    cache = tmp_path / "c.duckdb"
    command = ["run", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none"]
    assert main([*command, flag]) == 0
    [[made]] = ask(cache, "SELECT details FROM trajectories JOIN environments USING (environment_id)")
    [[timed]] = ask(cache, "SELECT DISTINCT details FROM timings JOIN environments USING (environment_id)")
    assert json.loads(made)["compiled"] == "inductor"
    assert ("compiled" in json.loads(timed)) is timed_compiled
    assert called == [timed_compiled]
    cell = ask(cache, "SELECT trajectory_id FROM trajectories")
    assert main(command) == 0
    assert ask(cache, "SELECT trajectory_id FROM trajectories") == cell, "the same cell, as with another batch size"


def test_where_nothing_can_be_compiled_the_run_ends_before_it_writes(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    study, cache = write_study(tmp_path / "a.toml"), tmp_path / "c.duckdb"
    command = ["run", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none", "--compile"]
    assert main([*command, "--memory", "low"]) == 2
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "--compile does not go with --memory low" in said
    assert "install g++, or run without --compile" in said
    assert not cache.exists()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_forwards_compiled_by_inductor_make_the_pictures_of_plain_ones(sd_model: Model, sd_folder: Path) -> None:
    compiling.check_compiling("cpu", "standard")
    cells = cells_of(sd_folder, ["ddim:3", "dpmpp_2m:3", "euler:3"], guidance_scale=5.0)
    plain = latents_of(sd_model, cells, 4)
    compile_denoisers(sd_model)
    try:
        found = latents_of(sd_model, cells, 4)
    finally:
        restore(sd_model)
        torch.compiler.reset()
    distances = [relative_distance(found[key], plain[key]) for key in plain]
    assert 0 < max(distances) < 1e-3, "other kernels round in another way, and only that"
