"""Progress for people: the bar moves while the first cells are still on their way."""

import contextlib
import signal

import pytest

from engine import progress
from engine.passes.run import run_study
from engine.progress import BarProgress, JsonProgress, Progress, interruptible
from tests.engine.helpers import parsed


class Calls(Progress):
    """Remembers what it is told of calls and cells, in order."""

    def __init__(self):
        self.told = []

    def calls(self, done, expected):
        self.told.append((done, expected))

    def advance(self, units, detail=""):
        self.told.append("cell")


def test_calls_are_told_before_the_first_cell_is_done_and_add_up(tmp_path):
    seen = Calls()
    run_study(parsed(seeds=[0, 1]), tmp_path / "c.duckdb", device="cpu", progress=seen)
    assert seen.told[0] != "cell"
    counts = [entry for entry in seen.told if entry != "cell"]
    assert {expected for _, expected in counts} == {14}, "two seeds of 4 and 3 calls"
    assert [done for done, _ in counts] == sorted(done for done, _ in counts)
    assert counts[-1] == (14, 14)


def test_the_bar_shows_the_calls_behind_it(capsys, monkeypatch):
    monkeypatch.setattr(progress, "REFRESH_SECONDS", -1)
    bar = BarProgress()
    bar.calls(1, 2)  # no pass has begun
    bar.start("images", 16, "cells")
    bar.calls(1234, 5678)
    bar.finish({})
    told = capsys.readouterr().err
    assert "0/16" in told
    assert "1,234 of 5,678 denoiser calls" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", [Progress, BarProgress, JsonProgress])
def test_an_interrupt_that_was_dropped_is_raised_again_by_the_next_progress(kind, number):
    before = signal.getsignal(number)
    with interruptible():
        with contextlib.suppress(KeyboardInterrupt):  # as Python drops what is raised while it tidies up
            signal.raise_signal(number)
        for told in (lambda: kind().advance(1), lambda: kind().calls(1, 2)):
            with pytest.raises(KeyboardInterrupt):
                told()
    kind().advance(1)
    assert signal.getsignal(number) == before
