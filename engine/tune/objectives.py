"""What a search minimises: the latent error, the share of other pictures, or what a metric loses.

Any metric of pictures with a better direction can be chosen. Its loss on a picture is how much worse its value is than
that of the converged picture of the same prompt and seed: 1 - SSIM, LPIPS itself, or the drop of the CLIP score.
"""

import math
from dataclasses import dataclass

from engine.errors import StudyError, did_you_mean
from engine.measuring.evidence import Evidence, Subject, Unmeasurable
from engine.measuring.metric import Metric
from engine.measuring.metrics import METRICS, of_scope

LATENT_ERROR, OTHER_PICTURES = "latent_error", "other_pictures"
# Objectives that need no pictures.
OF_LATENTS = (LATENT_ERROR, OTHER_PICTURES)


@dataclass(frozen=True)
class Loss:
    """What a metric loses against converged pictures.

    Attributes:
        metric: A metric of pictures with a better direction.
        version: Everything that its values depend on.
    """

    metric: Metric
    version: str

    def value(self, evidence: Evidence) -> float:
        """The metric's value; NaN if it has none."""
        try:
            return self.metric.value(evidence)
        except Unmeasurable:
            return math.nan

    def of(self, value: float, converged: float) -> float:
        """How much worse a value is than that of the converged picture, at least 0; infinite without one of them."""
        worse = converged - value if self.metric.direction == "higher" else value - converged
        return max(0.0, worse) if math.isfinite(worse) else math.inf


def loss_of(objective: str, subject: Subject) -> Loss | None:
    """The loss of an objective; None for those of latents.

    Raises:
        StudyError: There is no such objective, or the metric can't be measured on this model.
    """
    if objective in OF_LATENTS:
        return None
    known = {key: metric for key, metric in of_scope("picture").items() if metric.direction != "neither"}
    if objective not in known:
        why = "is no metric of pictures with a better direction" if objective in METRICS else "is not known"
        choices = ", ".join(dict.fromkeys((*OF_LATENTS, *known)))
        hint = did_you_mean(objective, (*OF_LATENTS, *known))
        raise StudyError(f"--objective {objective} {why}.{hint} Choose one of {choices}.")
    try:
        return Loss(known[objective], known[objective].full_version(subject))
    except Unmeasurable as reason:
        raise StudyError(f"--objective {objective}: {reason}.") from reason
