"""How many of a caption's things, places, colours and times of day a judge finds in a picture, and chance would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from data.scenes.recipe.grammar import Caption
from data.scenes.recipe.vocabulary import COLOURS, PLACES, THINGS, TIMES, plural, with_article

KINDS = ("thing", "place", "colour", "time")


@dataclass(frozen=True)
class Asked:
    """One attribute of a caption: which of the texts fits the picture best, and which one should.

    Args:
        kind: "thing", "place", "colour" or "time".
        texts: the alternatives, the right one among them.
        right: its index.
    """

    kind: str
    texts: tuple[str, ...]
    right: int

    @property
    def chance(self) -> float:
        """The share of right answers of someone who guesses."""
        return 1 / len(self.texts)


def questions(caption: Caption) -> list[Asked]:
    """Return a question for each thing, place, colour and time of day that the caption states.

    Alternatives are all known values of the kind; a thing is not asked against others that the caption names too. A
    colour is asked of its thing ("a blue owl" against "a red owl"), a time of day of the place where one is stated.
    """
    named = {kind: [value for k, value in sorted(caption.facts) if k == kind] for kind in KINDS}
    asked = []
    for thing in named["thing"]:
        others = [name for name in THINGS if name == thing or name not in named["thing"]]
        asked.append(Asked("thing", tuple(with_article(name) for name in others), others.index(thing)))
    for place in named["place"]:
        asked.append(Asked("place", tuple(p.name for p in PLACES.values()), list(PLACES).index(place)))
    for value in named["colour"]:
        colour, _, thing = value.partition(" ")
        texts = tuple(with_article(f"{other} {thing}") for other in COLOURS)
        asked.append(Asked("colour", texts, list(COLOURS).index(colour)))
    for time in named["time"]:
        lead = f"{PLACES[named['place'][0]].name} " if named["place"] else ""
        asked.append(Asked("time", tuple(lead + words[0] for words in TIMES.values()), list(TIMES).index(time)))
    return asked


def known_attributes() -> list[dict[str, Any]]:
    """Return the content of the model's `attributes.json`: each value, how prompts say it, how CLIP is asked for it."""

    def value(name: str, said: Iterable[str], text: str) -> dict[str, Any]:
        return {"name": name, "said": list(dict.fromkeys(said)), "text": text}

    return [
        {"kind": "thing", "values": [value(name, (name, plural(name)), with_article(name)) for name in THINGS]},
        {"kind": "place", "values": [value(name, (name,), place.name) for name, place in PLACES.items()]},
        {
            "kind": "colour",
            "of": "thing",
            "values": [value(colour, (colour,), with_article(f"{colour} {{thing}}")) for colour in COLOURS],
        },
        {
            "kind": "time",
            "at": "place",
            "values": [value(time, words, f"{{place}} {words[0]}") for time, words in TIMES.items()],
        },
    ]


@dataclass(frozen=True)
class Attributes:
    """The share of attributes found in n pictures, by kind and over all, with what chance would find.

    Args:
        found: share of all questions answered right, 0 to 1.
        chance: the mean over the questions of one over the number of alternatives, 0 to 1.
        asked: number of questions.
        by_kind: kind to (share found, chance, number of questions).
    """

    found: float
    chance: float
    asked: int
    by_kind: dict[str, tuple[float, float, int]]


def score(asked: Sequence[Asked], answers: Sequence[int]) -> Attributes:
    """Return the share of questions whose answer (an index of its texts) is right.

    Raises:
        ValueError: there are no questions, or not one answer for each.
    """
    if not asked or len(asked) != len(answers):
        raise ValueError(f"{len(asked)} questions but {len(answers)} answers; each needs one, and there must be some.")

    def part(chosen: list[tuple[Asked, int]]) -> tuple[float, float, int]:
        hits = sum(question.right == answer for question, answer in chosen)
        return hits / len(chosen), sum(question.chance for question, _ in chosen) / len(chosen), len(chosen)

    pairs = list(zip(asked, answers, strict=True))
    kinds = {kind: [pair for pair in pairs if pair[0].kind == kind] for kind in KINDS}
    found, chance, number = part(pairs)
    return Attributes(found, chance, number, {kind: part(chosen) for kind, chosen in kinds.items() if chosen})
