"""A study as the page asks for it: a preset, or values of a form; written as TOML and checked as the engine does. Pure.

The form has no field for plug-ins, scheduler classes or files of prompts: those run code or read files of the server.
"""

import json
import re
import tomllib
from dataclasses import dataclass
from typing import Any

from engine.errors import StudyError
from engine.paths import DATA
from engine.study.study import Study, load_study, parse_study

MODELS = ("bundled", "gaussian")
_WHERE = "The form"


@dataclass(frozen=True)
class Draft:
    """What the form holds, as it was typed.

    Attributes:
        lanes: (scheduler, steps), the steps as text: "10, 20".
        prompts: One a line.
        seeds: "0, 1, 2" or "0-9".
        baseline: A lane; empty: the first.
        repeats: Timing samples of each lane; 0 takes none.
    """

    name: str
    model: str
    prompts: str
    lanes: tuple[tuple[str, str], ...]
    seeds: str
    guidance: float
    baseline: str = ""
    negative_prompt: str = ""
    repeats: int = 5


@dataclass(frozen=True)
class PresetRequest:
    """A study that comes with the project, as it is."""

    name: str


Request = Draft | PresetRequest


def compose(request: Request) -> str:
    """The study file of a request.

    Raises:
        StudyError: A number cannot be read, or there is no such preset.
    """
    if isinstance(request, PresetRequest):
        load_study(request.name)
        return (DATA / "studies" / f"{request.name}.toml").read_text(encoding="utf-8")
    values: dict[str, Any] = {
        "name": request.name.strip(),
        "model": request.model.strip(),
        "prompts": prompts(request.prompts),
        "seeds": _numbers("Seeds", request.seeds),
        "guidance_scale": float(request.guidance),
        "lanes": lanes(request.lanes),
    }
    if request.baseline:
        values["baseline"] = request.baseline
    if request.negative_prompt.strip():
        values["negative_prompt"] = request.negative_prompt.strip()
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join([*lines, "", "[timing]", f"repeats = {int(request.repeats)}", ""])


def check(toml: str) -> Study:
    """The study, checked exactly as the command line does before it runs one.

    Raises:
        StudyError: What is wrong, where, and the remedy.
    """
    return parse_study(tomllib.loads(toml), _WHERE)


def prompts(text: str) -> list[str]:
    """The prompts of a text, one a line; empty lines are left out."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def lanes(chosen: tuple[tuple[str, str], ...]) -> list[str]:
    """The lanes "scheduler:steps" of schedulers and their step counts.

    Raises:
        StudyError: Steps are no whole numbers.
    """
    return [f"{key}:{steps}" for key, text in chosen for steps in _numbers(f"Steps of {key}", text)]


def _numbers(what: str, text: str) -> list[int]:
    """The whole numbers of "10, 20" or "0-9"."""
    found: list[int] = []
    for part in re.split(r"[,;\s]+", text.strip()):
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part)
        if match is None:
            raise StudyError(f"{what}: {part[:40]!r} is no whole number. Write for example 10, 20 or 0-9.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + 10_000:
            raise StudyError(f"{what}: {part!r} should lead from a smaller to a larger number, at most 10,000 of them.")
        found += range(first, last + 1)
    return found


def _toml(value: Any) -> str:
    """A text, number or list as TOML; JSON is that too, but for the delete character and halves of characters."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise StudyError(f"{_WHERE}: a text holds half of a surrogate pair, which is no text; remove it.") from None
    return text
