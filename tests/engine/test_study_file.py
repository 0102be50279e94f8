"""A stored study as a study file: reading it gives the same study, whatever the texts in it."""

import json
import tomllib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sharing.study_file import study_toml
from engine.study.custom_schedules import CustomSchedule
from engine.study.schedulers import SCHEDULERS
from engine.study.study import load_study, parse_study, presets

PLAIN = {"name": "own", "prompts": ["owl"], "lanes": ["ddim:50"]}
LANES = [
    {"key": "mine:12", "scheduler_class": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, "label": "Mine"},
    {"key": "ddim:20", "timestep_spacing": "trailing", "description": 'said "so"'},
    {"key": "late:8", "scheduler": "dpmpp_2m_sde", "label": "SDE late"},
    {"key": "euler:4", "label": "My own name"},
]


def again(study):
    """The study after a trip through the cache's JSON and a study file."""
    return parse_study(tomllib.loads(study_toml(json.loads(json.dumps(study.spec())))))


def assert_same(study):
    """All but where a lane's configuration is set: by its entry of the table, or by the study."""
    found = again(study)
    assert found.spec() | {"lanes": []} == study.spec() | {"lanes": []}
    for one, other in zip(study.lanes, found.lanes, strict=True):
        assert (one.key, one.label, one.config, one.scheduler.target, one.steps, one.description) == (
            other.key,
            other.label,
            other.config,
            other.scheduler.target,
            other.steps,
            other.description,
        )


@pytest.mark.parametrize("name", presets())
def test_every_preset_comes_back(name):
    assert_same(load_study(name))


@pytest.mark.parametrize("lanes", [[lane] for lane in LANES] + [LANES], ids=lambda lanes: lanes[0]["key"])
def test_lanes_of_their_own_come_back_with_the_same_configuration(lanes):
    study = parse_study({**PLAIN, "lane": lanes})
    assert_same(study)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_comes_back(text):
    study = parse_study({**PLAIN, "prompts": [text], "negative_prompt": text, "description": text})
    assert again(study).spec() == study.spec()


def test_what_a_stranger_put_in_place_of_a_study_is_still_text():
    odd = {"name": 'x"\n[evil]', "prompts": [None, 3], "lanes": ["?", {"key": None}], "frames": 7, "a b": {"c": []}}
    assert tomllib.loads(study_toml(odd))["name"] == odd["name"]


def test_a_small_decoder_is_named_and_a_tuned_lane_is_what_it_was_tuned_to_be(scheduler_table):
    entry = replace(SCHEDULERS["dpmpp_2m"], key="tuned_mine", label="Mine", levels="tuned")
    SCHEDULERS.register(replace(entry, schedule=CustomSchedule("timesteps", (999.0, 400.0))))
    told = parse_study(PLAIN | {"lanes": ["ddim:50"], "lane": [{"key": "tuned_mine:2", "description": "few"}]})
    spec = json.loads(json.dumps(told.spec())) | {"frames": {"count": 2, "tiny": {"name": "taesd", "sha256": "a"}}}
    plain = tomllib.loads(study_toml(spec))
    assert plain["frames"]["tiny"] == "taesd"
    assert plain["lane"] == [{"key": "tuned_mine:2", "label": "Mine", "description": "few"}]
    assert parse_study(plain | {"frames": {}}).lanes[1].schedule == told.lanes[1].schedule


def test_files_of_a_pipeline_are_named_as_a_study_names_them():
    lora = [{"name": "style.safetensors", "sha256": "a", "scale": 0.8}]
    image = {"file": "photo.png", "sha256": "b"}
    table = {"class": "XPipeline", "controlnet": {"name": "net", "sha256": "c"}, "lora": lora, "image": image}
    assert tomllib.loads(study_toml(PLAIN | {"pipeline": table}))["pipeline"] == table | {
        "controlnet": "net",
        "lora": ["style.safetensors:0.8"],
    }
