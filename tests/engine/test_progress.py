"""Progress for people: the bar moves while the first cells are still on their way."""

import contextlib
import io
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


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_a_pass_is_one_line_on_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "REFRESH_SECONDS", -1)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    bar = BarProgress()
    bar.calls(1, 2)  # no pass has begun
    bar.start("images", 16, "cells")
    bar.calls(1234, 5678)
    bar.note("Failed: \x1b]0;title\x07 [bold]x[/bold]")
    bar.advance(16)
    bar.finish({})
    told = terminal.getvalue()
    assert "0 of 16 cells" in told
    assert "calls a second" in told
    assert "\x1b]0;" not in told, "a note gives the terminal no orders"
    assert "[bold]x[/bold]" in told
    assert told.count("\n") <= 4, "the line is drawn over, not again"


def test_where_there_is_no_terminal_a_pass_is_a_line_every_ten_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = BarProgress()
    bar.start("images", 300, "cells")
    for _ in range(300):
        now[0] += 0.1
        bar.advance(1, "ddim:50")
    bar.finish({})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "images: 0 of 300 cells"
    assert lines[-1] == "images: 300 of 300 cells"
    assert 4 <= len(lines) <= 5
    assert any("left" in line for line in lines)
    bar.start("evaluations", 0, "pictures")  # how many, nobody knows
    bar.advance(2)
    bar.finish({})
    assert capsys.readouterr().err.splitlines()[-1] == "evaluations: 2 pictures"


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
