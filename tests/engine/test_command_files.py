"""The files of commands: `--json` is checked before any work, and a study may be named by its TOML file everywhere."""

import json

import pytest

from engine.cli import main
from engine.commands import files
from engine.errors import LabError
from tests.dashboard import synthetic
from tests.engine.helpers import write_study


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A scored study named quick."""
    path = tmp_path_factory.mktemp("commands") / "c.duckdb"
    plan = synthetic.study(prompts=synthetic.SIX, reference={})
    synthetic.write(path, plan)
    synthetic.write_scores(path, plan, {})
    return path


@pytest.fixture
def study_file(tmp_path):
    return write_study(tmp_path / "other_name.toml", name="quick")


JSON = ["claims quick", "convergence quick", "phases quick", "lint --bugs", "lint ddim:4", "bench --repeats 1"]


@pytest.mark.parametrize("command", JSON)
@pytest.mark.parametrize("where", ["folder", "nowhere/f.json"])
def test_json_into_a_folder_or_nowhere_is_refused_before_any_work(command, where, cache, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    at = [] if command.startswith("bench") else ["--cache", str(cache)]
    assert main([*command.split(), *at, "--json", str(tmp_path / where)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "that is a folder; name a file" in told.err or "there is no folder" in told.err


def test_a_file_that_cannot_be_written_in_the_end_is_told_in_words(tmp_path):
    with pytest.raises(LabError, match=r"could not be written: .*Give another file"):
        files.write_json(tmp_path / "gone" / "f.json", {})
    files.write_json(None, {})


@pytest.mark.parametrize(
    "command", [["claims"], ["export", "-o", "{}/o.csv"], ["report", "-o", "{}/o.md"]], ids=lambda c: c[0]
)
def test_commands_on_the_cache_take_the_toml_file_of_a_study_too(command, cache, study_file, tmp_path, capsys):
    name, *options = (word.format(tmp_path) for word in command)
    told = []
    for study in (str(study_file), "quick"):
        assert main([name, study, *options, "--cache", str(cache)]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] or name == "report"  # a report says when it was made


@pytest.mark.parametrize("command", ["phases", "convergence"])
def test_commands_that_lack_something_call_the_study_by_its_name(command, study_file, tmp_path, capsys):
    cache = tmp_path / "bare.duckdb"
    synthetic.write(cache, synthetic.study(prompts=synthetic.SIX))
    assert main([command, str(study_file), "--cache", str(cache)]) == 2
    assert "of 'quick' has" in capsys.readouterr().err


def test_figures_are_written_under_the_name_of_the_study(cache, study_file, tmp_path):
    out = tmp_path / "f.json"
    assert main(["claims", str(study_file), "--cache", str(cache), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["study"] == "quick"


def test_a_study_file_that_is_not_there_is_told_as_such(cache, capsys):
    for command in ("claims", "convergence", "phases"):
        assert main([command, "nowhere.toml", "--cache", str(cache)]) == 2
        assert "There is no study file nowhere.toml" in capsys.readouterr().err


def test_a_name_is_its_own_name(tmp_path):
    assert files.cached_name("quick", tmp_path / "c.duckdb") == "quick"
