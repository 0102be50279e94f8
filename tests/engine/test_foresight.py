"""Looking ahead without weights: what comes of it is what comes of the real pipeline, and the cache keeps it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTextModel

from engine.cache.connection import reading
from engine.cli import main
from engine.errors import StudyError
from engine.passes import foresight
from engine.passes.plan import plan_study
from engine.passes.run import run_study
from engine.results import read_results
from engine.sampling.dry_run import DryRun, dry_run
from engine.sampling.hollow import hollow_pipeline
from engine.study.cells import Cell
from engine.study.lanes import fitting_lanes
from engine.study.source import find_model
from tests.engine import family_miniatures as families
from tests.engine.helpers import ask, parsed

QUICK = ("schnell", "z_image")
STUDY: dict[str, Any] = {
    "name": "ahead",
    "prompts": ["red apple", "owl"],
    "width": 64,
    "height": 64,
    "dtype": "float32",
    "frames": {"count": 0},
    "timing": {"repeats": 0},
}


def written(tmp_path: Path, model: Path | str, lanes: list[str], **more: Any) -> str:
    """A study file."""
    values = STUDY | more | {"model": str(model), "lanes": lanes}
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in tables]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    file = tmp_path / "study.toml"
    file.write_text("\n".join(lines))
    return str(file)


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")
@pytest.mark.parametrize(
    "key", [pytest.param(k, marks=() if k in QUICK else pytest.mark.long) for k in families.builders() if k != "kolors"]
)
def test_every_family_is_tried_by_its_configurations_as_by_its_weights(key: str, tmp_path: Path) -> None:
    real: Any = families.built(key)
    real.save_pretrained(tmp_path / "model")
    settings = families.pipeline_settings(key, tmp_path)
    source = find_model(str(tmp_path / "model"))
    for file in (tmp_path / "model").rglob("*.safetensors"):
        file.unlink()
    hollow: Any = hollow_pipeline(source)
    if key == "hidream":
        hollow.default_sample_size = real.default_sample_size
    lanes = [*fitting_lanes(source.scheduler_config, source.family, 3)]
    foreign = replace(
        lanes[0], key="foreign:3", scheduler=replace(lanes[0].scheduler, target="diffusers:PNDMScheduler")
    )
    cells = [
        Cell(lane, "red apple", 3, "blurry", 4.0, 64, 64, "float32", key, lane.key, settings)
        for lane in (*lanes, foreign)
    ]
    found, expected = dry_run(hollow, cells), dry_run(real, cells)
    assert [(one.lane, one.calls, one.handed, bool(one.error)) for one in found] == [
        (other.lane, other.calls, other.handed, bool(other.error)) for other in expected
    ]
    assert [one.error for one in found[:-1]] == [None] * len(lanes)


@pytest.mark.parametrize("model", ["gaussian", "sd"])
def test_a_second_plan_needs_no_torch(model: str, sd_folder: Path, tmp_path: Path) -> None:
    study = written(tmp_path, sd_folder if model == "sd" else model, ["ddim:3", "dpmpp_2m:3"])
    cache = tmp_path / "c.duckdb"
    code = (
        "import sys; from engine.cli import main\n"
        f"code = main(['plan', {study!r}, '--cache', {str(cache)!r}, '--device', 'cpu'])\n"
        "print('torch' in sys.modules); sys.exit(code)\n"
    )
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        said.append([line for line in done.stdout.splitlines() if line.startswith(("Dry run", "True", "False"))])
    assert said[0] == ["Dry run      2 lanes tried (0 of them earlier)", "True"]
    assert said[1] == ["Dry run      2 lanes tried (2 of them earlier)", "False"]
    assert ask(cache, "SELECT count(*) FROM trajectories") == [(0,)]


def test_plan_refuses_by_name_what_every_cell_of_a_lane_would_refuse(tmp_path: Path, capsys: Any) -> None:
    cache = tmp_path / "c.duckdb"
    study = written(tmp_path, "gaussian", ["ddim:3", "euler:3"], pipeline={"clip_skip": "many"})
    for _ in range(2):  # the second time from the cache
        assert main(["plan", study, "--cache", str(cache)]) == 2
        said = capsys.readouterr().err
        assert "Lane 'ddim:3': StableDiffusionPipeline refuses it: TypeError" in said
        assert "Lane 'euler:3'" in said
    eta = written(tmp_path, "gaussian", ["ddim:3"])
    Path(eta).write_text(Path(eta).read_text() + '\n[[lane]]\nkey = "noisy:3"\nscheduler = "ddim"\neta = 0.5\n')
    assert main(["plan", eta, "--cache", str(cache)]) == 2
    assert "has no setting 'eta'. It is an argument of the pipeline call" in capsys.readouterr().err
    study = written(tmp_path, "gaussian", ["ddim:3"], pipeline={"clip_skp": 1})
    assert main(["plan", study, "--cache", str(cache)]) == 2
    assert "takes no 'clip_skp'. Did you mean 'clip_skip'" in capsys.readouterr().err


def test_references_are_tried_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(
        "engine.sampling.dry_run.dry_run",
        lambda pipe, cells: [tried.append(cell.lane.key) or DryRun(cell.lane.key, 1, None) for cell in cells],
    )
    study = written(tmp_path, "gaussian", ["ddim:3"], reference={"lane": "dpmpp_2m:20", "check": "heun:10"})
    assert main(["plan", study, "--cache", str(tmp_path / "c.duckdb")]) == 0
    assert tried == ["ddim:3", "dpmpp_2m:20", "heun:10"]


HOLDER = "import duckdb, sys; db = duckdb.connect(sys.argv[1], read_only=True); print('held', flush=True); input()"


def test_a_cache_that_may_only_be_read_or_that_a_notebook_reads_is_not_written(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "c.duckdb"
    assert main(["plan", written(tmp_path, "gaussian", ["ddim:3"]), "--cache", str(cache)]) == 0
    before = sha256(cache.read_bytes()).digest()
    other = ["plan", str(tmp_path / "study.toml"), "--cache", str(cache), "--set", "lanes=['ddim:4']"]
    cache.chmod(0o444)  # which keeps root out of nothing
    assert main(other) == 0
    assert sha256(cache.read_bytes()).digest() == before
    cache.chmod(0o644)
    monkeypatch.setattr(foresight, "PATIENCE_OF_PLANS", 0.1)
    piped: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(cache)], **piped) as notebook:
        assert notebook.stdout is not None
        assert notebook.stdout.readline() == "held\n"
        assert main(other) == 0
        notebook.communicate("\n")
    assert sha256(cache.read_bytes()).digest() == before
    assert capsys.readouterr().out.count("1 lane tried (0 of them earlier)") == 3
    assert main(other) == 0
    assert sha256(cache.read_bytes()).digest() != before


def test_a_model_that_is_not_here_is_not_tried(tmp_path: Path, capsys: Any) -> None:
    study = written(tmp_path, "nobody/nothing-of-that-name", ["ddim:3"])
    assert main(["plan", study, "--cache", str(tmp_path / "c.duckdb")]) == 0
    assert "Dry run      not tried: the model is not on this machine" in capsys.readouterr().out


def test_a_run_lets_the_weights_have_the_last_word(
    sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.sampling.hollow.Hollow.forward", lambda *_, **__: 1 / 0)
    study = parsed(**STUDY | {"model": str(sd_folder), "lanes": ["ddim:2"], "prompts": ["owl"]})
    with pytest.raises(StudyError, match="ZeroDivisionError"):
        foresight.foresee_plan(_plan(study, tmp_path), tmp_path / "c.duckdb")
    assert run_study(study, tmp_path / "c.duckdb", device="cpu").done == 1
    [(told,)] = ask(tmp_path / "c.duckdb", "SELECT dry_run->>'$.error' FROM lints")
    assert told is None


def test_what_only_weights_can_tell_is_no_refusal(
    sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = CLIPTextModel.forward

    def asking(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = forward(self, *args, **kwargs)
        assert len(found[0].sum(dim=-1).nonzero()) >= 0
        return found

    monkeypatch.setattr(CLIPTextModel, "forward", asking)
    study = parsed(**STUDY | {"model": str(sd_folder), "lanes": ["ddim:2"]})
    found = foresight.foresee_plan(_plan(study, tmp_path), tmp_path / "c.duckdb")
    assert (found.tried, found.fresh) == ({}, frozenset())
    assert "nonzero asks for contents" in found.untried


@pytest.mark.parametrize("wrong", ["metadata of the prompt is missing", "shapes"])
def test_what_fails_with_weights_as_well_is_a_refusal_whatever_its_words(
    wrong: str, sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = CLIPTextModel.forward

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = forward(self, *args, **kwargs)
        if wrong == "shapes":
            return found[0] @ found[0].new_zeros(7, 7)
        raise ValueError(wrong)

    monkeypatch.setattr(CLIPTextModel, "forward", failing)
    study = parsed(**STUDY | {"model": str(sd_folder), "lanes": ["ddim:2"]})
    with pytest.raises(
        StudyError, match=r"Lane 'ddim:2': StableDiffusionPipeline refuses it: .*(metadata|reduction dim)"
    ):
        foresight.foresee_plan(_plan(study, tmp_path), tmp_path / "c.duckdb")


def test_prompts_that_are_one_to_the_model_count_once(sd_folder: Path, tmp_path: Path) -> None:
    prompts = ["red apple", "owl", "green pear", "small house", "blurry owl", "red  apple", " OWL"]
    study = parsed(**STUDY | {"model": str(sd_folder), "lanes": ["ddim:2", "euler:2"], "prompts": prompts})
    found = foresight.foresee_plan(_plan(study, tmp_path), tmp_path / "c.duckdb")
    assert [note[:29] for note in found.notes] == ["2 prompts are one to the model"[:29]] * 2
    assert found.distinct(prompts) == prompts[:5]
    assert run_study(study, tmp_path / "c.duckdb", device="cpu").done == 14
    with reading(tmp_path / "c.duckdb") as db:
        results = read_results(db, "ahead", None)
    assert {row.difference.n for row in results.comparisons} == {5}
    assert set(results.quality["prompt"]) == set(results.step_metrics["prompt"]) == set(prompts[:5])
    assert len(results.cells) == 14


def test_a_negative_prompt_that_is_cut_off_is_told(sd_folder: Path, tmp_path: Path) -> None:
    long = "red " * 80 + "owl"
    study = parsed(**STUDY | {"model": str(sd_folder), "lanes": ["ddim:2"], "negative_prompt": long})
    for _ in range(2):  # the second time from the cache
        found = foresight.foresee_plan(_plan(study, tmp_path), tmp_path / "c.duckdb")
        assert list(found.notes) == ["The negative prompt has 83 tokens, of which tokenizer reads the first 77."]


def _plan(study: Any, tmp_path: Path) -> Any:
    return plan_study(study, find_model(study.model), tmp_path / "c.duckdb", "cpu", "standard")


def test_configurations_that_make_no_pipeline_are_told_and_refuse_no_lane(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "model")
    (folder / "text_encoder" / "config.json").write_text("{")
    study = parsed(**STUDY | {"model": str(folder), "lanes": ["ddim:2"]})
    found = foresight.foresee_plan(_plan(study, tmp_path), tmp_path / "c.duckdb")
    assert found.untried
    assert not found.tried
