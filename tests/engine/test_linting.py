"""What the lint keeps in the cache, and the command that shows it."""

import json

import numpy as np
import pytest

from engine.cache import lint_tables
from engine.cache.connection import reading, writing
from engine.cli import main
from engine.passes.run import run_study
from tests.engine.helpers import ask, parsed


def test_a_run_keeps_what_its_lanes_really_ran(tmp_path):
    cache = tmp_path / "c.duckdb"
    study = parsed(lanes=["heun:4", "dpmpp_2m:5"])
    run_study(study, cache, device="cpu")
    with reading(cache) as db:
        levels, found = lint_tables.schedules(db, "small"), lint_tables.findings(db, "small")
        settings = lint_tables.settings(db, "small")
        nfe = dict(db.execute("SELECT lane, nfe FROM trajectories").fetchall())
    assert levels.groupby("lane", sort=False)["call_index"].max().to_dict() == {"heun:4": 6, "dpmpp_2m:5": 4}
    assert (levels.groupby("lane")["calls"].first() == levels.groupby("lane").size()).all()
    assert levels.groupby("lane")["calls"].first().to_dict() == nfe
    np.testing.assert_allclose(levels["log_snr"], -2 * np.log(levels["sigma"]))
    assert "last_jump" in set(found[found["lane"] == "dpmpp_2m:5"]["code"])
    assert set(settings["origin"]) <= {"lane", "table", "lab", "model", "default", "ignored"}
    assert run_study(study, cache, device="cpu").done == 0


def test_an_older_cache_gets_what_it_lacks_by_storing_or_at_the_next_run_that_computes(tmp_path, capsys):
    cache, file = tmp_path / "c.duckdb", tmp_path / "small.toml"
    file.write_text(
        'name = "small"\nmodel = "gaussian"\nprompts = ["disc"]\nlanes = ["ddim:4"]\n'
        "frames.count = 1\ntiming.repeats = 0\n"
    )
    assert main(["run", str(file), "--cache", str(cache), "--progress", "none"]) == 0
    lint_tables.write_lints(cache, [])  # nothing to write is nothing done
    forget(cache)
    assert main(["lint", str(file), "--store", "--cache", str(cache)]) == 0
    assert "1 lanes stored" in capsys.readouterr().out
    assert ask(cache, "SELECT len(levels) FROM lints") == [(4,)]
    forget(cache)
    more = ["run", str(file), "--cache", str(cache), "--progress", "none", "--set", "seeds=[0, 1]"]
    assert main(more) == 0
    assert ask(cache, "SELECT len(levels) FROM lints") == [(4,)]


def forget(cache):
    with writing(cache) as db:
        db.execute("DELETE FROM lints")


def test_the_command_shows_a_lane_call_by_call_and_writes_json(tmp_path, capsys):
    file = tmp_path / "lint.json"
    assert main(["lint", "pndm:4", "--model", "gaussian", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "5 denoiser calls for 4 steps" in shown
    assert "timestep_spacing" in shown
    [plain] = json.loads(file.read_text())
    assert len(plain["levels"]["timesteps"]) == 5
    assert plain["findings"]


def test_the_pipeline_class_of_a_study_or_of_a_setting_is_the_one_that_is_looked_at(tmp_path, capsys):
    file = tmp_path / "a.toml"
    lines = ['name = "a"', 'model = "bundled"', 'prompts = ["owl"]', "[[lane]]", 'key = "mine:3"', 'scheduler = "ddim"']
    file.write_text("\n".join([*lines, "timesteps = [900, 600, 300]"]))
    img2img = ["--set", "pipeline.class='StableDiffusionImg2ImgPipeline'"]
    for more, told in (([], False), (img2img, True)):
        main(["lint", str(file), *more])
        assert ("StableDiffusionImg2ImgPipeline skips the part of the list" in capsys.readouterr().out) == told
    assert main(["lint", "ddim:3", "--set", "pipeline.class='os.system'"]) == 2
    assert "must name a diffusers pipeline class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lint"], "Name a study or a lane"),
        (["lint", "eular:5"], "Did you mean 'euler'"),
        (["lint", "ddim:5", "--store"], "name a study"),
        (["lint", "ddim:5", "--json", "/nowhere/at/all.json"], "there is no folder"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_lane_that_is_wrong_ends_with_1(capsys):
    assert main(["lint", "ddim:1000", "--model", "gaussian"]) == 1
    assert "outside the model's 1000" in capsys.readouterr().out
