"""Passes work on lists of cells, in one process, with one model, and know what of a list is missing."""

from dataclasses import replace

import pytest

from engine.cache import queries
from engine.cache.connection import reading
from engine.passes import images
from engine.passes.context import MadeCell, open_context
from engine.passes.images import NO_FRAMES, ImageJob, expected_bytes, expected_calls, make_images, missing_images
from engine.passes.timing import missing_timings, take_times
from engine.sampling import models
from engine.study.cells import cells
from engine.study.frame_settings import FrameSettings
from engine.study.pipeline_settings import PipelineSettings
from engine.study.study import TimingSettings
from tests.engine.exchanging import outcome
from tests.engine.helpers import ask, parsed

FRAMES = FrameSettings(count=2)


@pytest.fixture
def study():
    return parsed(lanes=["ddim:4", "euler:3"], baseline="ddim:4", prompts=["disc", "ring"], seeds=[0])


@pytest.fixture
def context(study, tmp_path):
    return open_context(study, tmp_path / "c.duckdb", device="cpu", max_batch=4)


@pytest.fixture
def every(study, context):
    return cells(study, context.source, "cpu")


def stored(context):
    return dict(
        ask(
            context.cache,
            "SELECT trajectory_id, count(*) FILTER (frames.kind <> 'final') FROM trajectories "
            "JOIN frames USING (trajectory_id) GROUP BY ALL",
        )
    )


def test_batches_of_cells_with_frames_of_their_own_share_one_loaded_model(context, every, monkeypatch):
    loads = []
    load = models.load
    monkeypatch.setattr(models, "load", lambda *arguments: loads.append(arguments) or load(*arguments))
    first, second = every[:2], every[2:]
    jobs = [ImageJob(first[0], FRAMES), ImageJob(first[1])]
    assert make_images(context, jobs).done == 2
    assert make_images(context, [ImageJob(cell) for cell in second]).done == 2
    assert make_images(context, []).done == 0
    assert len(loads) == 1
    of_two_kinds = 2 * FRAMES.count
    assert stored(context) == {every[0].trajectory_id: of_two_kinds} | {cell.trajectory_id: 0 for cell in every[1:]}


def test_only_cells_that_lack_pictures_or_frames_are_missing(context, every):
    wanted = [ImageJob(cell, FRAMES) for cell in every]
    assert missing_images(None, wanted) == wanted
    make_images(context, [ImageJob(every[0], FRAMES), ImageJob(every[1])])
    with reading(context.cache) as db:
        assert missing_images(db, wanted) == wanted[1:]
        assert missing_images(db, [ImageJob(cell) for cell in every]) == [ImageJob(cell) for cell in every[2:]]
        assert missing_images(db, []) == []


def test_a_finished_cell_that_fails_when_made_again_for_frames_stays(context, every, monkeypatch):
    make_images(context, [ImageJob(every[0])])
    broken = [MadeCell(outcome(cell, b"", failed=True), context.environment) for cell in every[:2]]
    monkeypatch.setattr(images, "_made", lambda *_: (made for made in broken))
    made = make_images(context, [ImageJob(cell, FRAMES) for cell in every[:2]])
    assert (made.done, made.failed) == (0, 2)
    found = dict(ask(context.cache, "SELECT trajectory_id, status FROM trajectories"))
    assert found == {every[0].trajectory_id: "done", every[1].trajectory_id: "failed"}
    assert stored(context) == {every[0].trajectory_id: 0}


def test_times_belong_to_the_arguments_of_the_call(study, context, every):
    settings, writer = TimingSettings(repeats=2, warmup=0), context.writer
    longer = replace(study, name="longer", pipeline=PipelineSettings({"num_frames": 9}))
    others = [replace(cell, pipeline=longer.pipeline) for cell in every]
    for asked, shown in ((study, every), (longer, others)):
        writer.begin(asked, shown, context.source, context.environment)
        writer.trajectories([outcome(cell, b"") for cell in shown], context.source, context.environment)
    take_times(context, missing_timings(None, every, settings, context.source, context.environment), every, 0)
    with reading(context.cache) as db:
        for asked, shown, left, have in ((study, every, 0, 4), (longer, others, 2, 0)):
            samples = queries.timings(db, asked.name)
            assert (samples["stage"] == "total").sum() == queries.progress(db, asked.name)[3] == have
            assert len(missing_timings(db, shown, settings, context.source, context.environment)) == left
            again = missing_timings(db, shown, settings, context.source, context.environment, anew=True)
            assert {(timing.begin, timing.missing) for timing in again} == {(have // 2, 2)}


def test_lanes_are_timed_on_cells_that_came_out_and_the_rest_is_told(study, context, every):
    settings = TimingSettings(repeats=2, warmup=0)
    wanted = missing_timings(None, every, settings, context.source, context.environment)
    assert [(timing.cell.lane.key, timing.missing) for timing in wanted] == [("ddim:4", 2), ("euler:3", 2)]
    make_images(context, [ImageJob(cell) for cell in every if cell.lane.key == "euler:3"])
    outcome = take_times(context, wanted, every, settings.warmup)
    assert (outcome.done, outcome.failed) == (2, 1)
    with reading(context.cache) as db:
        [left] = missing_timings(db, every, settings, context.source, context.environment)
    assert (left.cell.lane.key, left.begin, left.missing) == ("ddim:4", 2, 2), "in rounds of its own"


def test_what_cells_take_is_told_beforehand(every):
    assert expected_calls(every) == 2 * (4 + 3)
    pixels = every[0].width * every[0].height
    plain, framed = ([ImageJob(cell, frames) for cell in every] for frames in (NO_FRAMES, FRAMES))
    assert expected_bytes([]) == 0
    assert expected_bytes(plain) == int(pixels * 2.5 * 4) + 2**20
    assert expected_bytes(plain, clip_frames=81) - 2**20 == 81 * (expected_bytes(plain) - 2**20)
    assert expected_bytes(framed) - expected_bytes(plain) == pytest.approx(pixels * 1.3 * 2 * 2 * 4, abs=1)
