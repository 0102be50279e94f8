"""Study files: what is taken, what is refused and with which words, and that prompts of any kind come back whole."""

import json
import tomllib

import pytest

from engine.cli import main
from engine.errors import StudyError
from engine.passes.run import run_study
from engine.study.cells import cells
from engine.study.source import find_model
from engine.study.study import load_study
from tests.engine.helpers import ask, parsed, write_study

ODD_PROMPTS = [
    "a \"quoted\" 'prompt' with \\backslash\\",
    "snow ☃, emoji 🦉👩‍👩‍👧, Zalgo z̴̡",
    "two\nlines\r\nand\ttabs",
    "x" * 10_000,
    "",
    " ",
    "'; DROP TABLE trajectories; --",
    "عربي עברית 日本語",
    "\x01\x1f\x7f",
    "{braces} %s $1 ?",
]


def refused(*expected: str, **changes):
    with pytest.raises(StudyError) as caught:
        parsed(**changes)
    for words in expected:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "nearest"), [("promts", "prompts"), ("guidance", "guidance_scale"), ("seed", "seeds"), ("lane_", "lane")]
)
def test_a_misspelt_key_names_the_nearest(key, nearest):
    refused(f"unknown key '{key}'", f"Did you mean '{nearest}'?", **{key: 1})


def test_misspelt_keys_inside_tables_name_table_and_nearest():
    refused("[frames]", "unknown key 'cuont'", "Did you mean 'count'?", frames={"cuont": 3})
    refused("[timing]", "unknown key 'repeat'", "Did you mean 'repeats'?", timing={"repeat": 3})


def test_a_key_like_no_other_gets_no_suggestion():
    with pytest.raises(StudyError, match="unknown key 'xyzzy'") as caught:
        parsed(xyzzy=1)
    assert "Did you mean" not in str(caught.value)


def test_an_unknown_scheduler_names_the_nearest_and_the_list():
    refused("Unknown scheduler 'eular'", "Did you mean 'euler'?", "python -m engine schedulers", lanes=["eular:20"])


def test_several_step_counts_make_a_lane_each():
    study = parsed(
        lanes=["ddim:50", "dpmpp_2m:10, 20"],
        lane=[
            {"key": "thick", "scheduler": "dpmpp_2m", "steps": [5, 10], "solver_order": 3},
        ],
    )
    assert [lane.key for lane in study.lanes] == ["ddim:50", "dpmpp_2m:10", "dpmpp_2m:20", "thick:5", "thick:10"]
    assert [lane.config["solver_order"] for lane in study.lanes[3:]] == [3, 3]


def test_a_reference_is_one_lane():
    refused("has 2 step counts; give one here", reference={"lane": "heun:50,100"})


@pytest.mark.parametrize("steps", ["0", "-3", "10000", "1001", "5,0", "5,1001"])
def test_steps_outside_1_to_1000_are_refused(steps):
    refused("from 1 to 1000", steps, lanes=[f"ddim:{steps}"])


@pytest.mark.parametrize(
    "lane",
    [
        "ddim",
        "ddim:",
        ":20",
        "ddim:2.5",
        "ddim:5,",
        "ddim:,5",
        "ddim:5;6",
        "ddim:twenty",
        "ddim:20:3",
        "",
        "ddim:²",
        "ddim:٣",
        "ddim:" + "9" * 5000,
    ],
)
def test_lanes_of_another_form_are_refused(lane):
    refused("should read 'scheduler:steps'", lanes=[lane])


