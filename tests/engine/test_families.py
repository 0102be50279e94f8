"""The table of model families: what it tells of a pipeline, and what it refuses."""

from dataclasses import replace

import pytest

from engine.errors import StudyError
from engine.study.families import FAMILIES, UNKNOWN, Family, family_of
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
