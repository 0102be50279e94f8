"""Metrics of clips that need no weights: how much changes from one frame to the next, in float64.

Neither high nor low values are better in themselves: noise flickers and a still picture does not, whatever the prompt.
VBench (Huang et al. 2024, arXiv:2311.17982) inverts flicker, (255 - flicker) / 255, and averages the cosine with the
previous frame and with the first one. These metrics use the plain definitions, and therefore other names.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.measuring.evidence import Evidence, Unmeasurable
from engine.study.model_files import read_json

# Relative L2 distance up to which the last x0 of a run is its final latents.
SAME_LATENTS = 1e-4
# Names of the number of latent channels in configurations of autoencoders.
_CHANNELS = ("latent_channels", "z_dim")


def flicker(evidence: Evidence) -> float:
    """Mean absolute difference of consecutive frames, 0 to 255."""
    return float(np.mean(np.abs(np.diff(evidence.pictures.astype(np.float64), axis=0))))


def motion_energy(evidence: Evidence) -> float:
    """Mean squared difference of consecutive frames of the final latents.

    The frames of packed latents cannot be told here. They could when the cell was made: there the last x0 is asked,
    if it is the final latents.

    Raises:
        Unmeasurable: It is not known which axis of the latents is that of the frames, and the last x0 does not help.
    """
    latents, folder = evidence.latents, evidence.subject.model.folder
    config = (read_json(folder / "vae" / "config.json", evidence.subject.model.name) or {}) if folder else {}
    axis = frame_axis(latents.shape, channels_of(config))
    if axis is None and evidence.final_motion is not None:
        return evidence.final_motion
    if axis is None:
        shape = " x ".join(map(str, latents.shape))
        raise Unmeasurable(f"the frame axis of the final latents ({shape}) is not known")
    return energy_between(latents, axis)


def channels_of(config: object) -> int | None:
    """Number of latent channels in an autoencoder's configuration, or None."""
    get = getattr(config, "get", lambda name: None)
    return next((count for name in _CHANNELS if isinstance(count := get(name), int)), None)


def frame_axis(shape: Sequence[int], channels: int | None) -> int | None:
    """The frame axis of the latents of one clip, with channels first or second.

    Args:
        shape: (C, F, H, W), or (F, C, H, W) as in CogVideoX and Stable Video Diffusion.
        channels: C.

    Returns:
        The axis; None for latents of pictures, for packed ones, and where it is ambiguous.
    """
    if len(shape) != 4 or (shape[0] == channels) == (shape[1] == channels):
        return None
    return 1 if shape[0] == channels else 0


def energy_between(latents: npt.ArrayLike, axis: int) -> float:
    """Mean squared difference of neighbours along an axis.

    Raises:
        Unmeasurable: The axis has length 1.
    """
    values = np.asarray(latents, dtype=np.float64)
    if values.shape[axis] < 2:
        raise Unmeasurable("the latents have only one frame")
    return float(np.mean(np.square(np.diff(values, axis=axis))))
