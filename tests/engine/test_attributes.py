"""Attributes: what is read from a prompt, and how much of it CLIP finds."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from engine.measuring.attributes import Kind, by_chance, kinds_of, questions
from engine.measuring.evidence import Evidence, Subject, Unmeasurable
from engine.measuring.metrics import METRICS
from engine.study.source import ModelSource, find_model
from tests.engine.test_metrics import evidence, random_pictures, write_clip


def values(text: str, **said: list[str]) -> list[dict[str, object]]:
    return [
        {"name": name, "said": words or [name], "text": text.format(name, of="{thing}", at="{place}")}
        for name, words in said.items()
    ]


KNOWN = [
    {
        "kind": "thing",
        "values": values("a {}", owl=["owl", "owls"], bear=[], cat=[]) + values("a toy", teddy=["teddy bear"]),
    },
    {"kind": "place", "values": values("the {}", sea=[], room=[])},
    {"kind": "colour", "of": "thing", "values": values("a {} {of}", red=[], blue=[], grey=[])},
    {"kind": "time", "at": "place", "values": values("{at} {}", night=["at night"], fog=["in fog"])},
]


@pytest.fixture
def model(tmp_path: Path) -> ModelSource:
    (tmp_path / "attributes.json").write_text(json.dumps(KNOWN))
    return dataclasses.replace(find_model("gaussian"), kind="folder", folder=tmp_path)


@pytest.fixture
def kinds(model: ModelSource) -> tuple[Kind, ...]:
    return kinds_of(model)


def asked(prompt: str, kinds: tuple[Kind, ...]) -> list[tuple[str, str, int]]:
    """Kind, right text and number of alternatives of each question."""
    return [(one.kind, one.texts[one.right], len(one.texts)) for one in questions(prompt, kinds)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("owl", [("thing", "a owl", 4)]),
        ("Two  Owls", [("thing", "a owl", 4)]),
        ("an owl at night", [("thing", "a owl", 4), ("time", "night", 2)]),
        ("teddy bear", [("thing", "a toy", 4)]),
        ("a bear and a cat", [("thing", "a bear", 3), ("thing", "a cat", 3)]),
        ("red owls", [("thing", "a owl", 4), ("colour", "a red owl", 3)]),
        ("red and blue owl", [("thing", "a owl", 4), ("colour", "a blue owl", 3)]),
        ("the sea at night", [("place", "the sea", 2), ("time", "the sea night", 2)]),
        ("a room, red", [("place", "the room", 2)]),
        ("a red owl and a blue owl", [("thing", "a owl", 4), ("colour", "a red owl", 2), ("colour", "a blue owl", 2)]),
        ("an owl at night or in fog", [("thing", "a owl", 4)]),
    ],
)
def test_a_prompt_is_asked_for_what_it_names(
    prompt: str, expected: list[tuple[str, str, int]], kinds: tuple[Kind, ...]
) -> None:
    assert asked(prompt, kinds) == expected


@pytest.mark.parametrize("prompt", ["", "a seal", "rooms", "tonight"])
def test_parts_of_words_are_not_named(prompt: str, kinds: tuple[Kind, ...]) -> None:
    with pytest.raises(Unmeasurable, match=r"names nothing of attributes\.json"):
        questions(prompt, kinds)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        '["thing"]',
        json.dumps([{"kind": "thing", "values": []}]),
        json.dumps([{"kind": "thing", "values": values("{}", owl=[""], cat=[])}]),
        json.dumps([KNOWN[2], KNOWN[0]]),
        json.dumps([{"kind": "thing", "values": [{"name": "owl", "said": "owl", "text": "an owl"}] * 2}]),
        "[" * 100_000,
        " " * 1_000_001,
    ],
)
def test_a_damaged_list_is_told_and_never_used(text: str, model: ModelSource) -> None:
    assert model.folder is not None
    (model.folder / "attributes.json").write_text(text)
    with pytest.raises(Unmeasurable, match=r"attributes\.json is damaged .*; fetch the model again"):
        kinds_of(model)


def test_a_model_without_a_list_has_concepts_and_one_with_it_attributes(model: ModelSource, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip")
    with pytest.raises(Unmeasurable, match="name attributes, not one concept"):
        METRICS["recognised"].full_version(Subject(model))
    assert METRICS["attributes"].unfit(Subject(model), ["an owl", "a red bear"]) == ""
    assert METRICS["attributes"].unfit(Subject(model), ["an owl", "a seal"]).startswith('"a seal": the prompt names')
    assert METRICS["clip_score"].unfit(Subject(model), ["a seal"]) == ""
    before = METRICS["attributes"].full_version(Subject(model))
    (tmp_path / "attributes.json").write_text(json.dumps(KNOWN[:1]))
    assert METRICS["attributes"].full_version(Subject(model)) != before
    (tmp_path / "attributes.json").unlink()
    with pytest.raises(Unmeasurable, match=r"no attributes\.json"):
        METRICS["attributes"].full_version(Subject(model))


def test_the_share_found_follows_its_formula(model: ModelSource, tmp_path: Path) -> None:
    from engine.measuring.clip_model import ClipModel

    write_clip(tmp_path / "clip")
    judge, pictures = ClipModel(tmp_path / "clip"), random_pictures((6, 32, 32, 3))

    def hits(right: str, *others: str) -> np.ndarray:
        cosines = judge.pictures(pictures) @ np.stack([judge.text(text) for text in (right, *others)]).T
        return np.asarray(cosines.argmax(axis=1) == 0)

    found: Evidence = evidence(pictures, subject=Subject(model), prompt="a red owl at night")
    expected = [
        hits("a owl", "a bear", "a cat", "a toy"),
        hits("a red owl", "a blue owl", "a grey owl"),
        hits("night", "fog"),
    ]
    assert METRICS["attributes"].value(found) == pytest.approx(np.mean(expected))
    assert 0 < np.mean(expected) < 1
    assert by_chance(model, ["a red owl at night", "nothing"]) == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 3)
    assert math.isnan(by_chance(model, ["nothing"]))
