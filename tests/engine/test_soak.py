"""Runs, interrupts, kills and readers in a loop on one cache; `python -m tests.engine.soak 120` takes two hours."""

from pathlib import Path

import pytest

from tests.engine.soak import ENDINGS, soak

# An engine holds lists of all cells of its study, which are next to nothing.
MOST_GROWTH = 60e6


@pytest.mark.parametrize("seconds", [10, pytest.param(120, marks=pytest.mark.long)])
def test_whatever_ends_runs_loses_nothing_and_nothing_grows(seconds: float, tmp_path: Path) -> None:
    done = soak(tmp_path, seconds)
    assert done.wrong == []
    assert set(done.actions) == {"run", "two at once", *ENDINGS}
    assert done.reads > seconds
    early, late = done.peaks[: len(done.actions)], done.peaks[-len(done.actions) :]
    assert max(late) < max(early) + MOST_GROWTH, [round(peak / 1e6) for peak in done.peaks]
