"""Metrics of the model "gaussian" that may guard, and a study decided by them in seconds, without CLIP."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.pace import Pace
from engine.measuring.evidence import Evidence
from engine.measuring.metric import Metric
from engine.passes import decide as deciding
from engine.sampling.gaussian_mixture import component_means, named_patterns
from tests.engine.helpers import write_study

LANES = ["ddim:8", "ddim:6", "ddim:1"]
DECIDE: dict[str, Any] = {
    "pool": "prompts/gaussian_154.txt",
    "calibration_prompts": 12,
    "other_share": 0.4,
    "seed_noise_share": 1.0,
    "control_share": 0.5,
    "reach": 4.0,
    "guards": ["likeness"],
}


def _likeness(evidence: Evidence) -> float:
    """Minus the distance to the nearest pattern that the prompt names, over its norm: 0 if the picture shows it."""
    means = component_means().numpy()[list(named_patterns(evidence.prompt))].reshape(-1, evidence.latents.size)
    return -float((np.linalg.norm(means - evidence.latents.ravel(), axis=1) / np.linalg.norm(means, axis=1)).min())


def _blend(evidence: Evidence) -> float:
    """Minus the distance to the mean of the patterns that the prompt names, over its norm: what one step can show."""
    mean = component_means().numpy()[list(named_patterns(evidence.prompt))].mean(axis=0)
    return -float(np.linalg.norm(evidence.latents - mean) / np.linalg.norm(mean))


def _blind(evidence: Evidence) -> float:
    """The seed, which no lane changes."""
    return float(evidence.seed)


LIKENESS = Metric("likeness", "Likeness", "", "higher", "1", _likeness, "shows a pattern", may_guard=True)
BLEND = Metric("blend", "Blend", "", "higher", "1", _blend, "shows the mean of its patterns", may_guard=True)
BLIND = Metric("blind", "Blind", "", "higher", "1", _blind, "sees nothing", may_guard=True)


def tell_times(patch: pytest.MonkeyPatch | None = None) -> None:
    """Lanes of few steps of a model that takes no time: what is measured of them is noise, and told otherwise then."""
    shares = {LANES[0]: 1.0, LANES[1]: 0.75, LANES[2]: 0.2, "euler_a:2": 0.3}
    told = {lane: Pace(share, share, share, 5, 1) for lane, share in shares.items()}
    measured = deciding.paces_here
    (patch or pytest.MonkeyPatch()).setattr(deciding, "paces_here", lambda *asked: told if measured(*asked) else {})


def write_decision(folder: Path, decide: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The study as a file, with changes."""
    plain: dict[str, Any] = {
        "name": "patterns",
        "lanes": LANES,
        "baseline": LANES[0],
        "guidance_scale": 1.5,
        "frames": {"count": 0},
        "timing": {"repeats": 5, "warmup": 1},
    }
    return write_study(folder / "patterns.toml", **plain | changes, decide=DECIDE | (decide or {}))
