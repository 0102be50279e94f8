"""The paths of several lanes on three shared principal components. Pure, no torch.

The components are those of the sketches of x0 at every step of every lane on one prompt and seed, about their mean,
each lane with the same weight whatever its number of steps. Distances between sketches are those of the latents to
about 6 %, so the picture is that of the latents themselves up to a few per cent; sketches make it possible without
storing each step.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

COMPONENTS = 3


@dataclass(frozen=True)
class Trajectories:
    """Paths of x0 on common axes.

    Attributes:
        points: Columns lane, step_index, progress, log_snr, pca_1, pca_2, pca_3; in units of the latents' L2 norm.
        explained: Share of the variance of all points explained by each component.
    """

    points: pd.DataFrame
    explained: tuple[float, ...]


def project(sketches: pd.DataFrame) -> Trajectories | None:
    """Projects sketched paths onto their first three principal components; None if nothing moves.

    Components are signed so that the end points have positive means.

    Args:
        sketches: Columns lane, step_index, progress, log_snr, sketch.
    """
    if sketches.empty:
        return None
    vectors = np.stack(sketches["sketch"].tolist())
    weights = 1 / sketches.groupby("lane")["step_index"].transform("size").to_numpy(dtype=np.float64)
    weights /= weights.sum()
    centred = vectors - weights @ vectors
    _, spread, axes = np.linalg.svd(centred * np.sqrt(weights)[:, None], full_matrices=False)
    total = float(np.square(spread).sum())
    if not total > 0:
        return None
    axes = axes[:COMPONENTS]
    ends = centred[sketches.groupby("lane")["step_index"].transform("max").to_numpy() == sketches["step_index"]]
    signs = np.where(axes @ ends.mean(axis=0) < 0, -1.0, 1.0)
    places = centred @ (axes * signs[:, None]).T
    places = np.pad(places, ((0, 0), (0, COMPONENTS - places.shape[1])))
    points = sketches.drop(columns="sketch").reset_index(drop=True)
    for number in range(COMPONENTS):
        points[f"pca_{number + 1}"] = places[:, number]
    shares = np.square(spread[:COMPONENTS]) / total
    return Trajectories(points, tuple(np.pad(shares, (0, COMPONENTS - len(shares)))))
