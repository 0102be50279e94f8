"""Scenes, captions and the formula of attributes by themselves, without any training."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("skia", reason="skia-python needs libEGL and libGL", exc_type=ImportError)

from data.scenes.recipe.attributes import Asked, known_attributes, questions, score
from data.scenes.recipe.evaluate_variety import nearest_distance, variety
from data.scenes.recipe.grammar import Caption, describe, full_caption, sample_caption
from data.scenes.recipe.painter import Painter
from data.scenes.recipe.pause import Pause
from data.scenes.recipe.prompts import README, held_out_scenes, other_seeds
from data.scenes.recipe.scene import (
    HELD_OUT,
    Item,
    Scene,
    count_descriptions,
    draw_scene,
    held_out_pairs,
    is_held_out,
    training_scene,
)
from data.scenes.recipe.sprites import plain_sprites, tint
from data.scenes.recipe.train_clip import fits, matching_loss
from data.scenes.recipe.vocabulary import PLACES, STYLES, THINGS, TIMES
from engine.measuring.attributes import kinds_of
from engine.measuring.attributes import questions as read_questions
from engine.study.source import find_model


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter(plain_sprites(), 32)


def test_it_is_known_what_things_cover(painter: Painter) -> None:
    painter.paint(Scene(1, "meadow", "day", "flat", items=(Item("owl"),)))
    covered = painter.covered(8)
    (box,) = painter.boxes
    assert covered.sum() / 64 == pytest.approx(box.width() * box.height() / 64**2, rel=1e-3)
    assert covered[0].max() == 0
    assert covered[5:7, 3:5].min() > 0.9
    painter.paint(Scene(1, "meadow", "day", "flat"))
    assert painter.covered(8).max() == 0


def test_captions_state_only_what_is_true() -> None:
    rng = random.Random(0)
    for seed in range(300):
        scene = draw_scene(seed)
        captions = [describe(scene, rng, length) for length in ("short", "medium", "long")]
        for caption in [*captions, full_caption(scene)]:
            assert caption.facts <= scene.facts()
            assert caption.text == caption.text.strip().lower()
            assert "  " not in caption.text


def test_the_grammar_says_what_it_should() -> None:
    def said(scene: Scene) -> set[str]:
        rng = random.Random(1)
        return {sample_caption(scene, rng).text for _ in range(3000)}

    garden = Scene(0, "japanese garden", "day", "3d", season="blossom")
    assert README.text in said(garden)
    assert README.facts <= garden.facts()
    owl = Scene(0, "snowy hill", "night", "flat", items=(Item("owl"),))
    assert "owl on a snowy hill at night, flat style" in said(owl)
    apples = Scene(0, "table", "day", "3d", items=(Item("apple", count=2),))
    assert "two red apples on a table" in said(apples)
    assert any(text.startswith("a blue owl ") for text in said(replace(owl, items=(Item("owl", "blue"),))))


def test_the_lab_reads_from_a_caption_what_its_scene_was_asked_for() -> None:
    folder = Path(__file__).parents[2] / "data/scenes"
    assert json.loads((folder / "attributes.json").read_text(encoding="utf-8")) == known_attributes()
    kinds, rng = kinds_of(replace(find_model("gaussian"), folder=folder)), random.Random(2)
    for scene in [*map(draw_scene, range(150)), *held_out_scenes(50)]:
        for caption in (full_caption(scene), sample_caption(scene, rng), sample_caption(scene, rng)):
            meant = questions(caption)
            read = read_questions(caption.text, kinds) if meant else []
            assert {(q.kind, q.texts, q.right) for q in read} == {(q.kind, q.texts, q.right) for q in meant}


def test_some_captions_are_dropped() -> None:
    rng = random.Random(0)
    empty = sum(not sample_caption(draw_scene(0), rng, dropped=0.1).text for _ in range(1000))
    assert 60 < empty < 140


def test_held_out_combinations_never_occur_in_training() -> None:
    assert 0.07 < len(HELD_OUT) / (len(THINGS) * (len(PLACES) + 8)) < 0.13
    drawn = [draw_scene(seed) for seed in range(3000)]
    assert sum(map(is_held_out, drawn)) > 100
    assert not any(is_held_out(training_scene(seed)) for seed in range(3000))
    asked = held_out_scenes(2 * len(held_out_pairs()))
    assert all(is_held_out(scene) for scene in asked)
    shown = {(item.thing, scene.place) for scene in asked for item in scene.items}
    shown |= {(item.colour, item.thing) for scene in asked for item in scene.items if item.colour}
    assert shown >= HELD_OUT


def test_seeds_give_scenes_and_the_same_ones_again() -> None:
    assert draw_scene(5) == draw_scene(5)
    assert len({draw_scene(seed) for seed in range(500)}) == 500
    assert count_descriptions() * 1000 > 10**9  # a thousand seeds of one description look different, see below


def test_each_place_is_painted_in_each_time_and_style(painter: Painter) -> None:
    seen = set()
    for number, place in enumerate(PLACES):
        for time in TIMES:
            style = list(STYLES)[number % 3]
            for season in (None, *PLACES[place].seasons):
                details = ("bridge", "lantern", "torii", "pagoda") if place == "japanese garden" else ()
                scene = Scene(number, place, time, style, season, details, (Item("owl", "blue", 2), Item("whale")))
                picture = painter.paint(scene)
                assert picture.shape == (32, 32, 3)
                assert picture.std() > 8
                seen.add(picture.tobytes())
    assert len(seen) == sum(4 * (1 + len(set(place.seasons))) for place in PLACES.values())


def test_a_scene_is_painted_alike_again_and_differs_by_seed(painter: Painter) -> None:
    scene = Scene(3, "meadow", "day", "painted", items=(Item("fox"),))
    assert (painter.paint(scene) == painter.paint(scene)).all()
    others = [painter.paint(other) for other, _ in zip(other_seeds(scene), range(3), strict=False)]
    assert len({other.tobytes() for other in others}) == 3
    assert painter.paint(replace(scene, time="night")).mean() < painter.paint(scene).mean() - 30


def test_a_tint_takes_the_colour_and_keeps_the_shape() -> None:
    sprite = np.zeros((8, 8, 4), dtype=np.uint8)
    sprite[2:6, 2:6] = (150, 90, 60, 255)
    blue = tint(sprite, (40, 90, 220))
    assert (blue[..., 3] == sprite[..., 3]).all()
    assert blue[4, 4, 2] > blue[4, 4, 0] + 80


def test_questions_have_ten_alternatives_and_their_chance() -> None:
    scene = Scene(0, "lake", "night", "3d", items=(Item("owl", "blue", side="left"), Item("fox", side="right")))
    asked = questions(full_caption(scene))
    assert [question.kind for question in asked][:3] == ["thing", "thing", "place"]
    for question in asked:
        assert len(question.texts) == 4 if question.kind == "time" else len(question.texts) >= 11
        assert len(set(question.texts)) == len(question.texts)
        assert question.chance == 1 / len(question.texts)
    things = [question for question in asked if question.kind == "thing"]
    assert {question.texts[question.right] for question in things} == {"an owl", "a fox"}
    assert "an owl" not in next(q for q in things if q.texts[q.right] == "a fox").texts
    colour = next(question for question in asked if question.kind == "colour")
    assert colour.texts[colour.right] == "a blue owl"


def test_score_is_the_share_found_beside_chance() -> None:
    two, four = Asked("time", ("a", "b"), 0), Asked("thing", ("a", "b", "c", "d"), 3)
    result = score([two, two, four, four], [0, 1, 3, 3])
    assert result.found == 0.75
    assert result.chance == pytest.approx((0.5 + 0.5 + 0.25 + 0.25) / 4)
    assert result.by_kind == {"time": (0.5, 0.5, 2), "thing": (1.0, 0.25, 2)}
    with pytest.raises(ValueError, match="1 questions but 0 answers"):
        score([two], [])
    assert questions(Caption("", frozenset())) == []


def test_a_caption_fits_every_scene_it_is_true_of() -> None:
    scenes = [Scene(i, "sea", "day", "3d", items=(Item(thing),)) for i, thing in enumerate(("owl", "fox"))]
    captions = [Caption("an owl", frozenset({("thing", "owl")})), Caption("the sea", frozenset({("place", "sea")}))]
    fitting = fits(captions, scenes)
    assert fitting.tolist() == [[True, True], [False, True]]
    good, right = matching_loss(torch.tensor([[9.0, 9.0], [0.0, 9.0]]), fitting)
    bad, wrong = matching_loss(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), fitting)
    assert good < bad
    assert (right, wrong) == (1.0, 0.5)


def test_variety_compares_drawn_with_painted() -> None:
    gallery = torch.randn(50, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert nearest_distance(gallery[:5], gallery).max() < 0.01
    painted = [torch.randn(20, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    copied = variety([gallery[:20], gallery[:20]], painted, gallery)
    assert copied.memory_ratio < 0.01
    assert copied.seed_ratio == 0
    assert variety(painted, painted, gallery).memory_ratio == 1


def test_training_steps_aside_while_a_file_exists(tmp_path: Path) -> None:
    halt = tmp_path / "halt"
    assert Pause(halt).wait() == 0
    assert Pause().wait() == 0

    halt.touch()
    timer = threading.Timer(0.05, halt.unlink)
    timer.start()
    assert Pause(halt, check_seconds=0.01).wait() >= 0.03
    timer.join()
