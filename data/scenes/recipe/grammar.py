"""Captions of scenes, from one word to a long sentence, each with the facts it states."""

from __future__ import annotations

import random
from dataclasses import dataclass

from data.scenes.recipe.scene import Fact, Item, Scene
from data.scenes.recipe.vocabulary import (
    DETAILS,
    NUMBERS,
    PLACES,
    SEASONS,
    SIDES,
    STYLES,
    THINGS,
    TIMES,
    plural,
    with_article,
)


@dataclass(frozen=True)
class Caption:
    """A text and what it states; all of the facts are true of its scene."""

    text: str
    facts: frozenset[Fact]


EMPTY = Caption("", frozenset())


def _item_words(item: Item, rng: random.Random, side: bool, bare: float) -> tuple[str, set[Fact]]:
    """Return words for the things of one kind and what they state; `bare` is how often "owl" stands for "an owl"."""
    facts: set[Fact] = {("thing", item.thing)}
    colour = item.colour or (THINGS[item.thing].natural if rng.random() < 0.25 else None)
    words = item.thing if item.count == 1 else plural(item.thing)
    if colour:
        words = f"{colour} {words}"
        facts.add(("colour", f"{colour} {item.thing}"))
    if item.count > 1:
        words = f"{NUMBERS[item.count]} {words}"
        facts.add(("count", f"{item.count} {item.thing}"))
    elif rng.random() > bare:
        words = with_article(words)
    if side and item.side:
        words = f"{words} {SIDES[item.side]}"
        facts.add(("side", f"{item.side} {item.thing}"))
    return words, facts


def _things(scene: Scene, rng: random.Random, bare: float) -> tuple[str, set[Fact]]:
    """Return words for all things of the scene, joined by "and", and what they state."""
    side = rng.random() < 0.5
    parts = [_item_words(item, rng, side, bare) for item in scene.items]
    facts: set[Fact] = set()
    for _, stated in parts:
        facts |= stated
    return " and ".join(words for words, _ in parts), facts


def _place(scene: Scene, rng: random.Random, alone: bool) -> tuple[str, set[Fact]]:
    """Return the place in words that follow a thing ("on a beach") or stand alone ("a wide beach")."""
    place = PLACES[scene.place]
    if not alone:
        return place.at, {("place", scene.place)}
    article, _, noun = place.name.rpartition(scene.place)
    del noun
    draw = rng.random()
    if draw < 0.25:
        return scene.place, {("place", scene.place)}
    if draw < 0.6:
        return place.name, {("place", scene.place)}
    words = f"{rng.choice(place.moods)} {scene.place}"
    if article.strip() in ("a", "an"):
        words = with_article(words)
    elif article.strip():
        words = f"{article.strip()} {words}"
    return words, {("place", scene.place)}


def _extras(scene: Scene, rng: random.Random, keep: float) -> tuple[str, set[Fact]]:
    """Return words for season and details, each kept at the rate `keep`; details joined as "a red bridge and ..."."""
    words, facts = "", set[Fact]()
    if scene.season and rng.random() < keep:
        words = f" {rng.choice(SEASONS[scene.season])}"
        facts.add(("season", scene.season))
    for detail in scene.details:
        if rng.random() < keep * 0.6:
            said = DETAILS[detail]
            words += f" and {said.removeprefix('with ')}" if "with" in words else f" {said}"
            facts.add(("detail", detail))
    return words, facts


def describe(scene: Scene, rng: random.Random, length: str) -> Caption:
    """Return a caption that is "short" (one part), "medium" (things and place) or "long" (all but for chance)."""
    keep = {"short": 0.15, "medium": 0.45, "long": 0.9}[length]
    facts: set[Fact] = set()
    if scene.items and not (length == "short" and rng.random() < 0.35):
        text, facts = _things(scene, rng, bare=0.4 if length != "long" else 0.15)
        if length == "short":
            return Caption(text, frozenset(facts))
        where, stated = _place(scene, rng, alone=False)
        text = f"{text} {where}"
    else:
        text, stated = _place(scene, rng, alone=True)
    facts |= stated
    extras, stated = _extras(scene, rng, max(keep, 0.6 if not scene.items else 0.0))
    text, facts = text + extras, facts | stated
    if rng.random() < keep:
        text += f" {rng.choice(TIMES[scene.time])}"
        facts.add(("time", scene.time))
    if rng.random() < keep * 0.55:
        text += f", {rng.choice(STYLES[scene.style])}"
        facts.add(("style", scene.style))
    return Caption(text, frozenset(facts))


def sample_caption(scene: Scene, rng: random.Random, dropped: float = 0.0) -> Caption:
    """Return a caption of any length; an empty one at the rate `dropped`."""
    if rng.random() < dropped:
        return EMPTY
    return describe(scene, rng, rng.choices(("short", "medium", "long"), (0.2, 0.45, 0.35))[0])


def full_caption(scene: Scene) -> Caption:
    """Return the plain caption that names things, place, season and time, but no style: what evaluation asks for."""
    rng = random.Random(scene.seed)
    parts = [_item_words(item, rng, side=len(scene.items) > 1, bare=0.0) for item in scene.items]
    facts: set[Fact] = {("place", scene.place), ("time", scene.time)}
    for _, stated in parts:
        facts |= stated
    text = " and ".join(words for words, _ in parts)
    place = PLACES[scene.place]
    text = f"{text} {place.at}" if text else place.name
    if scene.season:
        text += f" {SEASONS[scene.season][0]}"
        facts.add(("season", scene.season))
    return Caption(f"{text} {TIMES[scene.time][0]}", frozenset(facts))


def all_words() -> list[str]:
    """Return every phrase the grammar is made of, to train the tokenizer on."""
    phrases = [*THINGS, *(plural(name) for name in THINGS), *DETAILS.values(), *NUMBERS.values(), *SIDES.values()]
    for place in PLACES.values():
        phrases += [place.at, place.name, *place.moods]
    for group in (TIMES, SEASONS, STYLES):
        phrases += [words for variants in group.values() for words in variants]
    from data.scenes.recipe.vocabulary import COLOURS

    return [*phrases, *COLOURS, "a", "an", "and", "the", "of", "picture"]
