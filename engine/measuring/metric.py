"""The entry of a metric in the registry, whatever it measures. Imports no torch."""

import importlib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from engine.errors import StudyError
from engine.measuring.evidence import Evidence, Pictures, Subject, Unmeasurable
from engine.measuring.set_statistics import MIN_PROMPTS, Floats, SetEstimate, Sets, estimate
from engine.study.families import UNKNOWN

# A finished picture or clip, the x0 frames of a run, or all pictures of a lane.
Scope = Literal["picture", "frame", "lane"]
Direction = Literal["higher", "lower", "neither"]
Measure = Callable[[Evidence], float] | Callable[[Sets], float]
SMALLEST_N: dict[str, int] = {"picture": 10, "frame": 10, "lane": 30}
_KEY = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Features:
    """A feature extractor, which maps pictures to vectors.

    Attributes:
        key: Stable name.
        edition: Function of the subject that names network and weights, or raises `Unmeasurable`; or "module:function".
        embed: Function of subject and pictures (N, H, W, 3) that returns vectors (N, D); or "module:function".
    """

    key: str
    edition: Callable[[Subject], str] | str
    embed: Callable[[Subject, Pictures], Any] | str

    def name(self, subject: Subject) -> str:
        """Name of network and weights, for display and as part of versions.

        Raises:
            Unmeasurable: They are not available; the message says how to get them.
        """
        return str(resolve(self.edition)(subject))

    def vectors(self, subject: Subject, pictures: Pictures) -> Any:
        """Vectors (N, D) of pictures."""
        return resolve(self.embed)(subject, pictures)


CLIP = Features("clip", "engine.measuring.clip:edition", "engine.measuring.clip:vectors")
INCEPTION = Features("inception", "engine.measuring.inception:edition", "engine.measuring.inception:vectors")


