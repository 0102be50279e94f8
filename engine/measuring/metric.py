"""What is known about a metric: one entry, whatever it measures. Imports no torch."""

import importlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from engine.errors import StudyError
from engine.measuring.evidence import Evidence, Pictures, Subject, Unmeasurable
from engine.measuring.set_statistics import MIN_PROMPTS, Floats, SetEstimate, Sets, estimate
from engine.study.families import UNKNOWN

# A finished picture (or clip: its frames), the x0 frames of a run, or all pictures of a lane together.
Scope = Literal["picture", "frame", "lane"]
Direction = Literal["higher", "lower", "neither"]
Measure = Callable[[Evidence], float] | Callable[[Sets], float]
SMALLEST_N: dict[str, int] = {"picture": 10, "frame": 10, "lane": 30}
_KEY = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Features:
    """What turns pictures into vectors.

    Attributes:
        key: Stable name.
        edition: Names network and weights, or raises `Unmeasurable`; a function of the subject or "module:function".
        embed: Vectors (N, D) of pictures (N, H, W, 3); a function of subject and pictures or "module:function".
    """

    key: str
    edition: Callable[[Subject], str] | str
    embed: Callable[[Subject, Pictures], Any] | str

    def name(self, subject: Subject) -> str:
        """Network and weights, for people and as part of versions.

        Raises:
            Unmeasurable: There is none; says how to get it.
        """
        return str(resolve(self.edition)(subject))

    def vectors(self, subject: Subject, pictures: Pictures) -> Any:
        """Vectors (N, D) of pictures."""
        return resolve(self.embed)(subject, pictures)


CLIP = Features("clip", "engine.measuring.clip:edition", "engine.measuring.clip:vectors")
INCEPTION = Features("inception", "engine.measuring.inception:edition", "engine.measuring.inception:vectors")


@dataclass(frozen=True)
class Metric:
    """One number about a picture, a step's frame or all pictures of a lane, and all that is known about it.

    Attributes:
        key: Stable name, stored in the cache.
        label: Name for people.
        unit: Of its values; empty for plain numbers.
        direction: Which values are better.
        version: Raised whenever the same pictures would get another value.
        measure: A function of `Evidence` (picture, frame) or `Sets` (lane), or "module:function", imported when first
            needed. It raises `Unmeasurable` where there is no value.
        description: What it says, in one line.
        scope: What it measures.
        smallest_n: Pairs of cells below which its figures say too little; pictures below which a lane's value is
            refused. 0: the usual number of its scope.
        has_true_zero: Whether zero means "none of it", so that ratios mean something.
        span: Largest minus smallest possible value, if it is bounded and often at its bounds.
        margin: Differences of means below this count as equivalent; None: the seed-to-seed noise of the baseline.
        needs_reference: Whether it compares with the converged solution.
        may_guard: Whether it may guard a recommendation: a lane is only recommended if it is as good by every guard.
            False unless the metric has been shown to see what people see.
        edition: Names what the values depend on besides the version (weights, labels), or raises `Unmeasurable`; a
            function or "module:function".
        on_frames: Whether a metric of pictures measures x0 frames as well.
        of_clips: Whether it speaks of the frames of a clip: single pictures have no value.
        features: Lane: what turns pictures into vectors.
        trusted_n: Lane: pictures below which the value is shown with `caution`.
        caution: Lane: why it is not to be trusted below.
        warn: Lane: a further warning from the sets, or "".
        lowest: Lane: smallest possible value.
        highest: Lane: largest.
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
    on_frames: bool = False
    of_clips: bool = False
    features: Features = CLIP
    trusted_n: int = 200
    caution: str = "few pictures"
    warn: Callable[[Sets], str] | None = None
    lowest: float = -math.inf
    highest: float = math.inf

    def __post_init__(self) -> None:
        """Fills in the usual number of pictures."""
        object.__setattr__(self, "smallest_n", self.smallest_n or SMALLEST_N.get(self.scope, 0))

    def check(self) -> None:
        """Looks at key, scope and direction.

        Raises:
            StudyError: One of them is malformed.
        """
        if not _KEY.fullmatch(self.key):
            raise StudyError(f"Metric key {self.key!r} may hold lower-case letters, digits and '_' only, at most 40.")
        for name, kinds in (("scope", Scope), ("direction", Direction)):
            if getattr(self, name) not in get_args(kinds):
                words = ", ".join(get_args(kinds))
                raise StudyError(f"Metric '{self.key}': the {name} {getattr(self, name)!r} is none of {words}.")

    def full_version(self, subject: Subject) -> str:
        """The version, with what else the values of a study depend on: `1`, `1@REFERENCE`, `1@WEIGHTS`.

        Raises:
            Unmeasurable: It cannot be measured for this study at all.
        """
        if self.of_clips and subject.model.family.frames == 1 and subject.model.family is not UNKNOWN:
            raise Unmeasurable(f"not available: {subject.model.family.label} makes single pictures, no clips")
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

    def value(self, evidence: Evidence) -> float:
        """The value of a cell or of a step's frame.

        Raises:
            Unmeasurable: It has none.
        """
        if self.of_clips and len(evidence.pictures) < 2:
            raise Unmeasurable("a single picture: there is no other frame to compare it with")
        return float(resolve(self.measure)(evidence))

    def refusal(self, n: int, prompts: int) -> str:
        """Why a lane with so few pictures gets no value; empty if it does."""
        if n >= self.smallest_n and prompts >= MIN_PROMPTS:
            return ""
        needed = f"{self.smallest_n} pictures of {MIN_PROMPTS} prompts or more are needed"
        return f"too few: {n} pictures of {prompts} prompts; {needed}"

    def estimate(self, sets: Sets) -> SetEstimate:
        """Value, standard error and interval of a lane.

        Raises:
            Unmeasurable: It has no value here.
        """
        found = estimate(resolve(self.measure), sets, self.lowest, self.highest)
        if not (math.isfinite(found.value) and math.isfinite(found.standard_error)):
            raise Unmeasurable(f"the value is {found.value}, its standard error {found.standard_error}")
        return found

    def warning(self, sets: Sets) -> str:
        """Why a lane's value is not to be trusted; empty if it is."""
        n = len(sets.prompts)
        few = f"{self.caution} ({n} pictures, trusted from {self.trusted_n:,})" if n < self.trusted_n else ""
        return "; ".join(filter(None, [few, self.warn(sets) if self.warn else ""]))


def as_sets(lane: Any, against: Any, prompts: Any) -> Sets:
    """Vectors of both sides in float64, and their prompts by number."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    floats: list[Floats] = [np.asarray(side, dtype=np.float64) for side in (lane, against)]
    return Sets(floats[0], floats[1], np.array([numbers[prompt] for prompt in prompts], dtype=np.int64))


def resolve(target: Callable[..., Any] | str) -> Callable[..., Any]:
    """The function itself, or the one that "module:function" names, imported now."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
