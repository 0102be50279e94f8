"""Runs that are killed or that are long: nothing is lost, nothing is made twice, and memory stays where it is."""

import gc
import signal
import threading
import weakref

import pytest

from engine.cache.writer import CacheWriter
from engine.errors import CacheError
from engine.passes import committing, context
from engine.passes.committing import GROUP_CELLS
from engine.passes.run import run_study
from engine.progress import interruptible
from engine.sampling import cell_maker
from engine.sampling.cell_maker import Picture, Sample
from tests.engine import helpers
from tests.engine.helpers import ask, committed, parsed, start, start_engine, wait_until, write_study

LANES = ["ddim:12", "euler:9", "dpmpp_2m:6"]
SEEDS = list(range(30))
# Finished cells at which the process is killed: early, as the first group is being written, and later.
KILLED_AT = (3, GROUP_CELLS, 2 * GROUP_CELLS, 21)


def test_a_run_that_is_killed_again_and_again_loses_and_repeats_nothing(tmp_path):
    cache = tmp_path / "c.duckdb"
    study = write_study(tmp_path / "a.toml", seeds=SEEDS, lanes=LANES, frames={"count": 3})
    safe = {}
    for moment in KILLED_AT:
        child = start_engine(tmp_path, "run", study, "--cache", cache, "--progress", "json", "--max-batch", 8)
        wait_until(lambda: child.made() >= moment or not child.process.is_alive(), f"{moment} cells")  # noqa: B023
        child.process.kill()
        assert child.wait() == -9, child.err.read_text()
        now = committed(cache)
        assert safe.items() <= now.items(), "what was committed is still there, and was not made again"
        safe = now
    assert 0 < len(safe) < len(LANES) * len(SEEDS)

    child = start_engine(tmp_path, "run", study, "--cache", cache, "--progress", "json")
    assert child.wait() == 0, child.err.read_text()
    assert child.made() == len(LANES) * len(SEEDS) - len(safe)
    assert safe.items() <= committed(cache).items()
    cells = ask(cache, "SELECT lane, seed, count(*) FROM trajectories WHERE status = 'done' GROUP BY ALL")
    assert sorted(cells) == sorted((lane, seed, 1) for lane in LANES for seed in SEEDS)
    assert ask(cache, "SELECT count(*), count(DISTINCT trajectory_id) FROM frames WHERE kind = 'final'") == [(90, 90)]
    doubled = "SELECT trajectory_id FROM {} GROUP BY trajectory_id, {} HAVING count(*) > 1"
    assert ask(cache, doubled.format("frames", "kind, step_index, video_frame")) == []
    assert ask(cache, doubled.format("steps", "step_index")) == []
    orphans = "SELECT DISTINCT trajectory_id FROM {} ANTI JOIN trajectories USING (trajectory_id)"
    assert ask(cache, orphans.format("frames")) == []
    assert ask(cache, orphans.format("steps")) == []


def test_an_interrupt_while_a_group_is_written_loses_nothing(tmp_path, monkeypatch):
    class Interrupted(CacheWriter):
        calls = 0

        def trajectories(self, rows, *rest):
            type(self).calls += 1
            if type(self).calls == 1:
                signal.raise_signal(signal.SIGINT)  # Python hears it in the main thread, which makes cells meanwhile
            super().trajectories(rows, *rest)

    monkeypatch.setattr(context, "CacheWriter", Interrupted)
    monkeypatch.setattr(committing, "GROUP_SECONDS", 1e9)
    with pytest.raises(KeyboardInterrupt), interruptible():
        run_study(parsed(seeds=list(range(60))), tmp_path / "c.duckdb", device="cpu", max_batch=4)
    [(kept,)] = ask(tmp_path / "c.duckdb", "SELECT count(*) FROM trajectories WHERE status = 'done'")
    assert GROUP_CELLS <= kept < 120


def test_what_a_commit_raises_ends_the_run_and_a_full_disk_is_told(tmp_path, monkeypatch):
    class Full(CacheWriter):
        def trajectories(self, rows, *rest):
            raise CacheError("the disk is full")

    monkeypatch.setattr(context, "CacheWriter", Full)
    with pytest.raises(CacheError, match="disk is full"):
        run_study(parsed(seeds=list(range(60))), tmp_path / "c.duckdb", device="cpu", max_batch=4)
    assert not any(thread.name == "committing" for thread in threading.enumerate())


def test_pictures_of_written_cells_are_let_go(tmp_path, monkeypatch):
    samples, pictures = weakref.WeakSet(), weakref.WeakSet()  # of this run; fixtures of other tests keep theirs
    alive = []

    class OwnSample(Sample):
        __hash__ = object.__hash__

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            samples.add(self)

    class OwnPicture(Picture):
        __hash__ = object.__hash__

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            pictures.add(self)

    class Watched(CacheWriter):
        def trajectories(self, rows, *rest):
            super().trajectories(rows, *rest)
            gc.collect()
            alive.append((len(samples), len(pictures)))

    monkeypatch.setattr(context, "CacheWriter", Watched)
    monkeypatch.setattr(cell_maker, "Sample", OwnSample)
    monkeypatch.setattr(cell_maker, "Picture", OwnPicture)
    monkeypatch.setattr(committing, "GROUP_SECONDS", 1e9)
    run_study(parsed(seeds=list(range(60))), tmp_path / "c.duckdb", device="cpu", max_batch=4)
    assert len(alive) >= 120 // GROUP_CELLS
    # A cell has a sample, and pictures of two steps of two kinds and the final one. Those in flight, waiting for the
    # decoder, and being measured and encoded are there: fewer than half of what is made.
    threads = [thread.name for thread in threading.enumerate()]
    assert all(made < 120 / 2 and drawn < 5 * 120 / 2 for made, drawn in alive), (alive, threads)
    assert max(made for made, drawn in alive) > 0
    assert max(drawn for made, drawn in alive) > 0


@pytest.mark.long
def test_ten_times_the_cells_take_the_same_memory(tmp_path):
    peaks = []
    for cells in (40, 400):
        answer = tmp_path / f"{cells}.txt"
        process = start(helpers.peak_of_run, tmp_path / f"{cells}.duckdb", cells, answer)
        process.join(helpers.PATIENCE_SECONDS)
        assert process.exitcode == 0
        peaks.append(float(answer.read_text()))
    assert peaks[1] - peaks[0] < 60, f"MB at 40 and at 400 cells: {peaks}"
