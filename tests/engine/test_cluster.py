"""Cells made on a Ray cluster are those of one process, each once, whatever happens to workers and driver."""

import io
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from diffusers import DDIMScheduler
from PIL import Image

from engine import cluster_bench
from engine.cluster_bench import describe_cluster_bench, run_cluster_bench
from engine.environment import Environment, describe
from engine.errors import LabError
from engine.passes import cluster as cluster_module
from engine.passes.cluster import Cluster
from engine.passes.context import open_context
from engine.passes.images import ImageJob
from engine.passes.run import run_study
from engine.progress import Progress
from engine.study.cells import cells
from tests.engine.helpers import ask, committed, parsed, start_engine, wait_until, write_study

HERE = "tests.engine.test_cluster"
STUDY: dict[str, Any] = {"seeds": list(range(40)), "lanes": ["ddim:12", "euler:9"], "frames": {"count": 2}}
PICTURES = """
    SELECT lane, seed, kind, step_index, image FROM frames JOIN trajectories USING (trajectory_id)
    WHERE status = 'done' ORDER BY ALL
"""
ONCE = "SELECT count(*), count(DISTINCT trajectory_id) FROM trajectories WHERE status = 'done'"


class EndsItsWorker(DDIMScheduler):
    """Kills every process that runs it but the one that looks ahead."""

    def step(self, *args: Any, **options: Any) -> Any:
        if makes_cells(psutil.Process()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(*args, **options)


def makes_cells(process: psutil.Process) -> bool:
    try:
        return "ray::CellWorker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def workers(driver: int | None = None) -> list[psutil.Process]:
    """Processes that make cells for a driver: this process unless given."""
    return [process for process in psutil.Process(driver).children(recursive=True) if makes_cells(process)]


def kill_a_worker() -> None:
    workers()[0].kill()


class Disturbs(Progress):
    """Does something bad whenever so many cells are done."""

    def __init__(self, disturb: Callable[[], object], *moments: int) -> None:
        self.disturb, self.moments, self.done = disturb, list(moments), 0
        self.notes: list[str] = []

    def advance(self, units: int, detail: str = "") -> None:
        self.done += units
        if self.moments and self.done >= self.moments[0]:
            self.moments.pop(0)
            self.disturb()

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def two() -> Iterator[Cluster]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
    with Cluster("local", cores=2) as cluster:
        yield cluster


def test_without_ray_the_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LabError, match=r"scheduler-lab\[cluster\]"), Cluster("local"):
        pass


class TaskFault(RuntimeError):
    """Raised by the code of a worker."""


class PretendRay:
    """As much of Ray as two nodes need: the second refuses its worker, then the first dies; later ones are sound."""

    exceptions = SimpleNamespace(RayError=RuntimeError, RayTaskError=TaskFault)

    def __init__(self) -> None:
        self.nodes, self.hired = 2, 0

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.nodes)}

    def remote(self, **_: Any) -> Callable[[type], Any]:
        return lambda _: SimpleNamespace(remote=self.hire)

    def hire(self, order: Any) -> Any:
        self.hired += 1
        prepared, making = partial(self.prepared, self.hired), SimpleNamespace(remote=self.made)
        return SimpleNamespace(
            prepare=SimpleNamespace(remote=lambda: prepared), make=SimpleNamespace(options=lambda **_: making)
        )

    def prepared(self, number: int) -> Environment:
        if number == 2:
            raise TaskFault("other files of the model")
        return describe("cpu")

    def made(self, unit: list[ImageJob]) -> Iterator[Any]:
        if self.hired == 2:
            self.nodes = 1
            raise RuntimeError("the node died")
        yield from (SimpleNamespace(trajectory_id=job.cell.trajectory_id, nfe=1) for job in unit)

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        assert references, "nothing is waited for"
        return references[:1], references[1:]

    def get(self, answer: Any) -> Any:
        return answer() if callable(answer) else answer

    def kill(self, actor: Any) -> None:
        """Nothing runs here."""


