"""What a prompt asks for, attribute by attribute, and how much of it CLIP finds in a picture.

A model's folder may hold `attributes.json`: a list of kinds ("thing", "place", "colour", ...), each with its values,
the words by which a prompt says them, and the text by which CLIP is asked for them:

    [{"kind": "thing", "values": [{"name": "owl", "said": ["owl", "owls"], "text": "an owl"}, ...]},
     {"kind": "colour", "of": "thing", "values": [{"name": "red", "said": ["red"], "text": "a red {thing}"}, ...]},
     {"kind": "time", "at": "place", "values": [{"name": "fog", "said": ["in fog"], "text": "{place} in fog"}, ...]}]

Kinds come after those they refer to. A kind "of" another counts only directly before a value of it, and is asked once
for each ("a red owl" against "a blue owl"). A kind "at" another is asked with the text of the first one said, if any.
"""

import contextlib
import functools
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.measuring import clip
from engine.measuring.evidence import Evidence, Subject, Unmeasurable
from engine.study.source import ModelSource

LARGEST_BYTES = 1_000_000


@dataclass(frozen=True)
class Value:
    """One value of a kind: its name, the words that say it, and the text CLIP is asked."""

    name: str
    said: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Kind:
    """The alternatives of which a prompt may say one; for `of` and `at` see above."""

    kind: str
    values: tuple[Value, ...]
    of: str = ""
    at: str = ""


@dataclass(frozen=True)
class Alternatives:
    """Which of `texts` fits the picture best? The one at `right` should."""

    kind: str
    texts: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class _Said:
    """A value said in a prompt, and from where to where in its text."""

    value: Value
    start: int
    end: int


def attributes(evidence: Evidence) -> float:
    """Share of the prompt's attributes that CLIP ranks first among all values of their kind, 0 to 1; mean over frames.

    Raises:
        Unmeasurable: The prompt names none, or the model has no list of them.
    """
    asked = questions(evidence.prompt, kinds_of(evidence.subject.model))
    judge = clip.judge_of(evidence.subject.model)
    pictures = clip.embedded(judge, evidence.pictures)
    hits = []
    for question in asked:
        texts = np.stack([judge.text(text) for text in question.texts])
        hits.append((pictures @ texts.T).argmax(axis=1) == question.right)
    return float(np.mean(hits))


def by_chance(model: ModelSource, prompts: Iterable[str]) -> float:
    """What `attributes` is on average for one who guesses, over the prompts that name something; NaN if none does.

    Raises:
        Unmeasurable: The model has no list of attributes.
    """
    kinds, found = kinds_of(model), list[float]()
    for prompt in prompts:
        with contextlib.suppress(Unmeasurable):
            found.append(float(np.mean([1 / len(one.texts) for one in questions(prompt, kinds)])))
    return float(np.mean(found)) if found else math.nan


def check_prompt(subject: Subject, prompt: str) -> None:
    """Checks that pictures of a prompt have a value.

    Raises:
        Unmeasurable: They have none.
    """
    questions(prompt, kinds_of(subject.model))


def edition(subject: Subject) -> str:
    """Name and digest of the CLIP model, and a digest of the attributes.

    Raises:
        Unmeasurable: One of them is missing.
    """
    kinds_of(subject.model)
    return f"{clip.edition(subject)}, attributes {clip.digest(path_of(subject.model))}"


def path_of(model: ModelSource) -> Path:
    """The file of a model.

    Raises:
        Unmeasurable: There is none.
    """
    path = model.folder / clip.ATTRIBUTES if model.folder else None
    if path is None or not path.is_file():
        raise Unmeasurable(f"not available: the model's folder has no {clip.ATTRIBUTES}")
    return path


def kinds_of(model: ModelSource) -> tuple[Kind, ...]:
    """What a model's prompts may name.

    Raises:
        Unmeasurable: There is no such file, or it is damaged.
    """
    path = path_of(model)
    try:
        return _read(path, clip.digest(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        words = f"not available: {path} is damaged ({type(error).__name__}); fetch the model again"
        raise Unmeasurable(words) from None


def questions(prompt: str, kinds: tuple[Kind, ...]) -> list[Alternatives]:
    """What CLIP is asked about a prompt's picture: a question for each attribute that the prompt names.

    A value is not asked against others of its kind that the prompt names, too (a colour: for the same thing).

    Raises:
        Unmeasurable: It names none.
    """
    text = " ".join(prompt.lower().split())
    said: dict[str, list[_Said]] = {}
    asked: list[Alternatives] = []
    for kind in kinds:
        found = said[kind.kind] = list(_said(kind, text))
        if kind.of:
            named_of = dict[Value, list[Value]]()
            for one, thing in _before(found, said[kind.of]):
                named_of.setdefault(thing.value, []).append(one.value)
            for owner, named in named_of.items():
                asked += [_question(kind, named, value, owner) for value in dict.fromkeys(named)]
        else:
            context = next((one.value for one in said.get(kind.at, ())), None)
            named = list(dict.fromkeys(one.value for one in found))
            asked += [_question(kind, named, value, context) for value in named]
    asked = [one for one in asked if len(one.texts) > 1]
    if not asked:
        raise Unmeasurable(f"the prompt names nothing of {clip.ATTRIBUTES}")
    return asked


def _question(kind: Kind, named: list[Value], right: Value, context: Value | None) -> Alternatives:
    shown = [value for value in kind.values if value == right or value not in named]
    place = f"{{{kind.of or kind.at}}}"
    word = "" if context is None else context.name if kind.of else context.text
    texts = tuple(value.text.replace(place, word).strip() for value in shown)
    return Alternatives(kind.kind, texts, shown.index(right))


def _said(kind: Kind, text: str) -> Iterator[_Said]:
    """The values of a kind in a text, in its order; of words within words only the longest count."""
    words = {word: value for value in kind.values for word in value.said}
    for match in _pattern(tuple(sorted(words, key=len, reverse=True))).finditer(text):
        yield _Said(words[match[0]], match.start(), match.end())


def _before(found: list[_Said], things: list[_Said]) -> Iterator[tuple[_Said, _Said]]:
    """The pairs of which the first stands directly before the second."""
    starts = {thing.start: thing for thing in things}
    for one in found:
        if thing := starts.get(one.end + 1):
            yield one, thing


@functools.cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)")


@functools.lru_cache(maxsize=8)
def _read(path: Path, digest: str) -> tuple[Kind, ...]:
    del digest  # another content is read anew
    if path.stat().st_size > LARGEST_BYTES:
        raise ValueError("too large")
    kinds: list[Kind] = []
    for entry in json.loads(path.read_text(encoding="utf-8")):
        kind = Kind(str(entry["kind"]), _values(entry), str(entry.get("of", "")), str(entry.get("at", "")))
        if not {kind.of, kind.at} <= {"", *(other.kind for other in kinds)}:
            raise ValueError("a kind refers to one that comes later")
        kinds.append(kind)
    return tuple(kinds)


def _values(entry: dict[str, Any]) -> tuple[Value, ...]:
    values = []
    for one in entry["values"]:
        if not isinstance(one["said"], list) or not one["said"] or not all(map(str, one["said"])):
            raise ValueError("a value is said by no words")
        values.append(Value(str(one["name"]), tuple(str(word).lower() for word in one["said"]), str(one["text"])))
    if len(values) < 2:
        raise ValueError("a kind has fewer than two values")
    return tuple(values)
