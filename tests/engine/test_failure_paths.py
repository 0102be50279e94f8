"""What fails inside one cell, frame or metric stays there: the rest goes on."""

from dataclasses import replace

import pytest

from engine.cache.connection import migrate
from engine.cache.phases import PhasesWriter
from engine.cache.quality import FrameScoreRow
from engine.frame_scoring import score_frames
from engine.measuring.evidence import Unmeasurable
from engine.measuring.frame_metrics import FRAME_METRICS
from engine.measuring.metrics import Metric
from engine.passes.plan import plan_study
from engine.passes.run import run_study
from engine.progress import Progress
from engine.sampling import cell_maker as sampling_cells
from engine.scoring import score
from engine.study.source import find_model
from tests.engine.helpers import ask, parsed

SSIM = next(metric for metric in FRAME_METRICS if metric.key == "ssim_to_final")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "c.duckdb"


class Notes(Progress):
    """Remembers what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def planned(study, cache):
    return plan_study(study, find_model("gaussian"), cache, "cpu", "standard")


def raises(*_):
    raise OSError("damaged weights")


def test_a_cell_whose_steps_cannot_be_measured_fails_alone(cache, monkeypatch):
    real = sampling_cells.octaves

    def octaves(x0, final):
        if len(x0) == 4:
            raise MemoryError("no room for the spectra")
        return real(x0, final)

    monkeypatch.setattr(sampling_cells, "octaves", octaves)
    summary = run_study(parsed(), cache, device="cpu")
    assert (summary.done, summary.failed) == (1, 1)
    assert ask(cache, "SELECT lane, error FROM trajectories WHERE status = 'failed'") == [
        ("ddim:4", "MemoryError: no room for the spectra")
    ]


@pytest.mark.parametrize("bad", [lambda evidence: 1 / 0, lambda evidence: float("nan")])
def test_a_metric_that_fails_on_a_frame_keeps_the_other_values(bad, cache, monkeypatch):
    study = parsed(lanes=["ddim:4"], frames={"count": 3})
    run_study(study, cache, device="cpu")
    calls = []

    def measure(evidence):
        calls.append(evidence)
        return bad(evidence) if len(calls) == 2 else 0.5  # the final picture, then the first frame

    mine = Metric("mine", "Mine", "", "neither", "1", measure, "fails on one frame", on_frames=True)
    monkeypatch.setattr("engine.scoring.METRICS", {"mine": mine})
    progress = Notes()
    assert score(planned(study, cache), cache, progress).scored == 1
    assert ask(cache, "SELECT value FROM frame_quality WHERE metric = 'mine'") == [(0.5,), (0.5,)]
    assert any("'mine'" in note and "frame" in note for note in progress.notes)


def test_a_metric_of_frames_that_raises_leaves_the_others_and_is_tried_again(cache, monkeypatch):
    study = parsed(lanes=["ddim:4"], frames={"count": 3})
    broken = replace(SSIM, key="broken", measure=raises)
    monkeypatch.setattr("engine.frame_scoring.FRAME_METRICS", (broken, SSIM))
    progress = Notes()
    assert run_study(study, cache, device="cpu", progress=progress).failed == 1
    counted = "SELECT metric, count(*) FROM frame_quality GROUP BY ALL ORDER BY ALL"
    assert ask(cache, counted) == [("ssim_to_final", 3)]
    assert any("damaged weights" in note for note in progress.notes)
    monkeypatch.setattr("engine.frame_scoring.FRAME_METRICS", (replace(SSIM, key="broken"), SSIM))
    assert score_frames(planned(study, cache), cache) == (3, 0)
    assert ask(cache, counted) == [("broken", 3), ("ssim_to_final", 3)]


def test_frames_of_which_nothing_can_be_said_are_looked_at_once(cache, monkeypatch):
    study, calls = parsed(lanes=["ddim:4"], frames={"count": 3}), []

    def constant(*_):
        calls.append(1)
        raise Unmeasurable("the final picture is constant")

    monkeypatch.setattr("engine.frame_scoring.FRAME_METRICS", (replace(SSIM, key="never", measure=constant),))
    run_study(study, cache, device="cpu")
    assert len(calls) == 3
    run_study(study, cache, device="cpu")
    assert len(calls) == 3


def test_scores_of_frames_written_twice_are_there_once(cache):
    migrate(cache)
    scored = FrameScoreRow("a", "x0", 0, "ssim_to_final", "1", 0.5)
    PhasesWriter(cache).frame_scores([scored])
    PhasesWriter(cache).frame_scores([replace(scored, value=0.75)])
    assert ask(cache, "SELECT value FROM frame_quality") == [(0.75,)]
