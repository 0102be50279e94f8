"""Metrics of clips that need no weights: how much changes from one frame to the next, in float64.

None of them is better high or low by itself: noise flickers and a still picture does not, whatever was asked for.
VBench (Huang et al. 2024, arXiv:2311.17982) turns flicker round, (255 - flicker) / 255, and takes the cosine of each
frame with the first one besides that with its neighbour; these have the plain definitions, under names of their own.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.measuring.evidence import Evidence, Unmeasurable
from engine.study.model_files import read_json

# What configurations of autoencoders call the channels of their latents.
_CHANNELS = ("latent_channels", "z_dim")


def flicker(evidence: Evidence) -> float:
    """Mean absolute difference of neighbouring frames, 0 to 255."""
    return float(np.mean(np.abs(np.diff(evidence.pictures.astype(np.float64), axis=0))))


def motion_energy(evidence: Evidence) -> float:
    """Mean squared difference of neighbouring frames of the final latents.

    Raises:
        Unmeasurable: The frames of the latents cannot be told.
    """
    latents, folder = evidence.latents, evidence.subject.model.folder
    config = (read_json(folder / "vae" / "config.json", evidence.subject.model.name) or {}) if folder else {}
    axis = frame_axis(latents.shape, channels_of(config))
    if axis is None:
        shape = " x ".join(map(str, latents.shape))
        raise Unmeasurable(f"no axis of the final latents ({shape}) is known to be that of the frames")
    return energy_between(latents, axis)


def channels_of(config: object) -> int | None:
    """How many channels an autoencoder's configuration says its latents have; None if it does not."""
    get = getattr(config, "get", lambda name: None)
    return next((count for name in _CHANNELS if isinstance(count := get(name), int)), None)


def frame_axis(shape: Sequence[int], channels: int | None) -> int | None:
    """Which axis of latents of one clip counts its frames, when channels come first or second.

    Args:
        shape: (C, F, H, W), or (F, C, H, W) as CogVideoX and Stable Video Diffusion have it.
        channels: C.

    Returns:
        None for latents of pictures, for packed ones, and where both axes may be that of the channels.
    """
    if len(shape) != 4 or (shape[0] == channels) == (shape[1] == channels):
        return None
    return 1 if shape[0] == channels else 0


def energy_between(latents: npt.ArrayLike, axis: int) -> float:
    """Mean squared difference of neighbours along an axis.

    Raises:
        Unmeasurable: There is only one.
    """
    values = np.asarray(latents, dtype=np.float64)
    if values.shape[axis] < 2:
        raise Unmeasurable("all frames share one frame of the latents, which has no neighbour")
    return float(np.mean(np.square(np.diff(values, axis=axis))))