def test_nothing_may_be_listed_twice():
    refused("lane 'ddim:4' is listed twice", lanes=["ddim:4", "euler:3", "ddim:4"])
    refused("lane 'ddim:4' is listed twice", lane=[{"key": "ddim:4"}])
    refused("prompt 'disc' is listed twice", prompts=["disc", "ring", "disc"])
    refused("'seeds' lists a number twice", seeds=[1, 1])
    refused("'batch_sizes' lists a number twice", timing={"batch_sizes": [2, 2]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": "pndm:9"}, "'baseline' 'pndm:9' is not one of the lanes (ddim:4, euler:3)"),
        ({"width": 64}, "both width and height"),
        ({"height": 64}, "both width and height"),
        ({"width": 63, "height": 64}, "multiple of 8"),
        ({"width": 8192, "height": 2056}, "8192 x 2056 pixels are too many"),
        ({"lanes": []}, "'lanes' is empty"),
        ({"prompts": []}, "at least one prompt"),
        ({"prompts_file": "prompts/bundled_24.txt"}, "one of the two"),
        ({"seeds": []}, "whole numbers"),
        ({"seeds": [-1]}, "from 0"),
        ({"seeds": [2**63]}, "from 0"),
        ({"seeds": [True]}, "whole"),
        ({"seeds": 3}, "list of whole numbers"),
        ({"guidance_scale": -0.1}, "from 0 to 100"),
        ({"guidance_scale": float("nan")}, "from 0 to 100"),
        ({"guidance_scale": float("inf")}, "from 0 to 100"),
        ({"guidance_scale": 10**400}, "from 0 to 100"),
        ({"guidance_scale": "7"}, "must be a number"),
        ({"dtype": "float8"}, "must be one of auto, float32"),
        ({"frames": {"kinds": ["x1"]}}, "may list x0, xt"),
        ({"frames": 3}, "'frames' must be a table"),
        ({"name": "a/b"}, "letters, digits"),
        ({"name": ""}, "letters, digits"),
        ({"name": 3}, "must be text"),
        ({"prompts": ["a\0b"]}, "NUL"),
        ({"prompts": ["a\ud800b"]}, "surrogate"),
        ({"prompts": ["x" * 20_001]}, "20,001 characters"),
        ({"negative_prompt": "a\0b"}, "NUL"),
        ({"description": "a\udc00"}, "surrogate"),
        ({"model": "a\0"}, "NUL"),
    ],
)
def test_a_wrong_value_is_refused_by_name(changes, words):
    refused(words, **changes)


def test_a_prompt_of_20000_characters_is_taken():
    assert parsed(prompts=["x" * 20_000]).prompts == ("x" * 20_000,)


def test_odd_prompts_come_back_from_the_cache_byte_for_byte(tmp_path):
    path = write_study(tmp_path / "odd.toml", prompts=ODD_PROMPTS, lanes=["euler:2"], negative_prompt='"\n🦉')
    study = load_study(path)
    assert study.prompts == tuple(ODD_PROMPTS)
    cache = tmp_path / "c.duckdb"
    assert run_study(study, cache, device="cpu").done == len(ODD_PROMPTS)
    stored = ask(cache, "SELECT prompt, negative_prompt FROM trajectories")
    assert {prompt.encode() for prompt, _ in stored} == {prompt.encode() for prompt in ODD_PROMPTS}
    assert {negative for _, negative in stored} == {'"\n🦉'}
    assert run_study(study, cache, device="cpu").cached == len(ODD_PROMPTS)
    spec = json.loads(ask(cache, "SELECT spec FROM studies")[0][0])
    assert spec["prompts"] == ODD_PROMPTS


def test_a_prompts_file_is_looked_for_beside_the_study_then_in_data(tmp_path):
    (tmp_path / "mine.txt").write_text("\ufeff# a remark\n disc \n\nring\n", encoding="utf-8")
    near = write_study(tmp_path / "a.toml", prompts=[], prompts_file="mine.txt")
    assert load_study(near).prompts == ("disc", "ring")
    data = write_study(tmp_path / "b.toml", prompts=[], prompts_file="prompts/bundled_24.txt")
    assert len(load_study(data).prompts) == 24
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "bundled_24.txt").write_text("disc\n")
    assert load_study(data).prompts == ("disc",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not found; looked at"),
        (b"# only a remark\n", "has no prompts"),
        (b"\xff\xfe", "not UTF-8"),
        (b"disc\ndisc\n", "listed twice"),
        (b"a\0b", "NUL"),
    ],
)
def test_a_bad_prompts_file_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(StudyError, match=words):
        load_study(write_study(tmp_path / "a.toml", prompts=[], prompts_file="p.txt"))