def test_when_no_worker_is_left_the_run_says_why_and_another_order_finds_new_ones(tmp_path: Path) -> None:
    cluster, study = Cluster(), parsed(**STUDY)
    cluster._ray = ray = PretendRay()
    context = open_context(study, tmp_path / "c.duckdb", device="cpu")
    jobs = [ImageJob(cell) for cell in cells(study, context.source, "cpu")]
    with pytest.raises(LabError, match="No worker is left for 80 cells; others were refused: other files of the model"):
        list(cluster.make(context, jobs, lambda _: None))
    made = list(cluster.make(replace(context, dtype="bfloat16"), jobs, lambda _: None))
    assert sorted(each.row.trajectory_id for each in made) == sorted(job.cell.trajectory_id for job in jobs)
    assert (ray.nodes, ray.hired) == (1, 3)


def test_a_cluster_without_the_device_of_the_cells_is_refused_unless_it_is_said_to_grow(tmp_path: Path) -> None:
    cluster, study = Cluster(), parsed(**STUDY)
    cluster._ray = ray = PretendRay()
    ray.cluster_resources = lambda: {"GPU": 4.0}  # type: ignore[method-assign]
    context = open_context(study, tmp_path / "c.duckdb", device="cpu")
    jobs = [ImageJob(cell) for cell in cells(study, context.source, "cpu")]
    with pytest.raises(LabError, match=r"has no CPU, .* how many workers it may have: --workers N"):
        list(cluster.make(context, jobs, lambda _: None))
    assert ray.hired == 0


@pytest.mark.long
@pytest.mark.parametrize("together", [1, None], ids=["each cell by itself", "cells that share forwards"])
def test_two_workers_give_the_cache_of_one_process(two: Cluster, together: int | None, tmp_path: Path) -> None:
    alone, shared, study = tmp_path / "one.duckdb", tmp_path / "two.duckdb", parsed(**STUDY)
    run_study(study, alone, device="cpu", max_batch=together)
    wait_for_both(two, tmp_path, together)
    outcome = run_study(study, shared, device="cpu", max_batch=together, cluster=two)
    assert (outcome.done, outcome.failed, two.ready) == (80, 0, 2)
    cells = "SELECT trajectory_id, nfe, reading, scheduler_config FROM trajectories ORDER BY ALL"
    assert ask(alone, cells) == ask(shared, cells)
    here, there = ask(alone, PICTURES), ask(shared, PICTURES)
    assert [row[:-1] for row in here] == [row[:-1] for row in there]
    if together == 1:
        assert here == there, "byte for byte"
    else:
        assert max(differs(one[-1], other[-1]) for one, other in zip(here, there, strict=True)) <= 2
    assert run_study(study, shared, device="cpu", cluster=two).cached == 80


def wait_for_both(cluster: Cluster, folder: Path, together: int | None) -> None:
    """Makes other cells until both workers have loaded the model."""
    for seed in itertools.count(1000):
        run_study(parsed(seeds=[seed], lanes=STUDY["lanes"]), folder / "w.duckdb", max_batch=together, cluster=cluster)
        if cluster.ready == 2:
            return


def differs(one: bytes, other: bytes) -> int:
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int) for data in (one, other)]
    return int(np.abs(pictures[0] - pictures[1]).max())


@pytest.mark.long
def test_workers_killed_three_times_in_mid_study_leave_each_cell_once(two: Cluster, tmp_path: Path) -> None:
    cache, progress = tmp_path / "c.duckdb", Disturbs(kill_a_worker, 5, 25, 45)
    wait_for_both(two, tmp_path, 4)
    outcome = run_study(parsed(**STUDY), cache, device="cpu", max_batch=4, cluster=two, progress=progress)
    assert progress.moments == []
    assert sum("a worker was lost" in note for note in progress.notes) == 3
    assert (outcome.done, outcome.failed) == (80, 0)
    assert ask(cache, ONCE) == [(80, 80)]
    assert ask(cache, "SELECT count(*) FROM frames WHERE kind = 'final'") == [(80,)]


