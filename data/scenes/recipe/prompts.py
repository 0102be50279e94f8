"""The scenes that evaluation asks for: fresh ones, and ones with combinations that training never showed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from data.scenes.recipe.grammar import Caption, full_caption
from data.scenes.recipe.scene import HELD_OUT, Item, Scene, draw_scene, held_out_pairs, training_scene
from data.scenes.recipe.vocabulary import PLACES

FRESH = 2**33  # seeds from here on are never used in training
README = Caption(
    "a serene japanese garden with cherry blossoms", frozenset({("place", "japanese garden"), ("season", "blossom")})
)


def fresh_scenes(count: int, first: int = FRESH) -> list[Scene]:
    """Return scenes of learnt combinations that training has not seen."""
    return [training_scene(first + i) for i in range(count)]


def held_out_scenes(count: int, first: int = FRESH) -> list[Scene]:
    """Return scenes with one kind of thing each, in the order of the held-out list: its pairs in turn.

    A (thing, place) pair stands at its place in its own colour; a (colour, thing) pair at a place that training has
    shown with the thing. Time, season and style are drawn.
    """
    scenes: list[Scene] = []
    pairs = held_out_pairs()
    for number in range(count):
        one, other = pairs[(number * 37) % len(pairs)]
        base = draw_scene(first + number)
        if other in PLACES:
            base, item = draw_scene(first + number, other), Item(one)
        else:
            item = Item(other, colour=one)
            seed = first + number
            while (other, base.place) in HELD_OUT:
                seed += 2**40
                base = draw_scene(seed)
        scenes.append(replace(base, items=(item,)))
    return scenes


def other_seeds(scene: Scene, first: int = FRESH * 2) -> Iterator[Scene]:
    """Yield scenes of the same description from other seeds, for ever."""
    seed = first
    while True:
        yield replace(scene, seed=seed + scene.seed)
        seed += 2**40


def captions_of(scenes: list[Scene]) -> list[Caption]:
    """Return the plain full caption of each scene."""
    return [full_caption(scene) for scene in scenes]
