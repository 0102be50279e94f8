"""Metrics of step frames: how far the picture of a step is the final one. Imports no torch.

Frames are stored lossily (WebP, quality 90), finals without loss: a frame of the final picture itself gets a
little less than 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.measuring import clip, formulas
from engine.measuring.evidence import Pictures, Subject, Unmeasurable

FrameMeasure = Callable[[Pictures, Pictures, Subject], float]


@dataclass(frozen=True)
class FrameMetric:
    """One number about a step's x0 picture, given the final picture.

    Attributes:
        measure: From frames and final pictures, both (frames, height, width, 3) bytes, to the value; it raises
            `Unmeasurable` where there is none.
        edition: Names the weights it depends on, or raises `Unmeasurable`.
    """

    key: str
    label: str
    unit: str
    version: str
    measure: FrameMeasure
    description: str
    edition: Callable[[Subject], str] | None = None

    def full_version(self, subject: Subject) -> str:
        """The version, with the weights if there are any: `1`, `1@EDITION`.

        Raises:
            Unmeasurable: It cannot be measured for this study at all.
        """
        return "@".join([self.version, *([self.edition(subject)] if self.edition else [])])


def similarity(pictures: Pictures, final: Pictures, subject: Subject) -> float:
    """Cosine between the CLIP vectors of frame and final picture, mean over video frames."""
    judge = clip.judge_of(subject.model)
    return float((clip.embedded(judge, pictures) * clip.embedded(judge, final)).sum(axis=1).mean())


def ssim(pictures: Pictures, final: Pictures, subject: Subject) -> float:
    """Structural similarity of frame and final picture."""
    return float(np.mean([formulas.structural_similarity(*pair) for pair in zip(pictures, final, strict=True)]))


def sharpness(pictures: Pictures, final: Pictures, subject: Subject) -> float:
    """Variance of the Laplacian of the frame over that of the final picture.

    Raises:
        Unmeasurable: The final picture is constant.
    """
    reference = np.mean([formulas.laplacian_variance(picture) for picture in final])
    if not reference > 0:
        raise Unmeasurable("the final picture is constant")
    return float(np.mean([formulas.laplacian_variance(picture) for picture in pictures]) / reference)


FRAME_METRICS = (
    FrameMetric(
        "similarity_to_final",
        "CLIP similarity to the final picture",
        "cosine",
        "1",
        similarity,
        "cosine of x0 and the final picture in CLIP space",
        clip.edition,
    ),
    FrameMetric(
        "ssim_to_final", "SSIM to the final picture", "", "1", ssim, "structural similarity of x0 to the final picture"
    ),
    FrameMetric(
        "sharpness_of_final",
        "Sharpness over the final picture's",
        "",
        "1",
        sharpness,
        "variance of the Laplacian of x0's luminance over that of the final picture",
    ),
)
