"""The timing pass: each lane alone, every sample kept, stages that add up."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import engine.sampling.image_pass
from engine.cache import queries
from engine.cache.connection import reading
from engine.measuring import lane_timing as timing
from engine.measuring.lane_timing import STAGES, TimingJob, TimingSample, time_lanes
from engine.passes.plan import plan_study
from engine.passes.run import run_study
from engine.sampling.models import Model
from engine.study.pipeline_settings import PipelineSettings
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.engine.miniatures import FAILING, cells_of

LANES = ["ddim:3", "heun:3", "pndm:4", "dpmpp_2m:2"]
CALLS = {"ddim:3": 3, "heun:3": 5, "pndm:4": 5, "dpmpp_2m:2": 2}


def jobs_of(model: str | Path, lanes: list[Any], repeats: int, batch_size: int = 1, **settings: Any) -> list[TimingJob]:
    return [TimingJob(cell, batch_size, 0, repeats) for cell in cells_of(model, lanes, **settings)]


def rounds(samples: list[TimingSample], size: int) -> list[list[str]]:
    lanes = [sample.job.cell.lane.key for sample in samples]
    return [lanes[start : start + size] for start in range(0, len(lanes), size)]


@pytest.fixture(scope="module")
def samples(sd_model: Model, sd_folder: Path) -> list[TimingSample]:
    return list(time_lanes(sd_model, jobs_of(sd_folder, LANES, repeats=4), warmup=1))


def test_every_stage_is_timed_and_the_stages_add_up_to_the_total(samples: list[TimingSample]) -> None:
    for sample in samples:
        assert set(sample.seconds) == {*STAGES, "other", "total"}
        parts = {stage: seconds for stage, seconds in sample.seconds.items() if stage != "total"}
        assert sum(parts.values()) == pytest.approx(sample.seconds["total"])
        assert all(parts[stage] > 0 for stage in STAGES), parts
        assert parts["other"] >= 0


def test_calls_are_counted_in_every_sample(samples: list[TimingSample]) -> None:
    assert {sample.job.cell.lane.key: sample.nfe for sample in samples} == CALLS
    assert all(sample.nfe == CALLS[sample.job.cell.lane.key] for sample in samples)


def test_each_lane_gets_its_repeats_in_numbered_rounds(samples: list[TimingSample]) -> None:
    repeats = defaultdict(list)
    for sample in samples:
        assert sample.error is None
        repeats[sample.job.cell.lane.key].append(sample.repeat)
    assert repeats == {lane: [0, 1, 2, 3] for lane in LANES}


def test_lanes_take_turns_in_an_order_that_changes_from_round_to_round(samples: list[TimingSample]) -> None:
    orders = rounds(samples, len(LANES))
    assert all(sorted(order) == sorted(LANES) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_warm_up_rounds_are_run_and_dropped(gaussian_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    once = timing.time_once

    def counted(model: Model, job: TimingJob, repeat: int) -> TimingSample:
        ran.append(job.cell.lane.key)
        return once(model, job, repeat)

    monkeypatch.setattr(timing, "time_once", counted)
    samples = list(time_lanes(gaussian_model, jobs_of("gaussian", LANES, repeats=2), warmup=3))
    assert len(ran) == len(LANES) * 5
    assert [sample.repeat for sample in samples] == [0] * len(LANES) + [1] * len(LANES)


def test_samples_that_exist_already_are_numbered_on(gaussian_model: Model) -> None:
    [first, second] = cells_of("gaussian", ["ddim:2", "euler:2"])
    jobs = [TimingJob(first, 1, first_repeat=5, repeats=2), TimingJob(second, 1, first_repeat=0, repeats=1)]
    samples = list(time_lanes(gaussian_model, jobs, warmup=0))
    assert sorted((s.job.cell.lane.key, s.repeat) for s in samples) == [("ddim:2", 5), ("ddim:2", 6), ("euler:2", 0)]


@pytest.mark.parametrize("warmup", [0, 2])
def test_a_lane_that_fails_is_reported_once_and_the_others_go_on(warmup: int, gaussian_model: Model) -> None:
    samples = list(time_lanes(gaussian_model, jobs_of("gaussian", ["ddim:2", FAILING, "euler:2"], 3), warmup))
    [failed] = [sample for sample in samples if sample.error]
    assert failed.error == "ArithmeticError: step three went wrong"
    assert failed.job.cell.lane.key == "failing:5"
    assert failed.seconds == {}
    done = [sample.job.cell.lane.key for sample in samples if not sample.error]
    assert sorted(done) == ["ddim:2"] * 3 + ["euler:2"] * 3


@pytest.mark.parametrize("settings", [{}, {"negative_prompt": "blurry"}, {"guidance_scale": 1.0}])
def test_a_batch_is_timed_as_a_whole_with_a_seed_for_each_picture(
    settings: dict[str, Any], sd_model: Model, sd_folder: Path
) -> None:
    rows: list[int] = []
    hook = sd_model.denoiser.register_forward_pre_hook(lambda unet, inputs: rows.append(len(inputs[0])))
    [sample] = time_lanes(sd_model, jobs_of(sd_folder, ["ddim:3"], 1, batch_size=2, **settings), warmup=0)
    hook.remove()
    assert sample.error is None
    assert sample.nfe == 3
    assert rows == [2 if settings.get("guidance_scale") == 1.0 else 4] * 3


def test_time_falls_on_the_stage_that_takes_it(gaussian_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the denoiser moves: all other stages take no time, and each call takes its second."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def tick(*_: Any) -> None:
        now[0] += 1

    hook = gaussian_model.denoiser.register_forward_hook(tick)
    [sample] = time_lanes(gaussian_model, jobs_of("gaussian", ["heun:3"], 1), warmup=0)
    hook.remove()
    stages = {"text": 0, "denoiser": 5, "scheduler": 0, "decode": 0, "other": 0}
    assert sample.seconds == {**stages, "total": 5}


@pytest.mark.parametrize("family", ["sdxl", "animatediff"])
def test_other_families_are_timed_too(family: str, request: pytest.FixtureRequest) -> None:
    folder, model = request.getfixturevalue(f"{family}_folder"), request.getfixturevalue(f"{family}_model")
    [sample] = time_lanes(model, jobs_of(folder, ["dpmpp_2m:2"], 1), warmup=0)
    assert sample.error is None, sample.error
    assert sample.nfe == 2
    assert all(sample.seconds[stage] > 0 for stage in STAGES)


def test_timing_leaves_the_model_as_it_was(sd_model: Model, sd_folder: Path) -> None:
    before = dict(vars(sd_model.pipe))
    list(time_lanes(sd_model, jobs_of(sd_folder, ["ddim:1", FAILING], 1), warmup=0))
    assert dict(vars(sd_model.pipe)) == before
    assert "step" not in vars(sd_model.pipe.scheduler)


@pytest.fixture(scope="module")
def finished(sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("timed") / "cache.duckdb"
    assert run_study(_study(sd_folder, 2), cache, device="cpu").exit_code == 0
    return cache


def _study(folder: Path, repeats: int) -> Any:
    return parse_study(
        {
            "name": "timed",
            "model": str(folder),
            "prompts": ["owl", "red apple"],
            "lanes": ["ddim:3", "heun:2"],
            "frames": {"count": 2},
            "timing": {"repeats": repeats, "warmup": 1, "batch_sizes": [1, 2]},
        }
    )


def test_a_study_run_to_its_end_stores_pictures_steps_and_times(finished: Path) -> None:
    with reading(finished) as db:
        cells = queries.cells(db, "timed")
        timings = queries.timings(db, "timed")
        frames = queries.frames(db, list(cells["trajectory_id"]), ["x0", "xt", "final"])
    assert list(cells["study_lane"]) == ["ddim:3", "heun:2"] * 2
    assert set(cells["status"]) == {"done"}
    assert dict(zip(cells["study_lane"], cells["nfe"], strict=True)) == {"ddim:3": 3, "heun:2": 3}
    assert len(frames) == 4 * (2 + 2 + 1)
    totals = timings[timings["stage"] == "total"]
    taken = totals.groupby(["lane", "batch_size"])["repeat"].apply(sorted).to_dict()
    assert taken == {(lane, size): [0, 1] for lane in ("ddim:3", "heun:2") for size in (1, 2)}
    assert set(timings["stage"]) == {*STAGES, "other", "total"}
    assert (timings["seconds"] >= 0).all()


def test_a_finished_study_is_not_computed_again_and_more_repeats_are_added_to_those_there(
    finished: Path, sd_folder: Path
) -> None:
    again = run_study(_study(sd_folder, 2), finished, device="cpu")
    assert (again.cached, again.done, again.timed) == (4, 0, 0)
    more = run_study(_study(sd_folder, 3), finished, device="cpu")
    assert (more.cached, more.done, more.timed) == (4, 0, 4)
    with reading(finished) as db:
        timings = queries.timings(db, "timed")
    totals = timings[timings["stage"] == "total"]
    assert totals.groupby(["lane", "batch_size"])["repeat"].apply(sorted).tolist() == [[0, 1, 2]] * 4


def test_what_calls_take_is_told_of_calls_of_the_same_kind_only(finished: Path, sd_folder: Path) -> None:
    study, source = _study(sd_folder, 2), find_model(str(sd_folder))

    def pace(**changes: Any) -> float | None:
        return plan_study(replace(study, **changes), source, finished, "cpu", "standard").seconds_per_call

    assert pace() is not None
    others = (
        {"width": 96, "height": 96},
        {"dtype": "bfloat16"},
        {"guidance_scale": 1.0},
        {"pipeline": PipelineSettings({"eta": 1.0})},
    )
    assert [pace(**changes) for changes in others] == [None] * 4


def test_a_lane_that_fails_leaves_a_row_with_its_error_and_exit_code_one(tmp_path: Path) -> None:
    study = parse_study(
        {
            "name": "broken",
            "model": "gaussian",
            "prompts": ["disc"],
            "lanes": ["ddim:4"],
            "lane": [{"key": "failing:5", "scheduler_class": "tests.engine.miniatures:FailsAtStepThree"}],
            "timing": {"repeats": 1, "warmup": 0},
        }
    )
    summary = run_study(study, tmp_path / "cache.duckdb", device="cpu")
    assert (summary.done, summary.failed, summary.timed, summary.untimed) == (1, 1, 1, 1)
    assert summary.exit_code == 1
    with reading(tmp_path / "cache.duckdb") as db:
        cells = queries.cells(db, "broken").set_index("study_lane")
    assert cells.loc["failing:5", "error"] == "ArithmeticError: step three went wrong"
    assert list(cells["status"]) == ["done", "failed"]


def test_a_lane_without_a_finished_picture_is_not_timed_now_or_later(tmp_path: Path) -> None:
    study = parse_study(
        {
            "name": "nan",
            "model": "gaussian",
            "prompts": ["disc"],
            "lanes": ["ddim:4"],
            "lane": [{"key": "nan:4", "scheduler_class": "tests.engine.miniatures:ReturnsNan"}],
            "timing": {"repeats": 2, "warmup": 0},
        }
    )
    for _ in range(2):
        summary = run_study(study, tmp_path / "cache.duckdb", device="cpu")
        assert (summary.failed, summary.untimed, summary.exit_code) == (1, 1, 1)
    with reading(tmp_path / "cache.duckdb") as db:
        timings = queries.timings(db, "nan")
    assert set(timings["lane"]) == {"ddim:4"}


def test_a_lane_that_fails_on_its_first_prompt_alone_is_timed_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parse_study(
        {
            "name": "some",
            "model": "gaussian",
            "prompts": ["disc", "ring"],
            "lanes": ["ddim:2"],
            "timing": {"repeats": 1, "warmup": 0},
        }
    )
    prompts = []
    real = engine.sampling.cell_maker.call_pipeline

    def call(pipe: Any, arguments: Any, *args: Any, **options: Any) -> Any:
        if arguments["prompt"] == "disc":
            raise ArithmeticError("not on this prompt")
        return real(pipe, arguments, *args, **options)

    def watch(model: Model, jobs: list[TimingJob], warmup: int) -> Any:
        prompts.extend(job.cell.prompt for job in jobs)
        return time_lanes(model, jobs, warmup)

    monkeypatch.setattr(engine.sampling.cell_maker, "call_pipeline", call)
    monkeypatch.setattr(timing, "time_lanes", watch)
    summary = run_study(study, tmp_path / "cache.duckdb", device="cpu")
    assert (summary.done, summary.failed, summary.timed, summary.untimed) == (1, 1, 1, 0)
    assert prompts == ["ring"]
