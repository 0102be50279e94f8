"""Entries of `scheduler_configs` as lanes: classes by text or as such, and keys that tell names apart."""

import re

import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from engine.study.configs import lane_of
from tests.engine.miniatures import FailsAtStepThree


def test_a_class_may_be_named_by_text_or_be_ones_own() -> None:
    by_name = lane_of("Mine", {"scheduler_class": "EulerDiscreteScheduler", "num_inference_steps": 9})
    assert (by_name.key, by_name.scheduler.key) == ("euler:9", "euler")
    own = lane_of("My own!", {"scheduler_class": FailsAtStepThree, "num_inference_steps": 5})
    assert re.fullmatch(r"My_own_[0-9a-f]{8}:5", own.key)
    assert own.label == "My own! 5"
    assert own.scheduler.target == "tests.engine.miniatures:FailsAtStepThree"


@pytest.mark.parametrize(
    "names",
    [
        ("A-20", "A 20", "A_20", "A  20"),
        ("日本", "中国"),
        ("x" * 80 + "a", "x" * 80 + "b"),
        ("ddim", "DDIM!"),
        ("", " "),
    ],
    ids=["punctuation", "no Latin letter", "long", "key of the table", "blank"],
)
def test_names_that_differ_are_lanes_that_differ_and_stay_the_same_lanes(names: tuple[str, ...]) -> None:
    configs = [
        {"scheduler_class": DDIMScheduler, "num_inference_steps": 10, "config": {"timestep_spacing": spacing}}
        for spacing in ("leading", "trailing")
    ]
    keys = [lane_of(name, configs[0]).key for name in names]
    plain = lane_of("plain", {"scheduler_class": DDIMScheduler, "num_inference_steps": 10}).key
    assert len({*keys, plain}) == len(names) + 1
    assert [lane_of(name, configs[1]).key for name in names] == keys
    assert all(re.fullmatch(r"[A-Za-z0-9_.+-]{1,64}:10", key) for key in keys)


def test_plain_names_make_plain_keys() -> None:
    entry = {"scheduler_class": EulerDiscreteScheduler, "num_inference_steps": 4, "config": {"use_karras_sigmas": True}}
    assert lane_of("Euler Karras", entry).key == "Euler_Karras:4"
    assert lane_of("A-20", entry).key == "A-20:4"
