"""What fails inside one cell, frame or metric stays there: the rest goes on."""

from dataclasses import replace

import pytest

from engine.cache.connection import migrate, writing
from engine.cache.score_tables import ScoreRow, write_scores
from engine.measuring.evidence import Unmeasurable
from engine.measuring.metrics import METRICS, Metric
from engine.passes.plan import plan_study
from engine.passes.run import run_study
from engine.passes.scores import score
from engine.progress import Progress
from engine.sampling import cell_maker as sampling_cells
from engine.study.source import find_model
from tests.engine.helpers import ask, parsed, use_metrics

SSIM = METRICS["ssim_to_final"]


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
    use_metrics(monkeypatch, mine)
    progress = Notes()
    assert score(planned(study, cache), cache, progress).pictures.taken == 1
    assert ask(cache, "SELECT value FROM scores WHERE scope = 'frame' AND metric = 'mine'") == [(0.5,), (0.5,)]
    assert any("'mine'" in note and "frame" in note for note in progress.notes)


def test_a_metric_of_frames_that_raises_leaves_the_others_and_is_tried_again(cache, monkeypatch):
    study = parsed(lanes=["ddim:4"], frames={"count": 3})
    broken = replace(SSIM, key="broken", measure=raises)
    use_metrics(monkeypatch, broken, SSIM)
    progress = Notes()
    assert run_study(study, cache, device="cpu", progress=progress).failed == 1
    counted = "SELECT metric, count(value) FROM scores GROUP BY ALL HAVING count(value) > 0 ORDER BY ALL"
    assert ask(cache, counted) == [("ssim_to_final", 3)]
    assert any("damaged weights" in note for note in progress.notes)
    use_metrics(monkeypatch, replace(SSIM, key="broken"), SSIM)
    found = score(planned(study, cache), cache).frames
    assert (found.taken, found.failed) == (3, 0)
    assert ask(cache, counted) == [("broken", 3), ("ssim_to_final", 3)]


def test_a_damaged_picture_leaves_the_scores_of_other_cells(cache, monkeypatch):
    study = parsed(frames={"count": 3})
    use_metrics(monkeypatch)
    run_study(study, cache, device="cpu")
    with writing(cache) as db:
        db.execute(
            "UPDATE frames SET image = 'junk'::BLOB WHERE kind = 'final' AND trajectory_id IN "
            "(SELECT trajectory_id FROM study_trajectories WHERE lane = 'ddim:4')"
        )
    use_metrics(monkeypatch, METRICS["sharpness"], SSIM)
    result = score(planned(study, cache), cache)
    assert (result.pictures.taken, result.pictures.failed, result.frames.failed) == (1, 1, 1)
    reasons = ask(cache, "SELECT DISTINCT reason FROM scores WHERE value IS NULL AND scope <> 'lane'")
    assert len(reasons) == 1
    assert "cannot be decoded" in reasons[0][0]


def test_frames_of_which_nothing_can_be_said_are_looked_at_once(cache, monkeypatch):
    study, calls = parsed(lanes=["ddim:4"], frames={"count": 3}), []

    def constant(*_):
        calls.append(1)
        raise Unmeasurable("the final picture is constant")

    use_metrics(monkeypatch, replace(SSIM, key="never", measure=constant))
    run_study(study, cache, device="cpu")
    assert len(calls) == 3
    run_study(study, cache, device="cpu")
    assert len(calls) == 3


def test_scores_of_frames_written_twice_are_there_once(cache):
    migrate(cache)
    scored = ScoreRow("frame", "ssim_to_final", "1", 0.5, trajectory_id="a", kind="x0", step_index=0)
    write_scores(cache, [scored])
    write_scores(cache, [replace(scored, value=0.75)])
    assert ask(cache, "SELECT value FROM scores") == [(0.75,)]
