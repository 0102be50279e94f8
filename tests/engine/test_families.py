"""The table of model families: what it tells of a pipeline, and what it refuses."""

import ast
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest

from engine.display.family_tables import END, README, family_rows, scheduler_rows, with_tables
from engine.errors import StudyError
from engine.study.families import FAMILIES, UNKNOWN, Family, family_of, needed_inputs
from engine.study.lanes import check_lane, parse_lane
from engine.study.schedulers import SCHEDULERS
from engine.study.source import find_model


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, family in list(FAMILIES.items()):
        monkeypatch.setitem(FAMILIES, key, family)


def test_a_pipeline_class_belongs_to_one_family() -> None:
    told_apart = {"flux_schnell": {"use_dynamic_shifting": False}, "flux": {"use_dynamic_shifting": True}}
    for family in FAMILIES.values():
        if not family.builder:
            config = told_apart.get(family.key, {})
            assert {family_of(name, config).key for name in family.pipelines} == {family.key}


def test_the_classes_of_the_table_exist_and_take_the_inputs_that_are_asked_for() -> None:
    calls = {}
    for file in (Path(diffusers.__file__).parent / "pipelines").rglob("pipeline_*.py"):
        for kind in ast.parse(file.read_text(encoding="utf-8")).body:
            for each in kind.body if isinstance(kind, ast.ClassDef) else ():
                if isinstance(each, ast.FunctionDef) and each.name == "__call__":
                    calls[kind.name] = {argument.arg for argument in each.args.args}  # type: ignore[attr-defined]
    for family in FAMILIES.values():
        for name in family.pipelines:
            assert set(needed_inputs(family, name)) <= calls[name], name
    assert needed_inputs(FAMILIES["flux"], "FluxControlNetImg2ImgPipeline") == ("prompt", "image", "control_image")


def test_a_pipeline_that_no_entry_names_has_the_usual_properties() -> None:
    assert family_of("NoSuchPipeline") is UNKNOWN
    assert (UNKNOWN.guidance, UNKNOWN.style) == ("guidance_scale", "unknown")


def test_the_family_of_a_computed_model_is_its_own() -> None:
    assert find_model("gaussian").family.key == "gaussian"
    assert find_model("bundled").family.key == "sd"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pipelines": ()}, "pipelines must name a class"),
        ({"denoisers": ()}, "denoisers must name a component"),
        ({"builder": "somewhere"}, "should read 'module:function'"),
        ({"key": "no key"}, "Model family key 'no key'"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(change: dict[str, object], told: str) -> None:
    entry = replace(Family("mine", "Mine", ("MyPipeline",)), **change)
    with pytest.raises(StudyError, match=told):
        FAMILIES.register(entry)
    assert entry.key not in FAMILIES


def test_the_readme_shows_the_tables_as_they_are() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run `make tables`"
    with pytest.raises(ValueError, match="end of model families"):
        with_tables(text.replace(END, ""))


# One model of each kind, by the scheduler configuration it comes with.
CONFIGS: dict[str, dict[str, object]] = {
    "discrete": {"_class_name": "DDIMScheduler", "steps_offset": 1},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    "continuous": {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
    "cogvideox": {"_class_name": "CogVideoXDDIMScheduler"},
}


def test_what_the_tables_say_is_what_a_run_refuses_and_takes() -> None:
    heading, *rows = scheduler_rows()
    assert [row[0] for row in rows] == [f"`{key}`" for key, entry in SCHEDULERS.items() if not entry.levels]
    families = {family.label: family for family in FAMILIES.values() if not family.builder}
    assert [row[0] for row in family_rows()][1:] == list(families)
    for place, names in enumerate(heading[1:-1], 1):
        for family in map(families.__getitem__, names.split(", ")):
            config = CONFIGS[family.kind] | family.scheduler
            for row in rows:
                found = check_lane(parse_lane(f"{row[0].strip('`')}:4"), config, family)
                refused = any(finding.severity == "error" for finding in found)
                distilled = any(finding.code == "distilled" for finding in found)
                word = "" if refused else "distilled weights" if distilled else "yes"
                assert row[place] == word, (family.key, row[0])