def test_a_prompts_file_with_an_impossible_name_is_refused():
    refused("prompts_file", prompts=[], prompts_file="x" * 5000)
    refused("prompts_file", prompts=[], prompts_file="a\0b")


def test_set_replaces_values_of_all_kinds(tmp_path):
    path = write_study(tmp_path / "a.toml")
    study = load_study(
        path,
        [
            "guidance_scale=5",
            "frames.count=7",
            'prompts=["ring", "a = b"]',
            "description=plain words",
            "seeds=[3,4]",
            'frames.kinds=["xt"]',
            "timing.repeats=2",
            "description=with = inside",
            "reference.lane=euler:200",
        ],
    )
    assert study.reference.lane.key == "euler:200", "a table that the file does not have"
    assert (study.guidance_scale, study.frames.count, study.prompts) == (5.0, 7, ("ring", "a = b"))
    assert (study.description, study.seeds, study.frames.kinds) == ("with = inside", (3, 4), ("xt",))
    assert study.timing.repeats == 2


def test_set_lanes_leaves_out_lanes_that_were_only_shown():
    study = load_study("quickstart", ['lanes=["ddim:4", "euler:4"]', "baseline=ddim:4"])
    assert [lane.key for lane in study.lanes] == ["ddim:4", "euler:4"]
    assert study.decide.shown_only == ()


def test_set_prompts_and_set_prompts_file_replace_each_other(tmp_path):
    (tmp_path / "p.txt").write_text("ring\n")
    path = write_study(tmp_path / "a.toml")
    assert load_study(path, ["prompts_file=p.txt"]).prompts == ("ring",)
    assert load_study(path, ["prompts_file=p.txt", 'prompts=["cross"]']).prompts == ("cross",)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("frames", "should read key=value"),
        ("=3", "should read key=value"),
        ("guidence_scale=3", "'guidance_scale'"),
        ("model.size=3", "'model' is not a table"),
        ("frames.count=many", "must be from 0"),
        ("timing=3", "must be a table"),
        ("commitment.promts=3", "'prompts'"),
        ("seeds=" + "[" * 5000, "must be a list"),
        ("seeds=[" + "9" * 5000 + "]", "must be a list"),
    ],
)
def test_a_bad_set_is_refused(tmp_path, setting, words):
    with pytest.raises(StudyError) as caught:
        load_study(write_study(tmp_path / "a.toml"), [setting])
    assert words in str(caught.value)


def test_lane_tables_take_a_class_a_variant_or_a_known_scheduler():
    study = parsed(
        lanes=[],
        lane=[
            {"key": "mine:12", "scheduler_class": "EulerDiscreteScheduler", "steps": 12, "use_karras_sigmas": True},
            {"key": "ddim:7", "description": "as it is", "eta": 0.0},
            {"key": "thick", "scheduler": "dpmpp_2m", "steps": 5, "solver_order": 3, "label": "Third order"},
            {"key": "plug:3", "scheduler_class": "json:JSONDecoder"},
            {"key": "euler:6", "label": "Plain Euler"},
        ],
    )
    mine, ddim, thick, plug, euler = study.lanes
    assert [lane.key for lane in study.lanes] == ["mine:12", "ddim:7", "thick:5", "plug:3", "euler:6"]
    assert mine.scheduler.target == "diffusers:EulerDiscreteScheduler"
    assert mine.config == {"use_karras_sigmas": True}
    assert ddim.description == "as it is"
    assert thick.scheduler.target == "diffusers:DPMSolverMultistepScheduler"
    assert (thick.config["solver_order"], thick.config["algorithm_type"]) == (3, "dpmsolver++")
    assert (thick.label, euler.label) == ("Third order 5", "Plain Euler 6")
    assert plug.scheduler.target == "json:JSONDecoder"
    assert study.baseline == "mine:12"


