"""The table of set metrics: one entry carries all that is known about a metric of a whole set. Imports no torch.

A set metric of your own is a function and one entry, for example in a plug-in that a study names:

    from engine.measuring.set_metrics import CLIP, SetMetric, register_set
    def shift(sets): return float(((sets.lane - sets.against).mean(axis=0) ** 2).sum() ** 0.5)
    register_set(SetMetric("shift", "Shift of the mean", "", "lower", "1", shift, "distance of the means", CLIP))
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import StudyError
from engine.measuring import set_formulas
from engine.measuring.evidence import Pictures, Subject, Unmeasurable
from engine.measuring.metrics import KEY, Direction, resolve
from engine.measuring.set_statistics import MIN_PROMPTS, Estimate, Floats, Sets, estimate

SetMeasure = Callable[[Sets], float]


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


@dataclass(frozen=True)
class SetMetric:
    """One number about all pictures of a lane, against those of another side.

    Attributes:
        key: Stable name.
        label: Name for people.
        unit: Of its values; empty for plain numbers.
        direction: Which values are better.
        version: Raised whenever the same pictures would get another value.
        measure: A function of `Sets`, or "module:function". It raises `Unmeasurable` where it has no value.
        description: What it says, in one line.
        features: What turns pictures into vectors.
        smallest_n: Pictures below which it is refused.
        trusted_n: Pictures below which it is shown with `caution`.
        caution: Why it is not to be trusted below.
        warn: A further warning from the sets, or "".
        lowest: Smallest possible value.
        highest: Largest.
    """

    key: str
    label: str
    unit: str
    direction: Direction
    version: str
    measure: SetMeasure | str
    description: str
    features: Features
    smallest_n: int = 30
    trusted_n: int = 200
    caution: str = "few pictures"
    warn: Callable[[Sets], str] | None = None
    lowest: float = -math.inf
    highest: float = math.inf

    def full_version(self, subject: Subject) -> str:
        """The version, with features and weights.

        Raises:
            Unmeasurable: It cannot be measured for this study at all.
        """
        return f"{self.version}@{self.features.name(subject)}"

    def refusal(self, n: int, prompts: int) -> str:
        """Why so few pictures get no value; empty if they do."""
        if n >= self.smallest_n and prompts >= MIN_PROMPTS:
            return ""
        needed = f"{self.smallest_n} pictures of {MIN_PROMPTS} prompts or more are needed"
        return f"too few: {n} pictures of {prompts} prompts; {needed}"

    def estimate(self, sets: Sets) -> Estimate:
        """Value, standard error and interval.

        Raises:
            Unmeasurable: It has no value here.
        """
        measure: SetMeasure = resolve(self.measure)
        found = estimate(measure, sets, self.lowest, self.highest)
        if not (math.isfinite(found.value) and math.isfinite(found.standard_error)):
            raise Unmeasurable(f"the value is {found.value}, its standard error {found.standard_error}")
        return found

    def warning(self, sets: Sets) -> str:
        """Why the value is not to be trusted; empty if it is."""
        n = len(sets.prompts)
        few = f"{self.caution} ({n} pictures, trusted from {self.trusted_n:,})" if n < self.trusted_n else ""
        return "; ".join(filter(None, [few, self.warn(sets) if self.warn else ""]))


CLIP = Features("clip", "engine.measuring.clip:edition", "engine.measuring.clip:vectors")
INCEPTION = Features("inception", "engine.measuring.inception:edition", "engine.measuring.inception:vectors")

_FID: dict[str, Any] = {
    "smallest_n": 200,
    "trusted_n": 1000,
    "caution": "biased upwards, by more for some lanes than others",
    "warn": set_formulas.rank_warning,
    "lowest": 0.0,
}
_FREE = "pairs of one prompt left out"

_BUILT_IN = (
    SetMetric(
        "kid",
        "KID (CLIP)",
        "",
        "lower",
        "2",
        set_formulas.kid_of_directions,
        f"kernel distance, (x.y + 1)^3, of CLIP directions, unbiased ({_FREE}); 0 if the sets are alike",
        CLIP,
    ),
    SetMetric(
        "cmmd",
        "CMMD",
        "x 1000",
        "lower",
        "1",
        set_formulas.cmmd,
        f"kernel distance, Gaussian kernel, of CLIP vectors, unbiased ({_FREE}); 0 if the sets are alike",
        CLIP,
    ),
    SetMetric(
        "fid",
        "FID (CLIP)",
        "",
        "lower",
        "1",
        set_formulas.fid,
        "Frechet distance of normal distributions fitted to CLIP vectors; biased at every n",
        CLIP,
        **_FID,
    ),
    SetMetric(
        "diversity",
        "Diversity gained",
        "cosine distance",
        "neither",
        "1",
        set_formulas.diversity,
        "mean distance between two seeds of a prompt, minus that of the other side; noise differs too",
        CLIP,
    ),
    SetMetric(
        "precision",
        "Precision",
        "share",
        "higher",
        "1",
        set_formulas.precision,
        "pictures that lie among the other side's, within its third neighbours",
        CLIP,
        smallest_n=200,
        trusted_n=1000,
        lowest=0.0,
        highest=1.0,
    ),
    SetMetric(
        "recall",
        "Recall",
        "share",
        "higher",
        "1",
        set_formulas.recall,
        "pictures of the other side that lie among the lane's, within its third neighbours",
        CLIP,
        smallest_n=200,
        trusted_n=1000,
        lowest=0.0,
        highest=1.0,
    ),
    SetMetric(
        "kid_inception",
        "KID (Inception)",
        "",
        "lower",
        "1",
        set_formulas.kid,
        f"kernel distance, cubic kernel, of Inception vectors, unbiased ({_FREE})",
        INCEPTION,
    ),
    SetMetric(
        "fid_inception",
        "FID (Inception)",
        "",
        "lower",
        "1",
        set_formulas.fid,
        "Frechet distance of normal distributions fitted to Inception vectors; biased at every n",
        INCEPTION,
        **_FID,
    ),
)

SET_METRICS: dict[str, SetMetric] = {entry.key: entry for entry in _BUILT_IN}


def register_set(entry: SetMetric) -> SetMetric:
    """Adds a set metric to the table; the same entry twice is harmless.

    Raises:
        StudyError: The key is malformed, or names another set metric already.
    """
    if not KEY.fullmatch(entry.key):
        raise StudyError(f"Set metric key {entry.key!r} may hold lower-case letters, digits and '_' only, at most 40.")
    known = SET_METRICS.get(entry.key)
    if known is not None and known != entry:
        raise StudyError(f"Set metric key '{entry.key}' is taken by '{known.label}'; give '{entry.label}' another.")
    SET_METRICS[entry.key] = entry
    return entry


def as_sets(lane: Any, against: Any, prompts: Any) -> Sets:
    """Vectors of both sides in float64, and their prompts by number."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    floats: list[Floats] = [np.asarray(side, dtype=np.float64) for side in (lane, against)]
    return Sets(floats[0], floats[1], np.array([numbers[prompt] for prompt in prompts], dtype=np.int64))
