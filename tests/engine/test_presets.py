"""The studies that come with the project: each can be read and fits the model it names."""

import pytest

from engine.study.cells import cells, check_lanes
from engine.study.source import find_model
from engine.study.study import load_study, presets


def test_there_is_a_quickstart():
    assert "quickstart" in presets()


@pytest.mark.parametrize("name", presets())
def test_a_preset_can_be_read_and_says_what_it_is(name):
    study = load_study(name)
    assert study.name == name
    assert study.description
    assert study.prompts


@pytest.mark.parametrize("name", presets())
def test_the_lanes_of_a_preset_are_right_for_its_model(name):
    study = load_study(name)
    source = find_model(study.model)
    if source.fingerprint is None:
        pytest.skip(f"{study.model} is a hub model that is not on this machine")
    check_lanes(study.lanes, source.scheduler_config)
    found = cells(study, source, "cpu")
    assert len({cell.trajectory_id for cell in found}) == len(study.lanes) * len(study.prompts) * len(study.seeds)