@pytest.mark.parametrize(
    ("lane", "words"),
    [
        ({"steps": 3}, "'key' is missing"),
        ({"key": "ddim"}, "steps must be a whole number"),
        ({"key": "ddim:5", "steps": 6}, "make them agree"),
        ({"key": "ddim:5", "steps": [5, 6]}, "make them agree"),
        ({"key": "ddim", "steps": []}, "steps must be a whole number"),
        ({"key": "ddim", "steps": [5, 5]}, "'ddim:5' is listed twice"),
        ({"key": "ddim", "steps": [5, 0]}, "from 1 to 1000"),
        ({"key": "ddim:²"}, "steps must be a whole number"),
        ({"key": "ddim:5", "steps": 0}, "from 1 to 1000"),
        ({"key": "mine:5"}, "add scheduler = ... or scheduler_class = ..."),
        ({"key": "mine:5", "scheduler": "eular"}, "Did you mean 'euler'?"),
        ({"key": "a b:5", "scheduler": "euler"}, "may hold letters"),
        ({"key": ":5", "scheduler": "euler"}, "may hold letters"),
        ({"key": "a b:5", "scheduler_class": "EulerDiscreteScheduler"}, "may hold letters"),
        ({"key": "mine:5", "scheduler_class": "not a class"}, "module:Class"),
        ({"key": "ddim:5", "eta": float("nan")}, "'eta' must be"),
        ({"key": "ddim:5", "eta": tomllib.loads("d = 2020-01-01")["d"]}, "'eta' must be"),
        ({"key": "ddim:5", "eta": "\ud800"}, "'eta' must be"),
    ],
)
def test_a_bad_lane_table_is_refused(lane, words):
    refused(words, lane=[lane])


@pytest.mark.parametrize("target", ["no_such_module:A", "__main__:NoSuchClass", "sys:path", "json.no_such:A"])
def test_a_scheduler_whose_code_is_nowhere_is_refused(target):
    study = parsed(lanes=[], lane=[{"key": "mine:3", "scheduler_class": target}])
    with pytest.raises(StudyError, match=r"(?i)scheduler"):
        cells(study, find_model("gaussian"), "cpu")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "There is no plug-in file"),
        ("import no_such_module_here", "ModuleNotFoundError: No module named"),
        ("raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
        ("syntax error here", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ],
)
def test_a_plug_in_that_cannot_be_imported_is_refused(tmp_path, source, words):
    if source is not None:
        (tmp_path / "broken_plug_in.py").write_text(source)
    path = write_study(tmp_path / "a.toml", plugins=["broken_plug_in.py"])
    with pytest.raises(StudyError, match=words):
        load_study(path)
    with pytest.raises(StudyError, match=words):  # a second try isn't fooled by what is left of the first
        load_study(path)


def test_a_plug_in_module_that_is_not_installed_is_named():
    refused("Plug-in 'no_such_module'", "No module named", plugins=["no_such_module"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name = ", "not valid TOML"),
        (b"\xff", "cannot be read"),
        (b"", "'name' is missing"),
        (b"a = " + b"[" * 5000, "not valid TOML"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, content, words):
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(StudyError, match=words):
        load_study(tmp_path / "a.toml")


def test_a_missing_file_and_an_unknown_preset_are_told_apart(tmp_path):
    with pytest.raises(StudyError, match="There is no study file"):
        load_study(tmp_path / "a.toml")
    with pytest.raises(StudyError, match=r"Presets: .*quickstart"):
        load_study("quikstart")


def test_a_bad_study_ends_with_exit_code_2_and_leaves_no_cache(tmp_path, capsys):
    path = write_study(tmp_path / "a.toml", lanes=["eular:3"])
    assert main(["run", str(path), "--cache", str(tmp_path / "c.duckdb")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: Unknown scheduler 'eular'. Did you mean 'euler'?")
    assert "Traceback" not in captured.err
    assert not (tmp_path / "c.duckdb").exists()
