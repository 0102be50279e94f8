"""The table of metrics: one entry carries all that is known about a metric. Imports no torch.

A metric of your own is a function and one entry, for example in a plug-in that a study names:

    from engine.measuring.metrics import Metric, register
    def brightness(evidence): return float(evidence.pictures.mean() / 255)
    register(Metric("brightness", "Brightness", "", "neither", "1", brightness, "mean of all values, 0..1"))
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import StudyError
from engine.measuring import formulas
from engine.measuring.evidence import Evidence, Subject, Unmeasurable

Direction = Literal["higher", "lower", "neither"]
Measure = Callable[[Evidence], float]
Edition = Callable[[Subject], str]
KEY = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Metric:
    """One number about a finished picture.

    Attributes:
        key: Stable name, stored in the cache.
        label: Name for people.
        unit: Of its values; empty for plain numbers.
        direction: Which values are better.
        version: Raised whenever the same picture would get another value.
        measure: The function, or "module:function", imported when first needed. It raises `Unmeasurable` for a cell
            that has no value.
        description: What it says, in one line.
        smallest_n: Pairs of cells below which its figures say too little.
        has_true_zero: Whether zero means "none of it", so that ratios mean something.
        span: Largest minus smallest possible value, if it is bounded and often at its bounds.
        margin: Differences of means below this count as equivalent; None: the seed-to-seed noise of the baseline.
        needs_reference: Whether it compares with the converged solution.
        edition: Names what the values depend on besides the version (weights), or raises `Unmeasurable`; a function or
            "module:function".
        on_frames: Whether x0 frames are measured as well.
    """

    key: str
    label: str
    unit: str
    direction: Direction
    version: str
    measure: Measure | str
    description: str
    smallest_n: int = 10
    has_true_zero: bool = False
    span: float | None = None
    margin: float | None = None
    needs_reference: bool = False
    edition: Edition | str | None = None
    on_frames: bool = False

    def full_version(self, subject: Subject) -> str:
        """The version, with what else the values of a study depend on: `1`, `1@EDITION`.

        Raises:
            Unmeasurable: It cannot be measured for this study at all.
        """
        parts = []
        if self.needs_reference:
            if subject.reference is None:
                raise Unmeasurable(
                    "not available: the study has no reference; add a [reference] table to it, or "
                    "--set reference.enabled=true"
                )
            reference = subject.reference
            parts.append(f"{reference.lane.key}|{reference.check.key}|{reference.tolerance:g}")
        if self.edition is not None:
            parts.append(str(resolve(self.edition)(subject)))
        return "@".join([self.version, *parts])

    def value(self, evidence: Evidence) -> float:
        """The value of a cell."""
        return float(resolve(self.measure)(evidence))


_CLIP = "engine.measuring.clip"
_LEARNED = "engine.measuring.learned"

_BUILT_IN = (
    Metric(
        "latent_error",
        "Latent error",
        "relative L2",
        "lower",
        "1",
        formulas.latent_error,
        "distance of the final latents to the converged solution's, over their norm",
        has_true_zero=True,
        margin=0.05,
        needs_reference=True,
    ),
    Metric(
        "psnr",
        "PSNR to reference",
        "dB",
        "higher",
        "1",
        formulas.psnr,
        f"peak signal-to-noise ratio to the converged picture; equal pictures get {formulas.PSNR_CAP:g}",
        needs_reference=True,
    ),
    Metric(
        "ssim",
        "SSIM to reference",
        "",
        "higher",
        "1",
        formulas.ssim,
        "structural similarity to the converged picture, 1 if equal",
        margin=0.02,
        needs_reference=True,
    ),
    Metric(
        "sharpness",
        "Sharpness",
        "",
        "neither",
        "1",
        formulas.sharpness,
        "variance of the Laplacian of the luminance (0..1); more is not better, noise is sharp too",
    ),
    Metric(
        "spectral_slope",
        "Spectral slope",
        "",
        "neither",
        "1",
        formulas.spectral_slope,
        "slope of log power over log spatial frequency; nearer to 0 is more detail or noise",
    ),
    Metric(
        "clip_score",
        "CLIP score",
        "100 cos",
        "higher",
        "1",
        f"{_CLIP}:clip_score",
        "100 times the cosine of picture and prompt in CLIP space, at least 0",
        smallest_n=30,
        edition=f"{_CLIP}:edition",
    ),
    Metric(
        "recognised",
        "Recognised",
        "share",
        "higher",
        "1",
        f"{_CLIP}:recognised",
        "1 if CLIP ranks the prompt's concept first among all labels of the vocabulary, else 0",
        smallest_n=30,
        has_true_zero=True,
        span=1.0,
        margin=0.05,
        edition=f"{_CLIP}:vocabulary_edition",
        on_frames=True,
    ),
    Metric(
        "lpips",
        "LPIPS to reference",
        "",
        "lower",
        "1",
        f"{_LEARNED}:lpips",
        "distance to the converged picture in the layers of AlexNet, as people see it; 0 if equal",
        has_true_zero=True,
        margin=0.05,
        needs_reference=True,
        edition=f"{_LEARNED}:lpips_edition",
    ),
    Metric(
        "pick_score",
        "PickScore",
        "",
        "higher",
        "1",
        f"{_LEARNED}:pick_score",
        "scaled cosine of picture and prompt in a CLIP trained on which pictures people pick",
        smallest_n=30,
        edition=f"{_LEARNED}:pick_score_edition",
    ),
    Metric(
        "aesthetic",
        "Aesthetic score",
        "1 to 10",
        "higher",
        "1",
        f"{_LEARNED}:aesthetic",
        "how much people like a picture, predicted from its CLIP vector (LAION predictor V2)",
        smallest_n=30,
        edition=f"{_LEARNED}:aesthetic_edition",
    ),
)

METRICS: dict[str, Metric] = {entry.key: entry for entry in _BUILT_IN}


def register(entry: Metric) -> Metric:
    """Adds a metric to the table; the same entry twice is harmless.

    Raises:
        StudyError: The key is malformed, or names another metric already.
    """
    if not KEY.fullmatch(entry.key):
        raise StudyError(f"Metric key {entry.key!r} may hold lower-case letters, digits and '_' only, at most 40.")
    known = METRICS.get(entry.key)
    if known is not None and known != entry:
        raise StudyError(f"Metric key '{entry.key}' is taken by {_named(known)}; {_named(entry)} needs one of its own.")
    METRICS[entry.key] = entry
    return entry


def _named(entry: Metric) -> str:
    target = entry.measure
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"


def resolve(target: Callable[..., Any] | str) -> Callable[..., Any]:
    """The function itself, or the one that "module:function" names, imported now."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
