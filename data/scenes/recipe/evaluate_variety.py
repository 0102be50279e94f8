"""Whether drawn scenes are new and vary: distances in latents against those of freshly painted scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


def nearest_distance(latents: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Return the L2 distance of each of n latents (n, c, h, w) to its nearest in the gallery (m, c, h, w)."""
    flat = latents.flatten(1).float()
    return torch.stack([torch.cdist(flat, part.flatten(1).float()).amin(1) for part in gallery.split(2000)]).amin(0)


def pair_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the L2 distance between the i-th latents of both."""
    return (first - second).flatten(1).norm(dim=1)


@dataclass(frozen=True)
class Variety:
    """Medians in latents of unit deviation, and what drawn ones are of painted ones.

    Args:
        made_nearest: distance of drawn scenes to the nearest training latent.
        painted_nearest: the same of scenes freshly painted to the same captions.
        made_seeds: distance between drawings of one prompt from two seeds.
        painted_seeds: the same of two painted scenes of one description.
    """

    made_nearest: float
    painted_nearest: float
    made_seeds: float
    painted_seeds: float

    @property
    def memory_ratio(self) -> float:
        """Below 0.9 the model would draw what it has seen rather than something new."""
        return self.made_nearest / self.painted_nearest

    @property
    def seed_ratio(self) -> float:
        """Near 1, seeds give as different pictures as the painter does."""
        return self.made_seeds / self.painted_seeds


def variety(made: list[torch.Tensor], painted: list[torch.Tensor], gallery: torch.Tensor) -> Variety:
    """Return the distances of drawn and painted latents, each given from two seeds, the i-th of the same caption."""
    return Variety(
        made_nearest=nearest_distance(made[0], gallery).median().item(),
        painted_nearest=nearest_distance(painted[0], gallery).median().item(),
        made_seeds=pair_distance(made[0], made[1]).median().item(),
        painted_seeds=pair_distance(painted[0], painted[1]).median().item(),
    )


def gallery_of(parts: list[np.ndarray], count: int) -> torch.Tensor:
    """Return the first `count` training latents of all shards (n, c, h, w)."""
    chosen, left = [], count
    for part in parts:
        chosen.append(torch.from_numpy(np.array(part[:left])))
        left -= len(chosen[-1])
        if left <= 0:
            break
    return torch.cat(chosen)