@pytest.mark.long
def test_a_node_that_dies_in_mid_study_leaves_each_cell_once(tmp_path: Path) -> None:
    seeds = range(400)  # a worker outlives its node for some seconds
    machines = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
    nodes = machines.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = nodes.add_node(num_cpus=1)
        progress = Disturbs(lambda: nodes.remove_node(second, allow_graceful=False), 25)
        with Cluster(nodes.address) as cluster:
            wait_for_both(cluster, tmp_path, 4)
            study = parsed(**STUDY | {"seeds": list(seeds)})
            outcome = run_study(
                study, tmp_path / "c.duckdb", device="cpu", max_batch=4, cluster=cluster, progress=progress
            )
        assert (outcome.done, outcome.failed, progress.moments) == (2 * len(seeds), 0, [])
        assert any("a worker was lost" in note for note in progress.notes), progress.notes
        assert ask(tmp_path / "c.duckdb", ONCE) == [(2 * len(seeds),) * 2]
    finally:
        nodes.shutdown()


@pytest.mark.long
def test_a_cell_that_kills_its_workers_fails_alone(
    two: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "MOST_LOSSES", 3)
    lethal = {"key": "lethal:4", "scheduler_class": f"{HERE}:EndsItsWorker", "steps": 4}
    study = parsed(lanes=[f"ddim:{steps}" for steps in range(3, 13)], lane=[lethal])
    outcome = run_study(study, tmp_path / "c.duckdb", device="cpu", max_batch=8, cluster=two)
    assert (outcome.done, outcome.failed) == (10, 1)
    [(lane, reason)] = ask(tmp_path / "c.duckdb", "SELECT lane, error FROM trajectories WHERE status = 'failed'")
    assert lane == "lethal:4"
    assert reason.startswith("LostWorker: 3 workers were lost over this cell")


@pytest.mark.long
def test_a_driver_that_is_interrupted_or_killed_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    study, cache = write_study(tmp_path / "a.toml", **(STUDY | {"seeds": list(range(150))})), tmp_path / "c.duckdb"
    run = ("run", study, "--cache", cache, "--progress", "json", "--max-batch", 2)
    safe: dict[str, Any] = {}
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)):
        child = start_engine(tmp_path, *run, "--ray", "local", "--workers", 2)
        wait_until(lambda: child.made() >= 20 or not child.process.is_alive(), "20 cells")  # noqa: B023
        makers = workers(child.process.pid)
        os.kill(child.process.pid, number)
        assert child.wait() == code, child.err.read_text()
        now = committed(cache)
        assert safe.items() <= now.items()
        safe = now
        _, alive = psutil.wait_procs(makers, timeout=60)
        assert not any(map(makes_cells, alive)), "workers end with their driver"
    assert 0 < len(safe) < 300
    child = start_engine(tmp_path, *run, "--ray", "local", "--workers", 2)
    assert child.wait() == 0, child.err.read_text()
    assert child.made() == 300 - len(safe)
    assert ask(cache, ONCE) == [(300, 300)]


@pytest.mark.long
def test_the_bench_tells_times_by_workers_and_the_speed_of_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(cluster_bench, "WRITING_SECONDS", 0.1)
    found = run_cluster_bench("gaussian", 1, lambda _: None)
    assert (found["cells"], list(found["seconds"])) == (16, [1, 2])
    assert found["two_over_one"] == found["seconds"][2] / found["seconds"][1]
    rates = found["cells_written_a_second_by_megabytes_a_cell"]
    assert rates[0.02] > rates[4.5] > 0
    assert "cells a second" in describe_cluster_bench(found)
