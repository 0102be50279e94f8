"""What one scene shows, drawn from a seed, and which combinations training never sees."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace

from data.scenes.recipe.vocabulary import COLOURS, DETAILS, PLACES, SEASONS, SIDES, STYLES, THINGS, TIMES

HELD_OUT_SHARE = 0.1
Fact = tuple[str, str]


@dataclass(frozen=True)
class Item:
    """One kind of thing in a scene: how many of it, in which colour (None for its own) and on which side."""

    thing: str
    colour: str | None = None
    count: int = 1
    side: str | None = None

    @property
    def shown_colour(self) -> str | None:
        """The colour a viewer would name, if one word does."""
        return self.colour or THINGS[self.thing].natural


@dataclass(frozen=True)
class Scene:
    """All that a caption could say of a scene; `seed` settles the rest of the picture."""

    seed: int
    place: str
    time: str
    style: str
    season: str | None = None
    details: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()

    def facts(self) -> frozenset[Fact]:
        """Return everything true of the scene as (kind, value); a thing's colour and number name the thing too."""
        facts: set[Fact] = {("place", self.place), ("time", self.time), ("style", self.style)}
        if self.season:
            facts.add(("season", self.season))
        facts |= {("detail", detail) for detail in self.details}
        for item in self.items:
            facts |= {("thing", item.thing), ("count", f"{item.count} {item.thing}")}
            if item.shown_colour:
                facts.add(("colour", f"{item.shown_colour} {item.thing}"))
            if item.side:
                facts.add(("side", f"{item.side} {item.thing}"))
        return frozenset(facts)


def _chosen(first: str, second: str) -> bool:
    """Return whether the pair of words belongs to the held-out tenth; the same on every machine."""
    digest = hashlib.sha256(f"{first} + {second}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


ALWAYS_LEARNT = {("owl", "snowy hill"), ("apple", "table"), ("red", "apple"), ("brown", "owl")}


def held_out_pairs() -> list[tuple[str, str]]:
    """Return every held-out combination: (thing, place) and (colour, thing)."""
    pairs = [(thing, place) for thing in THINGS for place in PLACES]
    pairs += [(c, t) for t, thing in THINGS.items() for c in COLOURS if thing.tint and c != thing.natural]
    return [pair for pair in pairs if pair not in ALWAYS_LEARNT and _chosen(*pair)]


HELD_OUT = frozenset(held_out_pairs())


def is_held_out(scene: Scene) -> bool:
    """Return whether the scene has a combination that training never shows."""
    for item in scene.items:
        if (item.thing, scene.place) in HELD_OUT:
            return True
        if item.colour and (item.colour, item.thing) in HELD_OUT:
            return True
    return False


def _items(rng: random.Random, place: str) -> tuple[Item, ...]:
    """Return the things of a scene: none in 15 % of scenes, two or three of a kind in 11 %, two kinds in 9 %."""
    draw = rng.random()
    if draw < 0.15 and place != "table":
        return ()
    names = rng.sample(list(THINGS), 2)
    first = Item(names[0], _colour(rng, names[0]))
    if draw < 0.26:
        return (replace(first, count=rng.choice((2, 2, 3))),)
    if draw < 0.35:
        left, right = rng.sample(list(SIDES), 2)
        return replace(first, side=left), Item(names[1], _colour(rng, names[1]), side=right)
    return (replace(first, side=rng.choice((None,) * 6 + ("left", "right"))),)


def _colour(rng: random.Random, thing: str) -> str | None:
    """Return another colour for three in ten of the things that can take one."""
    if not THINGS[thing].tint or rng.random() > 0.3:
        return None
    colour = rng.choice(list(COLOURS))
    return None if colour == THINGS[thing].natural else colour


def draw_scene(seed: int, place: str | None = None) -> Scene:
    """Return the scene of a seed, at `place` if one is given; held-out combinations occur as often as others."""
    rng = random.Random(seed)
    place = place or rng.choice(list(PLACES))
    seasons = PLACES[place].seasons
    season = rng.choice(seasons) if seasons and rng.random() < (0.75 if place == "japanese garden" else 0.45) else None
    details: tuple[str, ...] = ()
    if place == "japanese garden":
        details = tuple(detail for detail in DETAILS if rng.random() < 0.5)
    return Scene(
        seed=seed,
        place=place,
        time=rng.choices(list(TIMES), (0.4, 0.2, 0.25, 0.15))[0],
        style=rng.choice(list(STYLES)),
        season=season,
        details=details,
        items=_items(rng, place),
    )


def training_scene(seed: int) -> Scene:
    """Return the first scene at or after `seed`, in steps far from other seeds, that has no held-out combination."""
    scene = draw_scene(seed)
    while is_held_out(scene):
        seed += 2**40
        scene = draw_scene(seed)
    return scene


def count_descriptions() -> int:
    """Return how many different descriptions of a scene there are; where hills stand, say, differs beyond them."""
    kinds = sum(1 + (len(COLOURS) if thing.tint else 0) for thing in THINGS.values())
    with_things = 1 + kinds * (3 + len(SIDES)) + kinds * kinds * len(SIDES)
    places = sum(1 + len(set(p.seasons)) for p in PLACES.values()) + 2 ** len(DETAILS) * (1 + len(SEASONS))
    return places * len(TIMES) * len(STYLES) * with_things