@dataclass(frozen=True)
class Metric:
    """A number about a picture, the frame of a step, or all pictures of a lane.

    Attributes:
        key: Stable name, stored in the cache.
        label: Display name.
        unit: Unit of its values; empty for plain numbers.
        direction: Which values are better.
        version: Must change whenever the same pictures would get another value.
        measure: Function of `Evidence` (picture, frame) or `Sets` (lane) that returns the value or raises
            `Unmeasurable`; or "module:function", imported on first use.
        description: Definition in one line.
        scope: What it measures.
        smallest_n: Fewest pairs of cells for a verdict (lane: fewest pictures for a value). 0: default of the scope.
        has_true_zero: Whether zero means "none", so that ratios are meaningful.
        span: Largest minus smallest possible value, if bounded and often at the bounds.
        margin: Differences of means below this are equivalent; None: 0.3 of the baseline's seed-to-seed noise.
        needs_reference: Whether it compares with the converged solution.
        may_guard: Whether it can guard a recommendation; a lane is recommended only if it is as good by every guard.
            True only for metrics shown to agree with human perception.
        edition: Function that names what else the values depend on (weights, labels), or raises `Unmeasurable`; or
            "module:function".
        check_prompt: Function of subject and prompt that raises `Unmeasurable` where no picture of that prompt can have
            a value; or "module:function".
        on_frames: Whether a picture metric is also measured on x0 frames.
        of_clips: Whether it is about the frames of a clip; single pictures have no value.
        features: Lane: the feature extractor.
        trusted_n: Lane: fewest pictures for a value without the warning `caution`.
        caution: Lane: the warning below `trusted_n`.
        warn: Lane: function that returns another warning about the sets, or "".
        lowest: Lane: smallest possible value.
        highest: Lane: largest possible value.
    """

    key: str
    label: str
    unit: str
    direction: Direction
    version: str
    measure: Measure | str
    description: str
    scope: Scope = "picture"
    smallest_n: int = 0
    has_true_zero: bool = False
    span: float | None = None
    margin: float | None = None
    needs_reference: bool = False
    may_guard: bool = False
    edition: Callable[[Subject], str] | str | None = None
    check_prompt: Callable[[Subject, str], None] | str | None = None
    on_frames: bool = False
    of_clips: bool = False
    features: Features = CLIP
    trusted_n: int = 200
    caution: str = "few pictures"
    warn: Callable[[Sets], str] | None = None
    lowest: float = -math.inf
    highest: float = math.inf

    def __post_init__(self) -> None:
        """Fills in the default of `smallest_n`."""
        object.__setattr__(self, "smallest_n", self.smallest_n or SMALLEST_N.get(self.scope, 0))

    def check(self) -> None:
        """Checks key, scope and direction.

        Raises:
            StudyError: One of them is invalid.
        """
        if not _KEY.fullmatch(self.key):
            raise StudyError(
                f"Metric key {self.key!r} must have at most 40 characters: lower-case letters, digits and '_'."
            )
        for name, kinds in (("scope", Scope), ("direction", Direction)):
            if getattr(self, name) not in get_args(kinds):
                words = ", ".join(get_args(kinds))
                raise StudyError(f"Metric '{self.key}': the {name} {getattr(self, name)!r} must be one of {words}.")

    def full_version(self, subject: Subject) -> str:
        """The version with whatever else the values of a study depend on: `1`, `1@REFERENCE`, `1@WEIGHTS`.

        Raises:
            Unmeasurable: It cannot be measured for this study at all.
        """
        if self.of_clips and subject.model.family.frames == 1 and subject.model.family is not UNKNOWN:
            raise Unmeasurable(f"not available: {subject.model.family.label} generates single pictures, not clips")
        parts = []
        if self.needs_reference:
            if subject.reference is None:
                raise Unmeasurable(
                    "not available: the study has no reference; add a [reference] table to it, or "
                    "--set reference.enabled=true"
                )
            reference = subject.reference
            parts.append(f"{reference.lane.key}|{reference.check.key}|{reference.tolerance:g}")
        if self.scope == "lane":
            parts.append(self.features.name(subject))
        if self.edition is not None:
            parts.append(str(resolve(self.edition)(subject)))
        return "@".join([self.version, *parts])

    def unfit(self, subject: Subject, prompts: Iterable[str]) -> str:
        """The first of the prompts whose pictures cannot have a value, with the reason; "" if all can have one."""
        if self.check_prompt is None:
            return ""
        check = resolve(self.check_prompt)
        for prompt in prompts:
            try:
                check(subject, prompt)
            except Unmeasurable as reason:
                return f'"{prompt}": {reason}'
        return ""

    def value(self, evidence: Evidence) -> float:
        """The value of a cell or of a step's frame.

        Raises:
            Unmeasurable: It has none.
        """
        if self.of_clips and len(evidence.pictures) < 2:
            raise Unmeasurable("a single picture has no other frame to compare it with")
        return float(resolve(self.measure)(evidence))

    def refusal(self, n: int, prompts: int) -> str:
        """Why a lane with this number of pictures gets no value; empty if it gets one."""
        if n >= self.smallest_n and prompts >= MIN_PROMPTS:
            return ""
        needed = f"{self.smallest_n} pictures of {MIN_PROMPTS} prompts or more are needed"
        return f"too few: {n} pictures of {prompts} prompts; {needed}"

    def estimate(self, sets: Sets) -> SetEstimate:
        """Value, standard error and interval of a lane.

        Raises:
            Unmeasurable: It has none.
        """
        found = estimate(resolve(self.measure), sets, self.lowest, self.highest)
        if not (math.isfinite(found.value) and math.isfinite(found.standard_error)):
            raise Unmeasurable(f"the value is {found.value}, its standard error {found.standard_error}")
        return found

    def warning(self, sets: Sets) -> str:
        """Why a lane's value is unreliable; empty if it is reliable."""
        n = len(sets.prompts)
        few = f"{self.caution} ({n} pictures, trusted from {self.trusted_n:,})" if n < self.trusted_n else ""
        return "; ".join(filter(None, [few, self.warn(sets) if self.warn else ""]))


def as_sets(lane: Any, against: Any, prompts: Any) -> Sets:
    """Converts vectors of both sides to float64, and prompts to numbers."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    floats: list[Floats] = [np.asarray(side, dtype=np.float64) for side in (lane, against)]
    return Sets(floats[0], floats[1], np.array([numbers[prompt] for prompt in prompts], dtype=np.int64))


def resolve(target: Callable[..., Any] | str) -> Callable[..., Any]:
    """The function itself, or the one named by "module:function"."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
