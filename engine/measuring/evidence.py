"""The input of a metric, and the exception for values that do not exist."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.study.reference import ReferenceSettings
from engine.study.source import ModelSource

Pictures = npt.NDArray[np.uint8]
Latents = npt.NDArray[np.float32]


class Unmeasurable(Exception):
    """A metric has no value; the message says why, with the remedy if there is one."""


@dataclass(frozen=True)
class Subject:
    """What all cells of a study have in common."""

    model: ModelSource
    reference: ReferenceSettings | None = None


@dataclass(frozen=True)
class Evidence:
    """One finished cell, or one of its steps.

    Attributes:
        pictures: Final pictures (steps: x0), (frames, height, width, 3) bytes; one frame unless it is a video.
        latents: Final latents, (C, H, W) or (C, F, H, W).
        reference_pictures: Pictures of the converged solution; None if the metric does not need it.
        reference_latents: Latents of the converged solution; None likewise.
        final_pictures: Steps only: the final pictures of the run.
        final_motion: Motion energy of the last x0, unpacked, where that is the final latents; None if it is not known.
    """

    subject: Subject
    prompt: str
    seed: int
    pictures: Pictures
    latents: Latents
    reference_pictures: Pictures | None = None
    reference_latents: Latents | None = None
    final_pictures: Pictures | None = None
    final_motion: float | None = None

    def both_pictures(self) -> Iterable[tuple[Pictures, Pictures]]:
        """Pairs of picture and reference picture, frame by frame.

        Raises:
            Unmeasurable: There is no reference, or it has another size.
        """
        if self.reference_pictures is None:
            raise Unmeasurable("there is no reference")
        if self.reference_pictures.shape != self.pictures.shape:
            raise Unmeasurable(f"pictures are {self.pictures.shape}, the reference's {self.reference_pictures.shape}")
        return zip(self.pictures, self.reference_pictures, strict=True)

    def final(self) -> Pictures:
        """The final pictures of a step's run.

        Raises:
            Unmeasurable: This is not a step.
        """
        if self.final_pictures is None:
            raise Unmeasurable("there is no final picture besides this one")
        return self.final_pictures
