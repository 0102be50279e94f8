"""A study as the page asks for it: a preset, or values of a form; written as TOML and checked as the engine does. Pure.

The form has no field for plug-ins, scheduler classes or files of prompts: those run code or read files of the server.
"""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import StudyError
from engine.paths import DATA
from engine.study.study import Study, load_study, parse_study
from engine.study.tunable import tunable_schedulers
from engine.study.tuned import register_tuned

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


@dataclass(frozen=True)
class TuneDraft:
    """A search for a schedule, as the Tune page asks for it.

    Attributes:
        minutes: The most that the test on unseen prompts may take.
        coefficients: Whether to fit coefficients that correct each step, too.
    """

    model: str
    scheduler: str
    steps: int
    guidance: float
    minutes: int
    negative_prompt: str = ""
    coefficients: bool = False

    @property
    def called(self) -> str:
        """What the run is called in the queue; plain, since pages show it."""
        model = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.model.strip().rstrip("/").rpartition("/")[2])
        return f"tune {self.scheduler}:{self.steps} for {model[:50]}"


def tune_options(draft: TuneDraft) -> list[str]:
    """The options of `python -m engine tune`.

    Raises:
        StudyError: There is no model or no such scheduler.
    """
    model = draft.model.strip()
    if not model or not model.isprintable():
        raise StudyError("Model: write the name of a model, its folder on the server, or its hub id.")
    if draft.scheduler not in tunable_schedulers():
        others = ", ".join(tunable_schedulers())
        raise StudyError(f"Scheduler: '{draft.scheduler}' takes no list of noise levels. {others} do.")
    options = {"model": model, "scheduler": draft.scheduler, "steps": int(draft.steps)}
    options |= {"guidance": f"{float(draft.guidance):g}", "budget": f"{int(draft.minutes)}m"}
    if negative := draft.negative_prompt.strip():
        options["negative-prompt"] = negative
    return [f"--{key}={value}" for key, value in options.items()] + ["--coefficients"] * draft.coefficients


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


def check(toml: str, cache: Path) -> Study:
    """The study, checked exactly as the command line does before it runs one with this cache.

    Raises:
        StudyError: What is wrong, where, and the remedy.
    """
    register_tuned(cache)
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
