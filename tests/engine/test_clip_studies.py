"""Studies of clips from end to end: decided on whole clips, not made twice, exported, imported, reported, voted on."""

import base64
import io
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.analysis.calibration import picture_scale
from engine.analysis.guards import OTHER, Guard
from engine.cache import limits, vote_table
from engine.cache.connection import writing
from engine.cli import main
from engine.passes import scores
from engine.passes.decision_evidence import CellFacts, GuardEntries, Yardsticks
from engine.passes.plan import plan_study
from engine.passes.run import run_study
from engine.study.source import find_model
from tests.engine import family_miniatures as families
from tests.engine.helpers import ask, parsed
from tests.engine.miniatures import cells_of

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 5
OTHER_GUARD = Guard(OTHER, "Another picture", "share", 0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature that makes clips of five frames."""
    made = tmp_path_factory.mktemp("clips") / "model"
    families.built("latte").save_pretrained(made)
    return made


def test_another_picture_is_told_by_the_whole_clip_and_a_prompt_has_one_value() -> None:
    """A clip whose last frame alone moved far is another one; two seeds of a prompt are one value together."""
    random = np.random.default_rng(5)
    prompts, seeds = ("red apple", "green owl", "pear"), (0, 1)
    listed = cells_of("gaussian", ["ddim:6", "dpmpp_2m:5"], prompts=list(prompts), seeds=list(seeds))
    latents = {cell.trajectory_id: random.normal(size=(4, FRAMES, 8, 8)).astype(np.float32) for cell in listed}
    base, lane = ([cell for cell in listed if cell.lane.key == key] for key in ("ddim:6", "dpmpp_2m:5"))
    scale = picture_scale([latents[cell.trajectory_id] for cell in base], [cell.seed for cell in base])
    for one, other in zip(lane, base, strict=True):
        clip = latents[other.trajectory_id].copy()
        if one.prompt == "pear" and one.seed == 0:
            clip[:, -1] *= 3 * scale
        latents[one.trajectory_id] = clip
    guards = Yardsticks((OTHER_GUARD,), GuardEntries({}, {}), scale, None, 0.05)
    facts = CellFacts(set(latents), latents)
    found = {}
    for prompt in prompts:
        pairs = [(a, b) for a, b in zip(lane, base, strict=True) if a.prompt == prompt]
        for mine, its in pairs:
            flat = [latents[cell.trajectory_id].astype(float).ravel() for cell in (mine, its)]
            apart = np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])
            assert facts.distance(mine, its) == pytest.approx(apart)
        found[prompt] = guards.value(OTHER_GUARD, pairs, facts)
    assert found == {"red apple": 0.0, "green owl": 0.0, "pear": 0.5}


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study file and the cache of its run."""
    place = tmp_path_factory.mktemp("finished")
    file = place / "clips.toml"
    file.write_text(
        f"""name = "clips"
model = "{folder}"
prompts = ["small red apple", "green owl"]
guidance_scale = 3.0
baseline = "ddim:6"
lanes = ["ddim:6", "dpmpp_2m:5", "ddim:1"]
frames = {{ count = 2 }}
timing = {{ repeats = 2, warmup = 0 }}
pipeline = {{ video_length = {FRAMES}, clean_caption = false }}
""",
        encoding="utf-8",
    )
    cache = place / "cache.duckdb"
    run = [sys.executable, "-m", "engine", "run", str(file), "--cache", str(cache), "--device", "cpu"]
    subprocess.run([*run, "--progress", "none"], cwd=ROOT, check=True)
    return file, cache


def test_a_finished_study_of_clips_runs_again_without_torch_and_quickly(finished: tuple[Path, Path]) -> None:
    file, cache = finished
    code = (
        "import sys; from engine.cli import main\n"
        "print(main(['run', *sys.argv[1:]]), {'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(file), "--cache", str(cache), "--progress", "none", "--device", "cpu"]
    start = time.process_time(), time.perf_counter()
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.splitlines()[-1] == "0 set()"
    assert time.perf_counter() - start[1] < 60, "3 s where nothing else runs"


def test_clips_travel_with_all_their_frames_are_reported_and_voted_on(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, cache = finished
    parcel, other = tmp_path / "clips.duckdb", tmp_path / "other.duckdb"
    assert main(["export", "clips", "-o", str(parcel), "--cache", str(cache)]) == 0
    assert main(["import", str(parcel), "--cache", str(other)]) == 0
    everything = (
        "SELECT kind, step_index, video_frame, image FROM frames ORDER BY trajectory_id, kind, step_index, video_frame"
    )
    assert ask(other, everything) == ask(cache, everything)
    assert ask(cache, "SELECT DISTINCT video_frame FROM frames ORDER BY 1") == [(n,) for n in range(FRAMES)]

    report = tmp_path / "report.html"
    assert main(["report", "clips", "-o", str(report), "--cache", str(other)]) == 0

    moving = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", report.read_text(encoding="utf-8"))
    played = [getattr(Image.open(io.BytesIO(base64.b64decode(data))), "n_frames", 1) for data in moving]
    assert played.count(FRAMES) == 3 * 2, "a clip for each lane and prompt"
    assert main(["export", "clips", "-o", str(tmp_path / "clips.gif"), "--cache", str(other)]) == 0
    with Image.open(tmp_path / "clips.gif") as image:
        assert image.n_frames == FRAMES

    one, two = ask(
        other,
        "SELECT trajectory_id FROM trajectories WHERE prompt = 'green owl' AND steps <> 1 ORDER BY steps DESC",
    )
    vote = vote_table.Vote(
        "clips", "someone", "none", one[0], two[0], "ddim:6", "dpmpp_2m:5", "green owl", 0, "left", 1.0
    )
    assert vote_table.cast(other, vote)
    assert not vote_table.cast(other, vote)
    assert ask(other, "SELECT choice FROM votes") == [("left",)]


def test_cells_are_read_as_many_at_a_time_as_fit_and_one_that_never_does_is_a_row_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, study = (
        tmp_path / "c.duckdb",
        parsed(model="gaussian", prompts=["disc", "ring"], lanes=["ddim:3", "euler:3"]),
    )

    def rescored() -> tuple[int, list[tuple[object, ...]]]:
        with writing(cache) as db:
            db.execute("DELETE FROM scores")
        failed = scores.score(plan_study(study, find_model("gaussian"), cache, "cpu", "standard"), cache).failed
        return failed, ask(cache, "SELECT * EXCLUDE created_at FROM scores ORDER BY ALL")

    run_study(study, cache, device="cpu")
    wanted = rescored()
    monkeypatch.setattr(limits, "GROUP_BYTES", 1)
    assert rescored() == wanted
    assert wanted[0] == 0
    monkeypatch.setattr(scores, "CELL_BYTES", 1)
    failed, _ = rescored()
    assert failed > 0
    reasons = ask(cache, "SELECT DISTINCT reason FROM scores WHERE scope = 'picture'")
    assert all("takes more than" in reason for (reason,) in reasons)
