"""The benchmark writes the figures it promises; how large they are is no matter of tests."""

import contextlib
import json
from concurrent.futures import Future

import pytest

from engine import bench
from engine.cli import main


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Fewer and shorter lanes, no second way of waiting, and one small run for the memory figures."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(bench, "LANES", ("ddim:3", "euler:2"))
    monkeypatch.setattr(bench, "_memory_by_cells", lambda: {2: bench.peak_memory_of_run(2, tmp_path)})


def test_bench_writes_the_documented_figures(quick, tmp_path, capsys):
    file = tmp_path / "bench.json"
    assert main(["bench", "--model", "gaussian", "--device", "cpu", "--repeats", "1", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert {"device", "device_name", "torch", "diffusers", "details", "measured_at"} <= set(result["environment"])
    assert result["pictures"] == 2 * 2 * 2
    for way in ("loop", "batched", "engine"):
        assert result[way]["images_per_second"] == pytest.approx(8 / result[way]["median_seconds"])
        assert len(result[way]["seconds"]) == 1
        assert 0 < result[way]["share_outside_denoiser_and_decoder"] < result[way]["share_outside_denoiser"] < 1
        assert result[way]["peak_memory_mb"] > 1
    for other in ("loop", "batched"):
        expected = result[other]["seconds"][0] / result["engine"]["seconds"][0]
        assert result[f"engine_over_{other}"] == pytest.approx(expected)
        assert result[f"engine_over_{other}_range"] == [pytest.approx(expected)] * 2
    assert list(result["peak_memory_by_cells_mb"]) == ["2"]
    assert result["peak_memory_by_cells_mb"]["2"] > 1
    said = capsys.readouterr().out
    assert "engine over loop" in said
    assert "2 cells" in said


def test_a_cell_that_fails_ends_the_benchmark(monkeypatch):
    monkeypatch.setattr("engine.sampling.cell_maker.pipeline_arguments", lambda pipe, cell: 1 / 0)
    with pytest.raises(RuntimeError, match="ddim:3 failed: ZeroDivisionError"):
        bench.generate("engine", bench.Task("gaussian", "cpu", ("ddim:3",), None))


def test_plain_diffusers_competes_with_threads_that_spin_too_unless_the_user_chose(monkeypatch):
    started = []

    class Pool(contextlib.nullcontext):
        def submit(self, call, way, task):
            future = Future()
            future.set_result(bench.BenchSample(2.0 if way.endswith("loop") else 1.0, 0.5, 0.75, 100.0))
            return future

    monkeypatch.setattr(bench.Contestant, "start", lambda self: started.append(self) or Pool(Pool()))
    for name, bound in (("GOMP_SPINCOUNT", "10000"), ("KMP_BLOCKTIME", "1")):
        monkeypatch.setenv(name, bound)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    task = bench.Task("gaussian", "cpu", ("ddim:3",), None)
    samples = bench._compete(task, 2, lambda text: None)
    assert all(len(taken) == 2 for taken in samples.values()), "the warm-up does not count"
    spinning = {(who.way, who.spins) for who in started}
    assert spinning == {("loop", False), ("batched", False), ("engine", False), ("loop", True), ("batched", True)}
    started.clear()
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    bench._compete(task, 2, lambda text: None)
    assert not any(who.spins for who in started)


@pytest.mark.long
def test_growth_tells_what_a_cell_of_a_large_study_costs_beside_one_of_a_small_one(tmp_path, capsys):
    file = tmp_path / "growth.json"
    assert main(["bench", "--growth", "8", "32", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert [found[size]["cells"] for size in ("few", "many")] == [8, 32]
    assert found["many"]["forwards"] == 4 * found["few"]["forwards"] == 40, (
        "eight cells of ten calls share each forward"
    )
    assert found["few"]["commits"] == 1
    ratios = found["a cell of many over a cell of few"]
    assert ratios["forwards"] == 1
    assert ratios["file_over_fresh_copy"] == found["many"]["file_bytes"] / found["many"]["fresh_bytes"]
    assert all(ratio > 0 for ratio in ratios.values())
    assert "peak memory" in capsys.readouterr().out
